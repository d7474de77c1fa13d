"""What the core answers, as responses."""

from switchboard.v1 import errors_pb2, event_service_pb2, subscription_pb2
from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.listing import Page
from switchboard_server.core.publishing import Published
from switchboard_server.core.records import Drafts, assigned_id
from switchboard_server.core.subscription import CaughtUp, Gap, Heartbeat, Started
from switchboard_server.wire.codec import event_field, tagged, timestamp, varint

_NEXT_PAGE_TOKEN = b"\x12"


def accepted(event_id: str, sequence: int, time_ns: int) -> bytes:
    """The `PublishResponse` for an event that entered the log, joined as it is made most often."""
    return (
        tagged(b"\x0a", event_id.encode())
        + b"\x10"
        + varint(sequence)
        + tagged(b"\x22", timestamp(time_ns))
    )


def publish_error(error: SwitchboardError) -> event_service_pb2.PublishError:
    """An error of one event among several."""
    return event_service_pb2.PublishError(
        reason=errors_pb2.ErrorReason.Value(f"ERROR_REASON_{error.reason}"),
        field=error.violations[0].field if error.violations else "",
        message=error.message,
    )


def publish_results(
    drafts: Drafts, outcome: Published, log_id: str
) -> list[event_service_pb2.PublishResult]:
    """What became of each event of a call, in order."""
    results = []
    sequence = outcome.first
    later = set(outcome.scheduled)
    for index in range(len(drafts)):
        given = drafts.ids[index] if drafts.ids else ""
        result = event_service_pb2.PublishResult(id=given)
        if index in outcome.refused:
            result.error.CopyFrom(publish_error(outcome.refused[index]))
        elif index in outcome.duplicates:
            result.duplicate = True
            result.sequence = outcome.duplicates[index]
            result.scheduled = not result.sequence
        elif index in later:
            result.scheduled = True
        else:
            result.sequence = sequence
            result.id = given or assigned_id(log_id, sequence)
            sequence += 1
        results.append(result)
    return results


def publish_ack(
    request_id: int, drafts: Drafts, outcome: Published, log_id: str
) -> event_service_pb2.PublishAck:
    """What became of one request of a PublishStream."""
    ack = event_service_pb2.PublishAck(request_id=request_id)
    if outcome.accepted:
        ack.sequences.add(first=outcome.first, count=outcome.accepted)
    if not outcome.plain:
        plain = {*outcome.refused, *outcome.duplicates, *outcome.scheduled}
        for index, result in enumerate(publish_results(drafts, outcome, log_id)):
            if index in plain:
                ack.exceptions.add(index=index, result=result)
    return ack


def control(item: Started | Heartbeat | CaughtUp | Gap) -> bytes:
    """A word about a subscription."""
    response = subscription_pb2.SubscribeResponse()
    if isinstance(item, Started):
        response.started.position = item.position
        response.started.member_id = item.member_id
    elif isinstance(item, Heartbeat):
        response.heartbeat.position = item.position
    elif isinstance(item, CaughtUp):
        response.caught_up.position = item.position
    else:
        response.gap.from_sequence = item.first
        response.gap.to_sequence = item.last
    return response.SerializeToString()


def page(found: Page) -> bytes:
    """A `ListEventsResponse`."""
    events = b"".join(map(event_field, found.frames))
    if found.next_page_token:
        return events + tagged(_NEXT_PAGE_TOKEN, found.next_page_token.encode())
    return events

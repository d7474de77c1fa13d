"""Requests and responses of EventService, for every door: between messages and the core's terms."""

from dataclasses import dataclass

from switchboard.v1 import event_service_pb2, subscription_pb2
from switchboard_server.core.errors import (
    InvalidArgumentError,
    invalid_field,
)
from switchboard_server.core.events import (
    AfterSequence,
    AfterTime,
    Begin,
    Start,
)
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.hub import GroupWish
from switchboard_server.core.listing import Query
from switchboard_server.core.publishing import Published
from switchboard_server.core.records import Drafts, assigned_id
from switchboard_server.wire.decode import (
    decode_event,
    decode_filter,
    decode_heartbeat,
    decode_time,
    prefixed,
)
from switchboard_server.wire.group_messages import decode_group
from switchboard_server.wire.uniform import plain_event, uniform_route


@dataclass(frozen=True, slots=True)
class SubscribeWish:
    """What a subscriber asks for.

    Args:
        filter: Which events.
        start: Where to begin.
        heartbeat: Seconds of silence after which to say that the subscription lives.
        group: What it asks of a consumer group; None: it is of none.
    """

    filter: Filter
    start: Start
    heartbeat: float
    group: GroupWish | None


def decode_plain(raw: bytes, publisher: str) -> Drafts | None:
    """Drafts of a request with one event that is like one that came before, but for its payload.

    Args:
        raw: The bytes of a PublishRequest.
        publisher: Subject of the caller.

    Returns:
        The drafts, as `decode_publish` would have them; None: it has to be asked.
    """
    found = plain_event(raw)
    return None if found is None else Drafts([found[0]], found[1], publisher=publisher)


def decode_publish(request: event_service_pb2.PublishRequest, publisher: str) -> Drafts:
    """Drafts of a request with one event. May change the request.

    Args:
        request: The request.
        publisher: Subject of the caller.

    Raises:
        InvalidArgumentError: It has no event.
    """
    if not request.HasField("event"):
        raise invalid_field("event", "is required", reason="FIELD_MISSING")
    drafts = decode_event(request.event, publisher)
    uniform_route(
        drafts.bodies, drafts.lengths, request.event
    )  # So that the next one like it is known.
    return drafts


def published(
    request: event_service_pb2.PublishRequest, outcome: Published, log_id: str
) -> event_service_pb2.PublishResponse:
    """The response to a request with one event.

    Args:
        request: The request.
        outcome: What became of its event.
        log_id: Id of the log.

    Raises:
        SwitchboardError: The event was refused.
    """
    if outcome.refused:
        error = outcome.refused[0]
        raise prefixed(error, "event") if isinstance(error, InvalidArgumentError) else error
    sequence = outcome.first if outcome.plain else outcome.duplicates.get(0, 0)
    response = event_service_pb2.PublishResponse(
        id=request.event.id or assigned_id(log_id, sequence),
        sequence=sequence,
        duplicate=0 in outcome.duplicates,
        scheduled=not sequence,
    )
    if outcome.time_ns:
        response.publish_time.FromNanoseconds(outcome.time_ns)
    elif not outcome.duplicates:
        response.publish_time.CopyFrom(request.event.deliver_at)
    return response


def decode_subscribe(request: subscription_pb2.SubscribeRequest, peer: str) -> SubscribeWish:
    """What a request asks for.

    Args:
        request: The request.
        peer: The caller's network address.

    Raises:
        InvalidArgumentError: A field is not allowed.
    """
    return SubscribeWish(
        decode_filter(request.filter),
        _start(request),
        decode_heartbeat(request),
        decode_group(request, peer),
    )


def decode_list_events(request: event_service_pb2.ListEventsRequest) -> Query:
    """What a request asks for.

    Raises:
        InvalidArgumentError: A field is not allowed.
    """
    if request.order not in event_service_pb2.ListOrder.values():
        raise invalid_field("order", f"{request.order} is unknown; 1 (newest) or 2 (oldest)")
    query = Query(
        filter=decode_filter(request.filter),
        start_ns=decode_time(request.start_time, "start_time")
        if request.HasField("start_time")
        else None,
        end_ns=decode_time(request.end_time, "end_time") if request.HasField("end_time") else None,
        newest_first=request.order != event_service_pb2.LIST_ORDER_OLDEST_FIRST,
        page_size=request.page_size,
        page_token=request.page_token,
    )
    if query.start_ns is not None and query.end_ns is not None and query.end_ns < query.start_ns:
        raise invalid_field("end_time", "lies before start_time")
    return query


def _start(request: subscription_pb2.SubscribeRequest) -> Start:
    chosen = request.WhichOneof("start")
    if chosen == "after_sequence":
        return AfterSequence(request.after_sequence)
    if chosen == "after_time":
        return AfterTime(decode_time(request.after_time, "after_time"))
    if request.start_at not in subscription_pb2.StartAt.values():
        raise invalid_field("start_at", f"{request.start_at} is unknown; see StartAt")
    earliest = request.start_at == subscription_pb2.START_AT_EARLIEST
    return Begin.EARLIEST if earliest else Begin.LATEST

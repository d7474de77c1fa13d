"""What the core answers, as the messages that clients parse."""

import pytest

from switchboard.v1 import errors_pb2, event_pb2, event_service_pb2, subscription_pb2
from switchboard_server.core.errors import UnavailableError, invalid_field
from switchboard_server.core.filters import Route
from switchboard_server.core.listing import Page
from switchboard_server.core.publishing import Published
from switchboard_server.core.records import Drafts
from switchboard_server.core.subscription import CaughtUp, Gap, Heartbeat, Started
from switchboard_server.wire import encode
from switchboard_server.wire.codec import DeliveryCodec

ROUTE = Route("order.created", "shop", "", 2)
TIME = 1_700_000_000_123_456_789


def mixed() -> tuple[Drafts, Published]:
    """One event of every fate."""
    drafts = Drafts([b""] * 7, ROUTE, ids=["a", "", "c", "d", "e", "", "g"])
    outcome = Published(
        first=50,
        accepted=2,
        time_ns=TIME,
        duplicates={2: 7, 3: 0},
        scheduled=[4],
        refused={
            1: invalid_field("ttl", "is zero"),
            6: UnavailableError("LOG_UNAVAILABLE", "full"),
        },
    )
    return drafts, outcome


def test_every_event_of_a_batch_is_told_its_fate_in_order() -> None:
    results = encode.publish_results(*mixed(), "log")
    assert [each.id for each in results] == ["a", "", "c", "d", "e", "log-033", "g"]
    assert [each.sequence for each in results] == [50, 0, 7, 0, 0, 51, 0]
    assert [each.duplicate for each in results] == [False, False, True, True, False, False, False]
    assert [each.scheduled for each in results] == [False, False, False, True, True, False, False]
    errors = {number: each.error for number, each in enumerate(results) if each.HasField("error")}
    assert {number: (error.reason, error.field) for number, error in errors.items()} == {
        1: (errors_pb2.ERROR_REASON_INVALID_FIELD, "ttl"),
        6: (errors_pb2.ERROR_REASON_LOG_UNAVAILABLE, ""),
    }


def test_an_acknowledgement_tells_ranges_and_what_is_special() -> None:
    drafts, outcome = mixed()
    ack = encode.publish_ack(9, drafts, outcome, "log")
    assert ack.request_id == 9
    assert [(each.first, each.count) for each in ack.sequences] == [(50, 2)]
    assert [each.index for each in ack.exceptions] == [1, 2, 3, 4, 6]
    results = encode.publish_results(drafts, outcome, "log")
    assert all(each.result == results[each.index] for each in ack.exceptions)


def test_an_acknowledgement_of_plain_events_is_a_range_and_nothing_else() -> None:
    ack = encode.publish_ack(0, Drafts([b""] * 3, ROUTE), Published(7, 3, TIME), "log")
    wanted = event_service_pb2.PublishAck()
    wanted.sequences.add(first=7, count=3)
    assert ack == wanted
    nothing = Published(refused={0: invalid_field("ttl", "is zero")})
    assert not encode.publish_ack(1, Drafts([b""], ROUTE), nothing, "log").sequences


@pytest.mark.parametrize("sequence", [1, 127, 128, 1 << 40])
def test_a_single_accepted_event_is_answered(sequence: int) -> None:
    raw = encode.accepted("größe", sequence, TIME)
    response = event_service_pb2.PublishResponse.FromString(raw)
    assert (response.id, response.sequence) == ("größe", sequence)
    assert response.publish_time.ToNanoseconds() == TIME
    assert not response.duplicate
    assert not response.scheduled


def test_words_about_a_stream_are_its_control_messages() -> None:
    def parsed(item: Started | Heartbeat | CaughtUp | Gap) -> subscription_pb2.SubscribeResponse:
        return subscription_pb2.SubscribeResponse.FromString(encode.control(item))

    for item, name in (
        (Started(7), "started"),
        (Heartbeat(7), "heartbeat"),
        (CaughtUp(7), "caught_up"),
    ):
        response = parsed(item)
        assert response.WhichOneof("control") == name
        assert getattr(response, name).position == 7
        assert not response.deliveries
    assert parsed(Started(0)).HasField("started")
    gap = parsed(Gap(3, 9)).gap
    assert (gap.from_sequence, gap.to_sequence) == (3, 9)


def test_a_page_is_a_response_of_events_and_a_token() -> None:
    codec = DeliveryCodec()
    codec.log_id = "log"
    bodies = [event_pb2.Event(text="x" * size).SerializeToString() for size in (1, 200, 70_000)]
    pieces, sizes = codec.encode(Drafts(bodies, ROUTE), 1, TIME)
    data, frames = b"".join(pieces), []
    for size in sizes:
        frames.append(data[:size])
        data = data[size:]
    raw = encode.page(Page(frames[::-1], "token" * 50))
    response = event_service_pb2.ListEventsResponse.FromString(raw)
    assert [len(event.text) for event in response.events] == [70_000, 200, 1]
    assert [event.sequence for event in response.events] == [3, 2, 1]
    assert response.next_page_token == "token" * 50
    assert encode.page(Page()) == b""

"""Publishing over gRPC: one event, a batch, and a stream of batches."""

import time
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from switchboard.v1 import errors_pb2
from switchboard.v1.event_pb2 import (
    PRIORITY_CRITICAL,
    PRIORITY_LOW,
    PRIORITY_NORMAL,
    Event,
    Filter,
)
from switchboard.v1.event_service_pb2 import (
    LIST_ORDER_OLDEST_FIRST,
    PublishAck,
    PublishStreamRequest,
    PublishStreamResponse,
)
from tests.integration.client import (
    Client,
    Failure,
    Stream,
    an_event,
    as_sent,
    failing,
    failure_of,
    numbered,
    texts,
)
from tests.integration.hubs import MEMORY, connect, running


async def acks(stream: Stream, count: int) -> list[PublishAck]:
    """The next acknowledgements of a stream."""
    found: list[PublishAck] = []
    while len(found) < count:
        response = await stream.read()
        assert isinstance(response, PublishStreamResponse)
        assert response.acks
        found += response.acks
    assert len(found) == count
    return found


async def ended(stream: Stream) -> None:
    """Waits for the good end of a stream that has nothing more to say."""
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


def sequences(ack: PublishAck) -> list[int]:
    return [n for part in ack.sequences for n in range(part.first, part.first + part.count)]


def in_the_past() -> Timestamp:
    return Timestamp(seconds=int(time.time()) - 3600)


def in_an_hour() -> Timestamp:
    return Timestamp(seconds=int(time.time()) + 3600)


@pytest.mark.parametrize(
    "due", [in_the_past(), Timestamp(seconds=-62_135_596_800)], ids=["lately", "in year 1"]
)
async def test_an_event_is_answered_with_its_place_and_listed_as_it_was_sent(
    client: Client, kind: str, due: Timestamp
) -> None:
    event = an_event(
        kind,
        target_service="billing",
        content_type="application/json",
        attributes={"tenant": "a", "empty": ""},
        priority=PRIORITY_CRITICAL,
        ordering_key="customer-7",
        correlation_id="request-9",
        ttl=Duration(seconds=3600),
        deliver_at=due,
    )
    event.data.update({"order": 1, "lines": [{"sku": "é"}, None, True]})
    before = time.time_ns()
    answer = await client.publish(event)
    (listed,) = (await client.list_events(kind)).events
    assert as_sent(listed) == event
    assert (listed.id, listed.sequence) == (answer.id, answer.sequence)
    assert listed.publish_time == answer.publish_time
    assert before <= listed.publish_time.ToNanoseconds() <= time.time_ns()
    assert not answer.duplicate
    assert not answer.scheduled
    assert not listed.publisher


async def test_ids_that_the_hub_gives_are_unique_and_sequences_grow_by_one(
    client: Client, kind: str
) -> None:
    answers = [await client.publish(event) for event in numbered(kind, 5)]
    first = answers[0].sequence
    assert [answer.sequence for answer in answers] == list(range(first, first + 5))
    assert len({answer.id for answer in answers}) == 5


async def test_what_only_the_hub_sets_is_ignored_in_requests(client: Client, kind: str) -> None:
    then = Timestamp(seconds=1, nanos=5)
    forged = an_event(kind, sequence=7, publisher="root", publish_time=then)
    await client.publish(forged)
    await client.publish_batch([forged, an_event(kind)])
    events = (await client.list_events(kind, order=LIST_ORDER_OLDEST_FIRST)).events
    assert len(events) == 3
    for event in events:
        assert not event.publisher
        assert event.publish_time.seconds > 1
    assert events[2].sequence == events[1].sequence + 1 == events[0].sequence + 2


async def test_an_event_without_a_priority_is_normal(client: Client, kind: str) -> None:
    wish = Filter(types=[kind], min_priority=PRIORITY_NORMAL)
    async with client.subscribe(filter=wish) as subscriber:
        await client.publish(an_event(kind, priority=PRIORITY_LOW))
        await client.publish(an_event(kind, text="unspecified"))
        assert texts(await subscriber.events(1)) == ["unspecified"]


@pytest.mark.parametrize("later", [False, True], ids=["now", "scheduled"])
async def test_an_id_published_again_is_answered_with_the_first_result_and_stored_once(
    client: Client, kind: str, later: bool
) -> None:
    event = an_event(kind, kind, id="one", text="first", deliver_at=in_an_hour() if later else None)
    first = await client.publish(event)
    event.text = "second"
    again = await client.publish(event)
    assert (first.duplicate, again.duplicate) == (False, True)
    assert (again.id, again.sequence, again.scheduled) == ("one", first.sequence, later)
    assert texts((await client.list_events(kind)).events) == ([] if later else ["first"])


async def test_an_id_belongs_to_its_source(client: Client, kind: str) -> None:
    one = await client.publish(an_event(kind, f"{kind}-a", id="same"))
    other = await client.publish(an_event(kind, f"{kind}-b", id="same"))
    assert other.sequence == one.sequence + 1
    assert not other.duplicate


async def test_a_duplicate_tells_when_the_event_entered_the_log(client: Client, kind: str) -> None:
    first = await client.publish(an_event(kind, id="timed"))
    again = await client.publish(an_event(kind, id="timed"))
    assert again.duplicate
    assert again.publish_time == first.publish_time


async def test_a_batch_keeps_its_order_and_answers_for_each(client: Client, kind: str) -> None:
    results = await client.publish_batch(numbered(kind, 1000))
    first = results[0].sequence
    assert [result.sequence for result in results] == list(range(first, first + 1000))
    assert not any(result.HasField("error") or result.duplicate for result in results)
    page = await client.list_events(kind, order=LIST_ORDER_OLDEST_FIRST, page_size=1000)
    assert texts(page.events) == [str(number) for number in range(1000)]
    assert [event.id for event in page.events] == [result.id for result in results]


async def test_in_a_batch_the_good_are_accepted_and_the_bad_reported_each(
    client: Client, kind: str
) -> None:
    results = await client.publish_batch(
        [
            an_event(kind, text="a"),
            an_event("", text="no type"),
            an_event(kind, text="b", id="given"),
            an_event(kind, "", text="no source"),
            an_event(kind, text="c", ordering_key="k" * 256),
            an_event(kind, text="d", ttl=Duration(seconds=-1)),
            an_event(kind, text="e", deliver_at=in_an_hour()),
            an_event(kind, text="f", id="given"),
            an_event(kind, text="g" * (1024 * 1024)),
            an_event(kind, text="h"),
        ]
    )
    first = results[0].sequence
    sequence = [result.sequence for result in results]
    assert sequence == [first, 0, first + 1, 0, 0, 0, 0, first + 1, 0, first + 2]
    refused = {index: each.error for index, each in enumerate(results) if each.HasField("error")}
    assert {index: (error.field, error.reason) for index, error in refused.items()} == {
        1: ("type", errors_pb2.ERROR_REASON_FIELD_MISSING),
        3: ("source_service", errors_pb2.ERROR_REASON_FIELD_MISSING),
        4: ("ordering_key", errors_pb2.ERROR_REASON_TOO_LARGE),
        5: ("ttl", errors_pb2.ERROR_REASON_INVALID_FIELD),
        8: ("", errors_pb2.ERROR_REASON_TOO_LARGE),
    }
    assert all(error.message for error in refused.values())
    assert [index for index, each in enumerate(results) if each.scheduled] == [6]
    assert [index for index, each in enumerate(results) if each.duplicate] == [7]
    events = (await client.list_events(kind, order=LIST_ORDER_OLDEST_FIRST)).events
    assert texts(events) == ["a", "b", "h"]
    assert [event.id for event in events] == [results[i].id for i in (0, 2, 9)]


async def test_a_refused_event_can_be_mended_and_published_under_its_id(
    client: Client, kind: str
) -> None:
    bad = an_event(kind, id="mended", ttl=Duration(seconds=-1))
    (refused,) = await client.publish_batch([bad])
    assert refused.HasField("error")
    bad.ClearField("ttl")
    (accepted,) = await client.publish_batch([bad])
    assert accepted.sequence
    assert not accepted.duplicate


async def test_results_of_refused_events_bear_the_ids_that_were_sent(
    client: Client, kind: str
) -> None:
    results = await client.publish_batch(
        [
            an_event("", id="no-type"),
            an_event(kind, id="bad-ttl", ttl=Duration(seconds=-1)),
            an_event(kind, id="good"),
        ]
    )
    assert [result.id for result in results] == ["no-type", "bad-ttl", "good"]


async def test_the_same_id_twice_in_one_batch_is_stored_once(client: Client, kind: str) -> None:
    results = await client.publish_batch(
        [an_event(kind, id="twin", text="first"), an_event(kind, id="twin", text="second")]
    )
    assert [result.duplicate for result in results] == [False, True]
    assert results[0].sequence == results[1].sequence
    assert texts((await client.list_events(kind)).events) == ["first"]


async def test_a_stream_acknowledges_pipelined_requests_in_order(client: Client, kind: str) -> None:
    stream = client.publish_stream()
    for number in range(300):
        await stream.write(
            PublishStreamRequest(request_id=1000 + number, events=numbered(kind, 5, 5 * number))
        )
    await stream.done_writing()
    answered = await acks(stream, 300)
    await ended(stream)
    assert [ack.request_id for ack in answered] == list(range(1000, 1300))
    assert not any(ack.exceptions for ack in answered)
    given = [sequence for ack in answered for sequence in sequences(ack)]
    assert given == list(range(given[0], given[0] + 1500))
    page = await client.list_events(kind, order=LIST_ORDER_OLDEST_FIRST, page_size=1000)
    rest = await client.list_events(
        kind, order=LIST_ORDER_OLDEST_FIRST, page_token=page.next_page_token, page_size=1000
    )
    assert texts([*page.events, *rest.events]) == [str(number) for number in range(1500)]


async def test_a_stream_answers_a_request_before_the_next_is_sent(
    client: Client, kind: str
) -> None:
    stream = client.publish_stream()
    for number in range(3):
        await stream.write(PublishStreamRequest(request_id=7, events=numbered(kind, 1)))
        (ack,) = await acks(stream, 1)
        assert (ack.request_id, len(sequences(ack))) == (7, 1), number
    await stream.done_writing()
    await ended(stream)


async def test_a_stream_reports_what_was_not_simply_accepted(client: Client, kind: str) -> None:
    known = await client.publish(an_event(kind, id="known"))
    stream = client.publish_stream()
    await stream.write(
        PublishStreamRequest(
            request_id=1,
            events=[
                an_event(kind, text="a"),
                an_event(kind, id="known"),
                an_event(kind, content_type="c" * 256),
                an_event(kind, id="later", deliver_at=in_an_hour()),
                an_event(kind, text="b"),
            ],
        )
    )
    await stream.done_writing()
    (ack,) = await acks(stream, 1)
    await ended(stream)
    assert len(sequences(ack)) == 2
    duplicate, refused, scheduled = ack.exceptions
    assert [each.index for each in ack.exceptions] == [1, 2, 3]
    assert (duplicate.result.duplicate, duplicate.result.sequence) == (True, known.sequence)
    assert refused.result.error.reason == errors_pb2.ERROR_REASON_TOO_LARGE
    assert refused.result.error.field == "content_type"
    assert (scheduled.result.scheduled, scheduled.result.id) == (True, "later")
    events = (await client.list_events(kind, order=LIST_ORDER_OLDEST_FIRST)).events
    assert [event.sequence for event in events[1:]] == sequences(ack)


async def test_a_stream_without_requests_ends_well(client: Client) -> None:
    stream = client.publish_stream()
    await stream.done_writing()
    await ended(stream)


async def test_an_empty_request_ends_a_stream_after_what_came_before_is_answered(
    client: Client, kind: str
) -> None:
    stream = client.publish_stream()
    await stream.write(PublishStreamRequest(request_id=1, events=numbered(kind, 2)))
    await stream.write(PublishStreamRequest(request_id=2))
    (ack,) = await acks(stream, 1)
    assert (ack.request_id, len(sequences(ack))) == (1, 2)
    failure = await failing(stream.read())
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "FIELD_MISSING",
    )
    assert failure.fields == ["events"]


async def test_a_request_without_events_is_refused(client: Client) -> None:
    def missing(failure: Failure, field: str) -> bool:
        return (failure.code, failure.reason, failure.fields) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "FIELD_MISSING",
            [field],
        )

    assert missing(await failing(client.raw("EventService/Publish", b"")), "event")
    assert missing(await failing(client.publish(Event())), "event.type")
    assert missing(await failing(client.publish_batch([])), "events")


async def test_events_of_a_cancelled_stream_that_were_answered_stay(
    client: Client, kind: str
) -> None:
    stream = client.publish_stream()
    await stream.write(PublishStreamRequest(events=numbered(kind, 3)))
    (ack,) = await acks(stream, 1)
    stream.cancel()
    events = (await client.list_events(kind, order=LIST_ORDER_OLDEST_FIRST)).events
    assert [event.sequence for event in events] == sequences(ack)


async def test_ids_are_remembered_over_a_restart(tmp_path: Path) -> None:
    soon = Timestamp(seconds=int(time.time()) + 3600)
    events = [
        an_event(id="now", text="first"),
        an_event(id="later", deliver_at=soon),
        an_event(source="other", id="now"),
        an_event(id="fresh"),
    ]
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            before = await client.publish_batch(events[:3])
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            after = await client.publish_batch(events)
            assert texts((await client.list_events(order=LIST_ORDER_OLDEST_FIRST)).events) == [
                "first",
                "",
                "",
            ]
    assert [result.duplicate for result in after] == [True, True, True, False]
    assert [result.sequence for result in after[:3]] == [result.sequence for result in before]
    assert after[1].scheduled
    assert after[3].sequence == before[2].sequence + 1


async def test_an_id_is_forgotten_when_the_window_has_passed(tmp_path: Path) -> None:
    with running(tmp_path, {**MEMORY, "SWITCHBOARD_IDEMPOTENCY_SECONDS": "1"}) as hub:
        async with connect(hub) as client:
            first = await client.publish(an_event(id="again"))
            # A scheduled event is the clock: when it comes, the window has passed.
            due = Timestamp()
            due.FromNanoseconds(first.publish_time.ToNanoseconds() + 1_100_000_000)
            async with client.subscribe("alarm") as subscriber:
                await client.publish(an_event("alarm", deliver_at=due))
                await subscriber.events(1)
            second = await client.publish(an_event(id="again"))
    assert not second.duplicate
    assert second.sequence > first.sequence


async def test_a_failed_call_is_told_to_the_reader_of_a_stream(tmp_path: Path) -> None:
    with running(tmp_path, MEMORY) as hub:
        async with connect(hub) as client:
            stream = client.publish_stream()
            await stream.write(PublishStreamRequest(events=numbered("order.created", 1)))
            await acks(stream, 1)
            assert hub.terminate() == 0
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            failure = failure_of(caught.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")

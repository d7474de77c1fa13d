"""What time does to a subscription: heartbeats, expiry, scheduled events, and retention."""

import time
from pathlib import Path

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from switchboard.v1.event_pb2 import Event
from switchboard.v1.event_service_pb2 import LIST_ORDER_OLDEST_FIRST
from switchboard.v1.subscription_pb2 import START_AT_EARLIEST, START_AT_LATEST
from tests.integration.client import Client, an_event, numbered, texts
from tests.integration.hubs import MEMORY, connect, running

SECOND_NS = 1_000_000_000


def at(time_ns: int) -> Timestamp:
    moment = Timestamp()
    moment.FromNanoseconds(time_ns)
    return moment


def after(seconds: float) -> Timestamp:
    return at(time.time_ns() + int(seconds * SECOND_NS))


async def wait(client: Client, seconds: float) -> None:
    """Waits by the hub's clock: for an event that it is to deliver then."""
    alarm = f"alarm{time.monotonic_ns()}"
    async with client.subscribe(alarm) as subscriber:
        await client.publish(an_event(alarm, deliver_at=after(seconds)))
        await subscriber.events(1)


async def test_a_silent_stream_says_that_it_lives_and_from_where_to_resume(
    client: Client, kind: str
) -> None:
    interval = Duration(seconds=1)
    async with client.subscribe(kind, heartbeat_interval=interval) as subscriber:
        passed = await client.publish(an_event(f"{kind}-unwanted"))
        response = await subscriber.next()
        assert response.heartbeat.position == passed.sequence
        again = await subscriber.next()
        assert again.heartbeat.position == passed.sequence
        await client.publish(an_event(kind, text="awake"))
        assert texts(await subscriber.events(1)) == ["awake"]
    resumed = client.subscribe(kind, after_sequence=response.heartbeat.position)
    async with resumed as subscriber:
        assert texts(await subscriber.until_caught_up()) == ["awake"]


async def test_a_heartbeat_comes_only_where_nothing_else_does(client: Client, kind: str) -> None:
    async with (
        client.subscribe(kind, heartbeat_interval=Duration(seconds=1)) as busy,
        client.subscribe(heartbeat_interval=Duration(seconds=60)) as clock,
    ):
        start = time.time_ns()
        due = [at(start + step * SECOND_NS // 2) for step in range(1, 6)]
        await client.publish_batch([an_event(kind, deliver_at=each) for each in due])
        # `events` admits no word in between.
        assert len(await busy.events(5)) == 5
        assert len(await clock.events(5)) == 5


async def test_an_expired_event_is_neither_delivered_nor_listed(client: Client, kind: str) -> None:
    short, long = Duration(nanos=50_000_000), Duration(seconds=3600)
    await client.publish_batch(
        [
            an_event(kind, text="0"),
            an_event(kind, text="expired", ttl=short),
            an_event(kind, text="1", ttl=long),
        ]
    )
    await client.publish(an_event(kind, text="expired alone", ttl=short))
    await wait(client, 0.2)
    async with client.subscribe(kind, start_at=START_AT_EARLIEST) as subscriber:
        assert texts(await subscriber.until_caught_up()) == ["0", "1"]
    for order, expected in ((LIST_ORDER_OLDEST_FIRST, ["0", "1"]), (0, ["1", "0"])):
        assert texts((await client.list_events(kind, order=order)).events) == expected


async def test_an_event_that_lives_briefly_reaches_who_is_there(client: Client, kind: str) -> None:
    async with client.subscribe(kind) as subscriber:
        await client.publish(an_event(kind, text="brief", ttl=Duration(seconds=20)))
        assert texts(await subscriber.events(1)) == ["brief"]


async def test_a_scheduled_event_comes_at_its_time_and_in_the_order_of_the_times(
    client: Client, kind: str
) -> None:
    start = time.time_ns()
    due = {"third": 900, "first": 300, "second": 600}
    async with client.subscribe(kind) as subscriber:
        for text, milliseconds in due.items():
            moment = at(start + milliseconds * 1_000_000)
            answer = await client.publish(an_event(kind, text=text, deliver_at=moment))
            assert (answer.scheduled, answer.sequence) == (True, 0)
            assert answer.publish_time == moment
            assert answer.id
        await client.publish(an_event(kind, text="at once"))
        events = await subscriber.events(4)
    assert texts(events) == ["at once", "first", "second", "third"]
    for event in events[1:]:
        assert event.publish_time.ToNanoseconds() >= event.deliver_at.ToNanoseconds()
        assert event.deliver_at.ToNanoseconds() == start + due[event.text] * 1_000_000
    sequences = [event.sequence for event in events]
    assert sequences == sorted(set(sequences))


async def test_a_scheduled_event_is_not_listed_before_its_time(client: Client, kind: str) -> None:
    async with client.subscribe(kind) as subscriber:
        answer = await client.publish(an_event(kind, id="due", deliver_at=after(0.5)))
        assert not (await client.list_events(kind)).events
        (event,) = await subscriber.events(1)
    assert event.id == answer.id == "due"
    assert (await client.list_events(kind)).events == [event]


async def test_the_ttl_of_a_scheduled_event_begins_when_it_enters_the_log(
    client: Client, kind: str
) -> None:
    async with client.subscribe(kind) as subscriber:
        event = an_event(kind, deliver_at=after(1.5), ttl=Duration(seconds=1, nanos=400_000_000))
        await client.publish(event)
        assert len(await subscriber.events(1)) == 1


async def test_scheduled_events_survive_a_kill(tmp_path: Path) -> None:
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            await client.publish_batch(
                [
                    an_event(text="overdue", deliver_at=after(0.2)),
                    an_event(text="due", id="mine", deliver_at=after(3)),
                    an_event(text="now"),
                ]
            )
        hub.kill()
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            async with client.subscribe(start_at=START_AT_EARLIEST) as subscriber:
                received: list[Event] = []
                while len(received) < 3:
                    received += [each.event for each in (await subscriber.next()).deliveries]
            listed = (await client.list_events(order=LIST_ORDER_OLDEST_FIRST)).events
    assert texts(received) == ["now", "overdue", "due"]
    assert received[2].id == "mine"
    assert received[2].publish_time.ToNanoseconds() >= received[2].deliver_at.ToNanoseconds()
    assert list(listed) == received


async def test_what_retention_has_removed_is_told_as_a_gap(tmp_path: Path) -> None:
    second = {"SWITCHBOARD_RETENTION_SECONDS": "1", "SWITCHBOARD_IDEMPOTENCY_SECONDS": "1"}
    with running(tmp_path, {**MEMORY, **second}) as hub:
        async with connect(hub) as client:
            results = await client.publish_batch(numbered("order.created", 10))
            await wait(client, 3)
            await client.publish(an_event(text="new"))
            async with client.subscribe("order.created", after_sequence=4) as subscriber:
                gap = (await subscriber.next()).gap
                assert texts(await subscriber.until_caught_up()) == ["new"]
            assert gap.from_sequence == 5
            assert gap.to_sequence >= results[-1].sequence
            async with client.subscribe("order.created", start_at=START_AT_EARLIEST) as subscriber:
                # Who asks for what is retained misses nothing.
                assert subscriber.position >= results[-1].sequence
                assert texts(await subscriber.until_caught_up()) == ["new"]
            async with client.subscribe("order.created", start_at=START_AT_LATEST) as subscriber:
                await client.publish(an_event(text="newest"))
                assert texts(await subscriber.events(1)) == ["newest"]
            assert texts((await client.list_events("order.created")).events) == ["newest", "new"]


async def test_retention_by_size_removes_the_oldest(tmp_path: Path) -> None:
    with running(tmp_path, {**MEMORY, "SWITCHBOARD_RETENTION_BYTES": "100000"}) as hub:
        async with connect(hub) as client:
            for start in range(100):
                await client.publish(an_event(text=str(start) + "." * 5000))
            await wait(client, 2)
            async with client.subscribe(after_sequence=0) as subscriber:
                gap = (await subscriber.next()).gap
                events = await subscriber.until_caught_up()
    assert gap.from_sequence == 1
    # The alarm is the 101st.
    assert [event.sequence for event in events] == list(range(gap.to_sequence + 1, 102))
    assert 10 <= len(events) <= 21

"""The hub: what clients can do, and what it counts."""

import asyncio
from collections.abc import Sequence

import pytest

from switchboard_server.backends.embedded.log import EmbeddedLog
from switchboard_server.backends.embedded.memory import MemoryStore
from switchboard_server.backends.embedded.store import Retention, StoreError
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import (
    InvalidArgumentError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SwitchboardError,
    UnavailableError,
)
from switchboard_server.core.events import (
    AfterSequence,
    AfterTime,
    Begin,
    EventHub,
    Limits,
    Start,
    check_scope,
)
from switchboard_server.core.filters import EVERYTHING, Filter
from switchboard_server.core.heartbeats import HEARTBEAT_BOUNDS
from switchboard_server.core.listing import Query
from switchboard_server.core.ports import LogListener, RecentId, Window
from switchboard_server.core.principal import Principal
from switchboard_server.core.publishing import PublishLimits
from switchboard_server.core.records import Extra, build_batches
from switchboard_server.core.subscription import CaughtUp, Gap, Heartbeat, Started
from switchboard_server.core.tail import MATCH_BYTES, Chunk
from tests.support.events import PlainCodec, bodies, numbered, some
from tests.support.logs import ScriptedLog, memory_hub
from tests.support.loop import EPOCH_NS, manual_loop, passing, turns

SECOND_LATER = EPOCH_NS + SECOND_NS


async def received(hub: EventHub, start: Start) -> tuple[int, list[str]]:
    """Where a subscription begins, and what it is given at once."""
    subscription = await hub.subscribe(EVERYTHING, start)
    try:
        started = await subscription.next()
        assert isinstance(started, Started)
        found: list[str] = []
        while True:
            task = asyncio.create_task(subscription.next())
            await turns()
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
                return started.position, found
            item = task.result()
            if isinstance(item, Chunk):
                found += bodies(item.frames)
    finally:
        hub.unsubscribe(subscription)


@pytest.mark.parametrize(
    ("start", "position"),
    [
        (Begin.LATEST, 4),
        (Begin.EARLIEST, 0),
        (AfterSequence(0), 0),
        (AfterSequence(3), 3),
        (AfterSequence(4), 4),
        (AfterTime(0), 0),
        (AfterTime(EPOCH_NS - 1), 0),
        (AfterTime(EPOCH_NS), 2),
        (AfterTime(SECOND_LATER - 1), 2),
        (AfterTime(SECOND_LATER), 4),
    ],
)
async def test_a_subscription_begins_where_it_is_told_to(start: Start, position: int) -> None:
    async with memory_hub() as (hub, _):
        await hub.publish(numbered(2))
        manual_loop().advance(1)
        await hub.publish(numbered(2, 2))
        assert await received(hub, start) == (position, list("0123")[position:])


async def test_a_time_to_come_is_refused_and_one_that_the_log_has_reached_is_not() -> None:
    async with memory_hub() as (hub, _):
        with pytest.raises(InvalidArgumentError, match="START_AT_LATEST") as caught:
            await hub.subscribe(EVERYTHING, AfterTime(EPOCH_NS + 1))
        assert [each.field for each in caught.value.violations] == ["after_time"]
        manual_loop().advance(1)
        await hub.publish(numbered(2))
        manual_loop().advance(-1)  # Somebody sets the clock back.
        assert await received(hub, AfterTime(SECOND_LATER)) == (2, [])
        assert await received(hub, AfterTime(SECOND_LATER - 1)) == (0, ["0", "1"])
        with pytest.raises(InvalidArgumentError):
            await hub.subscribe(EVERYTHING, AfterTime(SECOND_LATER + 1))


async def test_the_earliest_is_the_oldest_that_is_retained() -> None:
    async with memory_hub(retention=Retention(age_ns=SECOND_NS)) as (hub, _):
        await hub.publish(numbered(2))
        manual_loop().advance(0.5)
        await hub.publish(numbered(2, 2))
        await passing(0.75)
        assert await received(hub, Begin.EARLIEST) == (2, ["2", "3"])


async def test_a_position_of_another_log_is_out_of_range() -> None:
    async with memory_hub() as (hub, _):
        await hub.publish(numbered(2))
        with pytest.raises(OutOfRangeError) as caught:
            await hub.subscribe(EVERYTHING, AfterSequence(3))
        assert caught.value.reason == "SEQUENCE_OUT_OF_RANGE"
        assert caught.value.metadata == {"last_sequence": "2"}
        assert hub.stats().subscribers == 0


async def test_a_hub_that_is_cut_off_does_not_say_that_a_position_is_of_another_log() -> None:
    log = ScriptedLog()
    hub = EventHub(log, Limits(max_lag=2))
    await hub.open()

    async def asked(*wait: float) -> asyncio.Task[int]:
        task = asyncio.create_task(hub.position(AfterSequence(3)))
        await turns()
        for each in wait:
            await passing(each)
        return task

    hub.availability_changed("RabbitMQ is away")
    task = await asked(2)
    with pytest.raises(UnavailableError, match=r"RabbitMQ is away; .* up to 0, not 3") as caught:
        await task
    assert caught.value.reason == "LOG_UNAVAILABLE"

    # What it missed gets its time when the log is there again, however short it was away.
    for interruption in (("away", None), (None,)):
        task = await asked(1)
        for problem in interruption:
            hub.availability_changed(problem)
        await passing(1)
        assert not task.done()
        await passing(2)
        with pytest.raises(OutOfRangeError):
            await task
        hub.availability_changed("away")
    hub.availability_changed(None)
    task = await asked(1)
    log.window = Window(1, 3)
    hub.appended(build_batches([numbered(3)], 1, EPOCH_NS, PlainCodec()))
    assert await task == 3


@pytest.mark.parametrize("heartbeat", [0.0, 0.999, 3600.1, -5.0, float("nan"), float("inf")])
async def test_a_heartbeat_beyond_its_bounds_is_refused(heartbeat: float) -> None:
    async with memory_hub() as (hub, _):
        with pytest.raises(InvalidArgumentError) as caught:
            await hub.subscribe(EVERYTHING, heartbeat=heartbeat)
        assert caught.value.violations[0].field == "heartbeat_interval"


@pytest.mark.parametrize("heartbeat", HEARTBEAT_BOUNDS)
async def test_the_heartbeat_asked_for_is_the_one_that_comes(heartbeat: float) -> None:
    async with memory_hub() as (hub, _):
        subscription = await hub.subscribe(EVERYTHING, heartbeat=heartbeat)
        await subscription.next()
        task = asyncio.create_task(subscription.next())
        await passing(heartbeat - 0.001)
        assert not task.done()
        await passing(0.001)
        assert task.result() == Heartbeat(0)
        hub.unsubscribe(subscription)


async def test_bad_filters_are_refused_by_subscriptions_and_listings() -> None:
    async with memory_hub() as (hub, _):
        with pytest.raises(InvalidArgumentError, match=r"filter\.types"):
            await hub.subscribe(Filter(types=("a*b",)))
        with pytest.raises(InvalidArgumentError, match=r"filter\.types"):
            await hub.list_events(Query(Filter(types=("a*b",))))


async def test_readers_stay_within_their_scope() -> None:
    shop = Principal("shop", ["events.subscribe:order.*", "events.view:order.*"])
    within = Filter(types=("order.created", "order.p*"))
    async with memory_hub() as (hub, _):
        await hub.publish(numbered(1))
        subscription = await hub.subscribe(within, principal=shop)
        hub.unsubscribe(subscription)
        assert (await hub.list_events(Query(within), shop)).frames
        for outside in (
            EVERYTHING,
            Filter(types=("order.created", "user.*")),
            Filter(types=("*",)),
        ):
            with pytest.raises(
                PermissionDeniedError, match=r"list filter\.types within your scope"
            ):
                await hub.subscribe(outside, principal=shop)
            with pytest.raises(PermissionDeniedError):
                await hub.list_events(Query(outside), shop)


def test_who_lacks_a_permission_may_not_read_at_all() -> None:
    nobody = Principal("nobody", [])
    with pytest.raises(PermissionDeniedError) as caught:
        check_scope(nobody, "events.view", EVERYTHING)
    assert caught.value.metadata == {"permission": "events.view"}
    check_scope(Principal("all", ["events.view"]), "events.view", EVERYTHING)


async def test_there_are_so_many_subscriptions_at_a_time() -> None:
    async with memory_hub(Limits(max_subscriptions=2)) as (hub, _):
        first = await hub.subscribe(EVERYTHING)
        second = await hub.subscribe(EVERYTHING)
        with pytest.raises(ResourceExhaustedError) as caught:
            await hub.subscribe(EVERYTHING)
        assert caught.value.reason == "LIMIT_REACHED"
        assert caught.value.metadata == {"limit": "2", "setting": "SWITCHBOARD_MAX_SUBSCRIPTIONS"}
        hub.unsubscribe(first)
        hub.unsubscribe(first)
        third = await hub.subscribe(EVERYTHING)
        for each in (second, third):
            hub.unsubscribe(each)
        assert hub.stats().subscribers == 0


async def test_the_limit_holds_for_those_who_come_at_the_same_time() -> None:
    class Slow(ScriptedLog):
        async def sequence_before(self, time_ns: int) -> int:
            await turns(2)
            return 0

    hub = EventHub(Slow(), Limits(max_subscriptions=1))
    await hub.open()
    outcomes = await asyncio.gather(
        *(hub.subscribe(EVERYTHING, AfterTime(0)) for _ in range(3)), return_exceptions=True
    )
    assert sum(isinstance(each, ResourceExhaustedError) for each in outcomes) == 2


async def test_subscribers_get_what_is_published_after_they_started() -> None:
    async with memory_hub() as (hub, _):
        subscription = await hub.subscribe(EVERYTHING)
        assert await subscription.next() == Started(0)
        await hub.publish(numbered(3))
        item = await subscription.next()
        assert isinstance(item, Chunk)
        assert bodies(item.frames) == ["0", "1", "2"]
        hub.unsubscribe(subscription)


async def test_a_scheduled_event_comes_when_its_time_has_come() -> None:
    async with memory_hub() as (hub, _):
        later = {0: Extra(deliver_at_ns=EPOCH_NS + 5 * SECOND_NS)}
        outcome = await hub.publish(some("later", ids=["1"], extras=later))
        assert list(outcome.scheduled) == [0]
        await passing(4.999)
        assert hub.log.window == Window(1, 0)
        await passing(0.001)
        page = await hub.list_events(Query())
        assert bodies(page.frames) == ["later"]
        again = await hub.publish(some("later", ids=["1"], extras=later))
        assert again.duplicates == {0: 1}
        assert (hub.stats().published, hub.stats().scheduled, hub.stats().duplicates) == (1, 1, 1)


async def test_a_duplicate_of_a_scheduled_event_is_told_where_it_stands_once_it_does() -> None:
    window = PublishLimits(idempotency_ns=60 * SECOND_NS)
    async with memory_hub(Limits(window)) as (hub, _):
        due = EPOCH_NS + 5 * SECOND_NS
        first = some("1", "2", ids=["1", ""], extras={n: Extra(deliver_at_ns=due) for n in (0, 1)})
        await hub.publish(first)
        await hub.publish(some("now"))
        await passing(4)
        assert (await hub.publish(some("1", ids=["1"]))).duplicates == {0: 0}
        await passing(1)
        again = await hub.publish(some("1", ids=["1"]))
        assert (again.duplicates, again.time_ns) == ({0: 2}, due)
        # From when it entered the log the window is as wide as for any other event.
        await passing(59)
        assert (await hub.publish(some("1", ids=["1"]))).duplicates == {0: 2}
        await passing(1)
        assert (await hub.publish(some("1", ids=["1"]))).accepted == 1
        assert hub.stats().remembered_ids == 1


async def test_when_an_event_of_late_entered_the_log_is_told_without_reading_there() -> None:
    log = ScriptedLog()
    hub = EventHub(log, Limits(), manual_loop().clock)
    await hub.open()
    log.window = Window(1, 1)
    log.reading = lambda *_: pytest.fail("it was read")
    hub.appended(build_batches([some("a", ids=["1"])], 1, EPOCH_NS, PlainCodec()))
    again = await hub.publish(some("a", ids=["1"]))
    assert (again.duplicates, again.time_ns) == ({0: 1}, EPOCH_NS)


async def test_shutting_down_ends_everything_with_one_error() -> None:
    async with memory_hub() as (hub, _):
        subscription = await hub.subscribe(EVERYTHING)
        await subscription.next()
        waiting = asyncio.create_task(subscription.next())
        await turns()
        error = hub.begin_shutdown()
        assert error.reason == "SHUTTING_DOWN"
        calls = [
            waiting,
            asyncio.create_task(hub.publish(numbered(1))),
            asyncio.create_task(hub.subscribe(EVERYTHING)),
        ]
        raised = await asyncio.gather(*calls, return_exceptions=True)
        assert raised == [error] * 3
        await hub.room()
        hub.unsubscribe(subscription)


async def test_what_was_accepted_before_shutting_down_is_answered() -> None:
    async with memory_hub() as (hub, _):
        call = asyncio.create_task(hub.publish(numbered(2)))
        await asyncio.sleep(0)
        hub.begin_shutdown()
        assert (await call).accepted == 2
        assert hub.log.window.last == 2


async def test_closing_makes_what_waits_durable() -> None:
    store = MemoryStore(Retention())
    hub = EventHub(EmbeddedLog(store, PlainCodec(), clock=manual_loop().clock))
    await hub.open()
    call = asyncio.create_task(hub.publish(numbered(2)))
    await asyncio.sleep(0)
    await hub.close()
    assert (await call).accepted == 2
    assert store.read(0, 1).window.last == 2
    with pytest.raises(UnavailableError):
        await hub.publish(numbered(1))


async def test_room_is_there_at_once_while_little_waits() -> None:
    hub = EventHub(ScriptedLog(), Limits(PublishLimits(max_pending_bytes=10)))
    await hub.room()


def _crowded() -> tuple[ScriptedLog, EventHub]:
    log = ScriptedLog()
    log.pending_bytes = 11
    return log, EventHub(log, Limits(PublishLimits(max_pending_bytes=10)))


async def test_who_wants_room_waits_until_the_log_has_caught_up() -> None:
    log, hub = _crowded()
    waiting = [asyncio.create_task(hub.room()) for _ in range(3)]
    await turns()
    waiting[0].cancel()
    hub.appended([])
    await turns()
    assert [task.done() for task in waiting] == [True, False, False]
    log.pending_bytes = 10
    hub.appended([])
    await turns()
    assert all(task.done() for task in waiting)


async def test_who_wants_room_does_not_wait_for_a_hub_that_shuts_down() -> None:
    _, hub = _crowded()
    waiting = asyncio.create_task(hub.room())
    await turns()
    hub.begin_shutdown()
    await waiting


async def test_room_comes_back_when_what_waited_has_failed() -> None:
    async with memory_hub(Limits(PublishLimits(max_pending_bytes=10))) as (hub, store):

        def fail() -> None:
            raise StoreError("the disk is full")

        store.before["commit"] = store.before["probe"] = fail
        for _ in range(2):
            call = asyncio.create_task(hub.publish(some("twelve bytes")))
            await asyncio.sleep(0)
            waiting = asyncio.create_task(hub.room())
            await asyncio.sleep(0)
            assert not waiting.done()
            await turns()
            assert waiting.done()
            with pytest.raises(UnavailableError):
                call.result()


async def test_the_hub_knows_whether_its_log_takes_events() -> None:
    async with memory_hub() as (hub, store):

        def fail() -> None:
            raise StoreError("the disk is full")

        store.before["commit"] = store.before["probe"] = fail
        with pytest.raises(UnavailableError, match="the disk is full"):
            await hub.publish(numbered(1))
        problems = [hub.problem]
        assert hub.availability.is_set()
        hub.availability.clear()
        await hub.list_events(Query())
        store.before.clear()
        await passing(1)
        problems.append(hub.problem)
        assert problems == ["the disk is full", None]
        assert hub.availability.is_set()
        assert (await hub.publish(numbered(1))).first == 1
        assert hub.stats().refused == {"LOG_UNAVAILABLE": 1}


async def test_a_log_that_cannot_be_opened_says_why() -> None:
    async with memory_hub() as (_, store):

        def fail() -> None:
            raise StoreError("no such folder")

        store.before["open"] = fail
        with pytest.raises(UnavailableError, match="no such folder") as caught:
            await EventHub(EmbeddedLog(store, PlainCodec())).open()
        assert caught.value.reason == "LOG_UNAVAILABLE"


async def test_opening_recalls_ids_and_takes_up_the_log_where_it_stands() -> None:
    log = ScriptedLog()
    log.window = Window(5, 9)
    log.recent = [RecentId("shop", "1", 9, EPOCH_NS)]
    hub = EventHub(log, clock=manual_loop().clock)
    await hub.open()
    assert log.listener is hub
    assert hub.log is log
    stats = hub.stats()
    assert (stats.first_sequence, stats.last_sequence, stats.log_events) == (5, 9, 5)
    assert (stats.trimmed, stats.remembered_ids) == (0, 1)
    subscription = await hub.subscribe(EVERYTHING)
    assert await subscription.next() == Started(9)
    hub.unsubscribe(subscription)
    log.window = Window(8, 9)
    assert hub.stats().trimmed == 3
    await hub.close()
    assert log.closed


async def test_until_the_log_is_open_what_needs_it_is_refused_and_told_why() -> None:
    class Late(ScriptedLog):
        async def open(self, listener: LogListener) -> None:
            await opened.wait()
            await super().open(listener)

    opened, log = asyncio.Event(), Late()
    log.window = Window(1, 7)
    hub = EventHub(log)
    opening = asyncio.create_task(hub.open())
    await turns()
    problems = [hub.problem]
    hub.waits_for("the broker is away")
    hub.waits_for(None)
    problems.append(hub.problem)
    for call, text in (
        (hub.publish(some("a")), "the broker is away; nothing was stored"),
        (hub.subscribe(EVERYTHING), "the broker is away"),
        (hub.list_events(Query()), "the broker is away"),
    ):
        with pytest.raises(UnavailableError, match=f"{text}$") as caught:
            await call
        assert caught.value.reason == "LOG_UNAVAILABLE"
    hub.availability.clear()
    opened.set()
    await opening
    assert hub.availability.is_set()
    hub.waits_for("nothing any more")
    assert [*problems, hub.problem] == ["the log is being opened", "the broker is away", None]
    subscription = await hub.subscribe(EVERYTHING)
    assert await subscription.next() == Started(7)
    hub.unsubscribe(subscription)


async def test_a_log_that_cannot_be_taken_up_is_closed_again() -> None:
    class Forgetful(ScriptedLog):
        async def recent_ids(self, since_ns: int, limit: int) -> Sequence[RecentId]:
            raise UnavailableError("LOG_UNAVAILABLE", "the disk is gone")

    log = Forgetful()
    with pytest.raises(UnavailableError):
        await EventHub(log).open()
    assert log.closed


async def test_the_hub_counts_what_it_does() -> None:
    limits = Limits(PublishLimits(max_event_bytes=5, idempotency_keys=1), tail_bytes=1)
    async with memory_hub(limits, Retention(bytes=60)) as (hub, _):
        empty = hub.stats()
        assert (empty.first_sequence, empty.last_sequence, empty.log_events) == (0, 0, 0)
        behind = await hub.subscribe(EVERYTHING)
        idle = await hub.subscribe(Filter(types=("none",)))
        for number in range(4):
            await hub.publish(some(str(number), "too long", ids=[str(number), ""]))
        await hub.publish(some("again", ids=["3"]))
        assert await behind.next() == Started(0)
        stats = hub.stats()
        assert (stats.published, stats.duplicates, stats.refused) == (4, 1, {"TOO_LARGE": 4})
        assert (stats.subscribers, stats.trimmed, stats.log_events) == (2, 0, 4)
        assert (stats.remembered_ids, stats.forgotten_ids) == (1, 3)
        assert sum(stats.commits.counts) == 4
        assert stats.pending_bytes == 0
        await passing(1)
        stats = hub.stats()
        assert (stats.trimmed, stats.log_events, stats.first_sequence) == (2, 2, 3)
        (newest,) = hub.tail.read(3, 1)
        assert stats.log_bytes == 2 * len(newest.frames)
        assert stats.tail_bytes == newest.weight + MATCH_BYTES
        assert await behind.next() == Gap(1, 2)
        assert hub.stats().slow_readers == 1
        item = await behind.next()
        assert isinstance(item, Chunk)
        assert bodies(item.frames) == ["2", "3"]
        assert (hub.stats().delivered, hub.stats().gaps) == (2, 1)
        hub.unsubscribe(behind)
        hub.unsubscribe(idle)
        stats = hub.stats()
        assert (stats.delivered, stats.gaps, stats.slow_readers, stats.subscribers) == (2, 1, 0, 0)


async def test_reading_the_past_from_the_tail_leaves_others_a_turn() -> None:
    async with memory_hub() as (hub, _):
        for number in range(5):
            await hub.publish(some(str(number)))
        subscription = await hub.subscribe(EVERYTHING, Begin.EARLIEST)
        assert await subscription.next() == Started(0)
        order: list[str] = []

        async def other() -> None:
            order.append("other")

        task = asyncio.create_task(other())
        item = await subscription.next()
        order.append("read")
        await task
        assert isinstance(item, Chunk)
        assert bodies(item.frames) == list("01234")
        assert order == ["other", "read"]
        assert await subscription.next() == CaughtUp(5)
        hub.unsubscribe(subscription)


async def test_reading_a_long_log_in_memory_leaves_others_a_turn() -> None:
    async with memory_hub(Limits(tail_bytes=1)) as (hub, store):
        for number in range(50):
            await hub.publish(some(str(number) + "x" * 600_000))
        subscription = await hub.subscribe(Filter(types=("none",)), Begin.EARLIEST)
        await subscription.next()
        reads: list[object] = []
        store.after["read"] = reads.append
        task = asyncio.create_task(subscription.next())
        await turns(10)
        assert not task.done()
        assert 0 < len(reads) < 40
        hub.begin_shutdown()
        with pytest.raises(SwitchboardError):
            await task
        hub.unsubscribe(subscription)

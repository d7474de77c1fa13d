"""Publishing, the log, the tail and subscriptions together, against a plain list of events.

Whatever happens in whatever order, each subscriber is told of every event that it wants exactly
once and in order, or of a gap that covers it.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.backends.embedded.log import EmbeddedLog
from switchboard_server.backends.embedded.memory import MemoryStore
from switchboard_server.backends.embedded.store import Retention
from switchboard_server.core import records, subscription, tail
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.events import AfterSequence, AfterTime, Begin, EventHub, Limits, Start
from switchboard_server.core.filters import Filter, Route
from switchboard_server.core.ports import ReadResult
from switchboard_server.core.records import Drafts, Extra
from switchboard_server.core.subscription import CaughtUp, Gap, Heartbeat, Item, Started
from switchboard_server.core.tail import Chunk
from tests.support.events import PlainCodec, read_back
from tests.support.loop import manual_loop, run, turns
from tests.unit.core.strategies import ATTRIBUTES, FILTERS, ROUTES, brute_force

HEARTBEAT = 5.0


@dataclass
class Event:
    """What a publisher sent."""

    route: Route
    attributes: dict[str, str]
    ttl: int

    def extra(self) -> Extra:
        return Extra(self.attributes, ttl_ns=self.ttl * SECOND_NS)


class SlowLog(EmbeddedLog):
    """Answers reads some turns of the loop later, so that much can happen meanwhile."""

    delay = 0

    async def read(self, after: int, max_bytes: int, priority: int = 0) -> ReadResult:
        result = await super().read(after, max_bytes, priority)
        for _ in range(self.delay):
            await asyncio.sleep(0)
        return result


@dataclass
class Reader:
    """A subscriber, and all it was told, with the time and what the log retained then."""

    wish: Filter
    after: int
    target: int | None
    subscription: subscription.Subscription
    log: EmbeddedLog
    told: list[tuple[Item, int, int]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    async def _read(self, items: int) -> None:
        for _ in range(items):
            item = await self.subscription.next()
            self.told.append((item, manual_loop().clock(), self.log.window.first))

    def read(self, items: int) -> None:
        """Begins to take items; what it waits for may come much later."""
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._read(items))

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            self.task = None


class World:
    """A hub, its subscribers, and a list of all that was published."""

    def __init__(self, retained_bytes: int, tail_bytes: int, delay: int) -> None:
        clock = manual_loop().clock
        store = MemoryStore(Retention(bytes=retained_bytes))
        self.log = SlowLog(store, PlainCodec(), clock=clock)
        self.log.delay = delay
        self.hub = EventHub(self.log, Limits(tail_bytes=tail_bytes), clock)
        self.readers: list[Reader] = []
        self.gone: list[Reader] = []
        self.events: dict[int, tuple[Event, int]] = {}
        self.calls: list[asyncio.Task[None]] = []

    async def step(self, what: str, value: Any) -> None:
        if what == "publish":
            self.calls.append(asyncio.create_task(self._publish(value)))
        elif what == "subscribe":
            await self._subscribe(*value)
        elif what == "turns":
            await turns(value)
        elif what == "advance":
            manual_loop().advance(value)
            await turns(2)
        elif self.readers:
            number, items = value
            reader = self.readers[number % len(self.readers)]
            if what == "read":
                reader.read(items)
                await turns(3)
            elif what == "cancel":
                await reader.stop()
            else:
                self.readers.remove(reader)
                self.gone.append(reader)
                await reader.stop()
                self.hub.unsubscribe(reader.subscription)

    async def _publish(self, events: Sequence[Event]) -> None:
        drafts = Drafts(
            [b"x" * 20 for _ in events],
            [event.route for event in events],
            extras={index: event.extra() for index, event in enumerate(events)},
        )
        outcome = await self.hub.publish(drafts)
        assert outcome.plain
        assert outcome.accepted == len(events)
        for number, event in enumerate(events, outcome.first):
            assert number not in self.events
            self.events[number] = (event, outcome.time_ns)

    async def _subscribe(self, wish: Filter, start: str, part: float, greedy: bool) -> None:
        last = self.log.window.last
        begin: Start = Begin.LATEST if start == "latest" else Begin.EARLIEST
        if start == "sequence":
            begin = AfterSequence(int(part * last))
        elif start == "time":
            begin = AfterTime(manual_loop().clock() - int(part * 10) * SECOND_NS)
        opened = await self.hub.subscribe(wish, begin, heartbeat=HEARTBEAT)
        now = self.log.window.last
        target = now if opened.position < now else None
        reader = Reader(wish, opened.position, target, opened, self.log)
        self.readers.append(reader)
        if greedy:
            reader.read(10**6)

    async def finish(self) -> None:
        """Has everybody read to the end, and checks what they were told."""
        for call in self.calls:
            await call
        for _ in range(2):  # Who is at his last few items begins again after them.
            for reader in self.readers:
                reader.read(10**6)
            await turns(600)
        manual_loop().advance(HEARTBEAT)
        await turns(600)
        for reader in self.readers:
            await reader.stop()
            self.check(reader, complete=True)
            assert reader.subscription.position == self.log.window.last
            self.hub.unsubscribe(reader.subscription)
        for reader in self.gone:
            self.check(reader, complete=False)
        everybody = [*self.readers, *self.gone]
        stats = self.hub.stats()
        items = [item for reader in everybody for item, _, _ in reader.told]
        assert stats.delivered == sum(each.count for each in items if isinstance(each, Chunk))
        assert stats.gaps == sum(isinstance(each, Gap) for each in items)
        await self.hub.close()

    def wanted(self, wish: Filter, after: int, last: int, now: int) -> list[int]:
        """What is to be delivered of a range at a time, by looking at every event."""
        found = []
        for number in range(after + 1, last + 1):
            event, time_ns = self.events[number]
            dead = event.ttl and now >= time_ns + event.ttl * SECOND_NS
            if not dead and brute_force(wish, event.route, event.attributes):
                found.append(number)
        return found

    def check(self, reader: Reader, *, complete: bool) -> None:
        position, caught_up, spoken = reader.after, 0, None
        for number, (item, now, first) in enumerate(reader.told):
            assert isinstance(item, Started) == (number == 0)
            if isinstance(item, Chunk):
                events = read_back(item.frames)
                assert item.count == len(events) > 0
                expected = self.wanted(reader.wish, position, item.last, now)
                assert [event.sequence for event in events] == expected
                assert all(self.events[each.sequence][1] == each.time_ns for each in events)
                position = item.last
            elif isinstance(item, Gap):
                assert position < item.first <= item.last < first
                assert not self.wanted(reader.wish, position, item.first - 1, now)
                position = item.last
            else:
                assert item.position >= position
                assert not self.wanted(reader.wish, position, item.position, now)
                position = item.position
            if isinstance(item, CaughtUp):
                caught_up += 1
                assert reader.target is not None
                assert item.position >= reader.target
            elif isinstance(item, Heartbeat):
                assert spoken is None or now - spoken >= HEARTBEAT * SECOND_NS
            spoken = None if isinstance(item, Started) else now
        if complete:
            assert reader.told
            last = self.log.window.last
            assert not self.wanted(reader.wish, position, last, manual_loop().clock())
            assert caught_up == (reader.target is not None)
        assert caught_up <= 1


@contextmanager
def small_bounds() -> Iterator[None]:
    """Batches of 3 events and chunks of 300 bytes, so that few events make many."""
    with (
        mock.patch.object(records, "MAX_BATCH_EVENTS", 3),
        mock.patch.object(tail, "MAX_CHUNK_BYTES", 300),
        mock.patch.object(subscription, "MAX_CHUNK_BYTES", 300),
    ):
        yield


_EVENTS = st.lists(
    st.builds(Event, ROUTES, st.one_of(st.just({}), ATTRIBUTES), st.sampled_from([0, 0, 0, 2])),
    min_size=1,
    max_size=8,
)
_WISHES = st.one_of(FILTERS, st.just(Filter()), st.just(Filter(types=("order.*",))))
_STARTS = st.sampled_from(["latest", "earliest", "sequence", "time"])
_PUBLISH = st.tuples(st.just("publish"), _EVENTS)
_WHO = st.tuples(st.integers(0, 100), st.integers(1, 4))
_STEPS = st.lists(
    st.one_of(
        _PUBLISH,
        _PUBLISH,
        st.tuples(
            st.just("subscribe"), st.tuples(_WISHES, _STARTS, st.floats(0, 1), st.booleans())
        ),
        st.tuples(st.just("read"), _WHO),
        st.tuples(st.just("read"), _WHO),
        st.tuples(st.just("turns"), st.integers(1, 12)),
        st.tuples(st.just("advance"), st.sampled_from([0.5, 1.0, 3.0, 6.0])),
        st.tuples(st.sampled_from(["cancel", "leave"]), _WHO),
    ),
    min_size=5,
    max_size=60,
)


@given(
    _STEPS,
    st.sampled_from([0, 150, 400, 1500]),
    st.sampled_from([1, 3000, 8000, 1 << 20]),
    st.integers(0, 5),
)
def test_everybody_gets_what_they_want_once_and_in_order_or_is_told_of_a_gap(
    steps: Sequence[tuple[str, Any]], retained_bytes: int, tail_bytes: int, delay: int
) -> None:
    async def scenario() -> None:
        world = World(retained_bytes, tail_bytes, delay)
        await world.hub.open()
        for what, value in steps:
            await world.step(what, value)
        await world.finish()

    with small_bounds():
        run(scenario())


def test_many_readers_of_all_speeds_follow_a_long_run() -> None:
    """One long run of the same, so that tail and log are changed between again and again."""

    async def scenario() -> None:
        world = World(4000, 400, 2)
        await world.hub.open()
        kinds = ["order.created", "order.paid", "user.login"]
        for number in range(300):
            batch = [
                Event(Route(kinds[(number + i) % 3], "shop", "", 1 + i % 4), {"a": str(i % 2)}, 0)
                for i in range(1 + number % 4)
            ]
            await world.step("publish", batch)
            if number % 30 == 0:
                wish = Filter(types=("order.*",), attributes={"a": "1"} if number % 20 else {})
                await world.step("subscribe", (wish, "earliest", 0.0, number % 60 == 0))
            await world.step("read", (number, 1 + number % 3))
            await world.step("turns", number % 5)
            if number % 50 == 49:
                await world.step("advance", 2.0)
        kept = [reader.subscription for reader in world.readers]
        assert {each.behind for each in kept} == {True, False}, "some slow, some not"
        await world.finish()
        assert any(each.gaps for each in kept)
        assert not all(each.gaps for each in kept)

    with small_bounds():
        run(scenario())

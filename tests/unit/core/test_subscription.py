"""One subscriber: what it is told, and when."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.filters import EVERYTHING, Filter
from switchboard_server.core.ports import ReadResult, Window
from switchboard_server.core.records import Batch, Drafts, Extra, build_batches
from switchboard_server.core.subscription import (
    STALLED_SECONDS,
    CaughtUp,
    Gap,
    Heartbeat,
    Item,
    Started,
    Subscription,
)
from switchboard_server.core.tail import MATCH_BYTES, Chunk, Tail
from switchboard_server.core.waking import MAX_AT_ONCE
from tests.support.events import PlainCodec, a_route, bodies, numbered, some
from tests.support.loop import EPOCH_NS, manual_loop, passing, turns

HEARTBEAT = 15.0


def made(drafts: Drafts, first: int) -> list[Batch]:
    return build_batches([drafts], first, manual_loop().clock(), PlainCodec())


class Log:
    """Batches that are only in the log, and a tail for those that are not.

    Attributes:
        reads: After which sequences was read.
        results: What to answer instead of what is true, first things first.
        gate: Reads wait until it is set.
    """

    def __init__(self, tail_bytes: int = 1 << 20) -> None:
        self.batches: list[Batch] = []
        self.first = 1
        self.tail = Tail(tail_bytes, 0)
        self.reads: list[int] = []
        self.results: list[ReadResult] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def append(self, drafts: Drafts) -> None:
        batches = made(drafts, self.tail.last + 1)
        self.batches += batches
        for batch in batches:
            self.tail.append(batch)

    async def read(self, after: int, _max_bytes: int) -> ReadResult:
        self.reads.append(after)
        found = [batch for batch in self.batches if batch.last > after]
        result = ReadResult(found[:1], Window(self.first, self.tail.last))
        await asyncio.sleep(0)
        await self.gate.wait()
        return self.results.pop(0) if self.results else result

    def subscribe(self, wish: Filter = EVERYTHING, after: int | None = None) -> Subscription:
        position = self.tail.last if after is None else after
        return Subscription(
            wish,
            position,
            announce_caught_up=position < self.tail.last,
            tail=self.tail,
            read=self.read,
            clock=manual_loop().clock,
            heartbeat=HEARTBEAT,
        )


@asynccontextmanager
async def asking(subscription: Subscription) -> AsyncIterator[asyncio.Task[Item]]:
    """A call of `next` that has come as far as it comes by itself."""
    task = asyncio.create_task(subscription.next())
    await turns()
    yield task
    task.cancel()
    await asyncio.wait([task])


async def told(subscription: Subscription, items: int) -> list[Item | list[str]]:
    """The next items, chunks as the bodies in them; fails where one does not come at once."""
    found: list[Item | list[str]] = []
    for _ in range(items):
        async with asking(subscription) as task:
            assert task.done(), f"nothing after {found}"
            item = task.result()
        found.append(bodies(item.frames) if isinstance(item, Chunk) else item)
    return found


async def silent(subscription: Subscription) -> bool:
    """Whether there is nothing to say."""
    async with asking(subscription) as task:
        return not task.done()


async def test_the_first_word_is_started_with_a_position_to_resume_from() -> None:
    log = Log()
    log.append(some("before"))
    subscription = log.subscribe()
    assert subscription.position == 1
    log.append(some("after"))
    assert await told(subscription, 2) == [Started(1), ["after"]]
    assert subscription.position == 2
    assert subscription.delivered == 1
    assert await silent(subscription)


async def test_an_event_wakes_who_waits_for_it() -> None:
    log = Log()
    subscription = log.subscribe(Filter(types=("order.*",)))
    await told(subscription, 1)
    async with asking(subscription) as task:
        log.append(some("no", routes=a_route("user.login")))
        await turns()
        assert not task.done()
        log.append(some("yes"))
        await turns()
        item = task.result()
    assert isinstance(item, Chunk)
    assert (bodies(item.frames), item.last) == (["yes"], 2)
    assert log.reads == []


async def test_what_gathered_since_the_last_call_comes_at_once() -> None:
    log = Log()
    subscription = log.subscribe()
    await told(subscription, 1)
    for text in ("a", "b", "c"):
        log.append(some(text))
    assert await told(subscription, 1) == [["a", "b", "c"]]


async def test_silence_is_broken_by_a_heartbeat_with_the_position() -> None:
    log = Log()
    subscription = log.subscribe(Filter(types=("none",)))
    assert await told(subscription, 1) == [Started(0)]
    async with asking(subscription) as task:
        log.append(some("not wanted"))
        await passing(HEARTBEAT - 0.001)
        assert not task.done()
        await passing(0.001)
        assert task.result() == Heartbeat(1)
    assert await silent(subscription)
    await passing(HEARTBEAT)
    assert await told(subscription, 1) == [Heartbeat(1)]


async def test_an_event_puts_the_heartbeat_off() -> None:
    log = Log()
    subscription = log.subscribe()
    await told(subscription, 1)
    await passing(HEARTBEAT - 1)
    log.append(some("a"))
    await told(subscription, 1)
    async with asking(subscription) as task:
        await passing(HEARTBEAT - 1)
        assert not task.done()
        await passing(1)
        assert task.result() == Heartbeat(1)


async def test_a_long_read_of_what_is_not_wanted_is_no_silence() -> None:
    log = Log(tail_bytes=1)
    for _ in range(5):
        log.append(some("a"))
    subscription = log.subscribe(Filter(types=("none",)), after=0)
    await told(subscription, 1)
    log.gate.clear()
    async with asking(subscription) as task:
        manual_loop().advance(HEARTBEAT)
        log.gate.set()
        await turns()
        assert task.result() == Heartbeat(1)
    assert await told(subscription, 1) == [CaughtUp(5)]


async def test_who_begins_in_the_past_is_told_once_when_it_has_caught_up() -> None:
    log = Log()
    for text in ("a", "b", "c"):
        log.append(some(text))
    subscription = log.subscribe(after=1)
    assert await told(subscription, 2) == [Started(1), ["b"]]
    behind = [subscription.behind]
    log.append(some("d"))
    # What came in the meantime may come with it; the word is said when all of before is through.
    assert await told(subscription, 3) == [["c"], CaughtUp(3), ["d"]]
    behind.append(subscription.behind)
    assert behind == [True, False]
    assert await silent(subscription)


async def test_who_takes_nothing_for_seconds_counts_as_slow_and_who_waits_does_not() -> None:
    log = Log()
    subscription = log.subscribe()
    await told(subscription, 1)
    assert await silent(subscription)
    await passing(2 * STALLED_SECONDS)
    task = asyncio.create_task(subscription.next())
    await turns()
    behind = [subscription.behind]  # It waits, and there is nothing.
    log.append(some("a"))
    await task
    for seconds in (STALLED_SECONDS, 0.1):
        await passing(seconds)
        behind.append(subscription.behind)
    log.append(some("b"))
    assert await told(subscription, 1) == [["b"]]
    behind.append(subscription.behind)
    assert behind == [False, False, True, False]


async def test_who_begins_at_the_end_is_not_told_that_it_has_caught_up() -> None:
    log = Log()
    log.append(some("a"))
    subscription = log.subscribe(after=1)
    log.append(some("b"))
    assert await told(subscription, 2) == [Started(1), ["b"]]
    assert await silent(subscription)


async def test_caught_up_comes_though_nothing_of_the_past_was_wanted() -> None:
    log = Log()
    log.append(some("a"))
    subscription = log.subscribe(Filter(types=("none",)), after=0)
    assert await told(subscription, 2) == [Started(0), CaughtUp(1)]


async def test_who_falls_behind_the_tail_reads_the_log_and_comes_back() -> None:
    (one,) = made(some("0" * 40), 1)
    log = Log(tail_bytes=2 * (one.weight + MATCH_BYTES))
    subscription = log.subscribe()
    await told(subscription, 1)
    for number in range(6):
        log.append(some(str(number) * 40))
    assert log.tail.floor == 4
    items = await told(subscription, 5)
    assert items == [[str(n) * 40] for n in range(4)] + [["4" * 40, "5" * 40]]
    assert log.reads == [0, 1, 2, 3]
    assert not subscription.behind
    log.append(some("new"))
    assert await told(subscription, 1) == [["new"]]
    assert log.reads == [0, 1, 2, 3]


async def test_events_that_arrive_during_a_read_of_the_log_are_not_passed_over() -> None:
    log = Log(tail_bytes=1)
    log.append(some("a"))
    log.append(some("b"))
    subscription = log.subscribe(after=0)
    await told(subscription, 1)
    log.gate.clear()
    async with asking(subscription) as task:
        log.append(some("c"))
        log.append(some("d"))
        log.gate.set()
        await turns()
        first = task.result()
    assert isinstance(first, Chunk)
    assert bodies(first.frames) == ["a"]
    assert await told(subscription, 4) == [["b"], CaughtUp(2), ["c"], ["d"]]


async def test_a_read_that_finds_nothing_does_not_pass_over_what_came_meanwhile() -> None:
    # A log may answer a read with nothing, as of a moment before the events that came since.
    log = Log(tail_bytes=1)
    log.append(some("a"))
    log.append(some("b"))
    subscription = log.subscribe(after=1)
    await told(subscription, 1)
    log.append(some("c"))
    log.results = [ReadResult((), Window(1, 1))]
    assert await told(subscription, 3) == [["b"], CaughtUp(2), ["c"]]


async def test_a_log_that_was_read_further_than_the_tail_has_come_is_followed_all_the_same() -> (
    None
):
    # What is durable may be read before the hub has heard of it.
    log = Log(tail_bytes=1)
    for text in ("a", "b"):
        log.append(some(text))
    subscription = log.subscribe(after=0)
    await told(subscription, 1)
    ahead = [
        each
        for drafts, first in ((some("a", "b"), 1), (some("c"), 3))
        for each in made(drafts, first)
    ]
    log.results = [ReadResult(ahead, Window(1, 3))]
    assert await told(subscription, 2) == [["a", "b", "c"], CaughtUp(3)]
    assert log.tail.last == 2
    async with asking(subscription) as task:
        log.append(some("c"))
        log.append(some("d"))
        assert log.tail.floor == 3
        await turns()
        item = task.result()
    assert isinstance(item, Chunk)
    assert (bodies(item.frames), item.last) == (["d"], 4)
    assert not subscription.behind


async def test_what_retention_removed_is_a_gap() -> None:
    log = Log(tail_bytes=1)
    for text in ("a", "b", "c", "d"):
        log.append(some(text))
    del log.batches[:2]
    log.first = 3
    subscription = log.subscribe(after=0)
    assert await told(subscription, 3) == [Started(0), Gap(1, 2), ["c"]]
    assert subscription.gaps == 1
    assert subscription.position == 3


async def test_a_gap_may_reach_to_the_end_of_the_log() -> None:
    log = Log(tail_bytes=1)
    for text in ("a", "b"):
        log.append(some(text))
    log.batches.clear()
    log.first = 3
    subscription = log.subscribe(after=0)
    assert await told(subscription, 3) == [Started(0), Gap(1, 2), CaughtUp(2)]
    log.append(some("c"))
    assert await told(subscription, 1) == [["c"]]


async def test_what_cannot_be_read_back_is_a_gap() -> None:
    log = Log(tail_bytes=1)
    for number in range(3):
        log.append(numbered(2, 2 * number))
    log.results = [ReadResult((), Window(1, 6), lost=(1, 2))]
    subscription = log.subscribe(after=1)
    assert await told(subscription, 4) == [Started(1), Gap(2, 2), ["2", "3"], ["4", "5"]]


async def test_expired_events_are_passed_over_in_silence() -> None:
    log = Log(tail_bytes=1)
    short = {0: Extra(ttl_ns=10**9)}
    for text in ("a", "b", "c"):
        log.append(some(text, extras=short))
    log.append(some("d"))
    manual_loop().advance(1)
    subscription = log.subscribe(after=0)
    assert await told(subscription, 3) == [Started(0), ["d"], CaughtUp(4)]
    log.append(some("e", extras=short))
    manual_loop().advance(1)
    assert await silent(subscription)
    assert subscription.position == 5
    assert subscription.delivered == 1
    assert EPOCH_NS < log.batches[-1].expiries[0] <= manual_loop().clock()


async def test_a_filter_that_becomes_behind_by_one_batch_misses_no_other() -> None:
    log = Log(tail_bytes=1)
    subscription = log.subscribe(Filter(types=("order.*",)))
    await told(subscription, 1)
    mixed = [a_route(), a_route("user.login")]
    for number in range(4):
        log.append(some(f"{number}", "no", routes=mixed))
        log.append(some("no", routes=a_route("user.login")))
    assert await told(subscription, 4) == [["0"], ["1"], ["2"], ["3"]]
    assert await silent(subscription)
    assert subscription.position == 12


async def _cancelled(subscription: Subscription, passed: Callable[[], None]) -> None:
    async with asking(subscription) as task:
        assert not task.done()
        passed()
        task.cancel()


@pytest.mark.parametrize("where", ["asleep", "reading", "awake"])
async def test_nothing_is_lost_when_next_is_cancelled(where: str) -> None:
    log = Log(tail_bytes=1)
    subscription = log.subscribe()
    await told(subscription, 1)
    if where == "reading":
        log.append(some("a"))
        log.append(some("b"))
        log.gate.clear()
        await _cancelled(subscription, log.gate.set)
        assert await told(subscription, 2) == [["a"], ["b"]]
    elif where == "asleep":
        await _cancelled(subscription, lambda: None)
        log.append(some("a"))
        assert await told(subscription, 1) == [["a"]]
    else:
        await _cancelled(subscription, lambda: log.append(some("a")))
        assert await told(subscription, 1) == [["a"]]
    assert await silent(subscription)


ENDED = UnavailableError("SHUTTING_DOWN", "the hub shuts down")


async def test_an_end_reaches_who_waits_who_reads_and_who_does_neither() -> None:
    log = Log(tail_bytes=1)
    waits = log.subscribe(Filter(types=("none",)))
    log.append(some("a"))
    log.append(some("b"))
    reads, idle = log.subscribe(Filter(types=("not",)), after=0), log.subscribe()
    for subscription in (waits, reads, idle):
        await told(subscription, 1)
    log.gate.clear()
    async with asking(waits) as waiting, asking(reads) as reading:
        for subscription in (waits, reads, idle):
            subscription.end(ENDED)
        log.gate.set()
        await turns()
        for task in (waiting, reading):
            with pytest.raises(UnavailableError) as caught:
                task.result()
            assert caught.value is ENDED
    with pytest.raises(UnavailableError):
        await idle.next()


async def test_the_log_may_fail_and_be_asked_again() -> None:
    log = Log(tail_bytes=1)
    log.append(some("a"))
    log.append(some("b"))
    subscription = log.subscribe(after=0)
    await told(subscription, 1)
    log.gate.clear()
    reads = _failing(log.read)
    subscription._read = reads
    log.gate.set()
    with pytest.raises(UnavailableError):
        await subscription.next()
    assert await told(subscription, 2) == [["a"], ["b"]]


def _failing(
    read: Callable[[int, int], Awaitable[ReadResult]],
) -> Callable[[int, int], Awaitable[ReadResult]]:
    """A read that fails the first time."""
    failures = [UnavailableError("LOG_UNAVAILABLE", "the disk is away")]

    async def reading(after: int, max_bytes: int) -> ReadResult:
        if failures:
            raise failures.pop()
        return await read(after, max_bytes)

    return reading


async def test_closing_leaves_the_audience_once() -> None:
    log = Log()
    stays, goes = log.subscribe(), log.subscribe()
    audience = log.tail.join(EVERYTHING)
    log.tail.leave(audience)
    assert audience.members == 2
    goes.close()
    goes.close()
    assert audience.members == 1
    log.append(some("a"))
    assert await told(stays, 2) == [Started(0), ["a"]]


async def test_ten_subscribers_of_one_filter_are_handed_the_same_bytes() -> None:
    log = Log()
    subscriptions = [log.subscribe() for _ in range(10)]
    for subscription in subscriptions:
        await subscription.next()
    log.append(numbered(3))
    log.append(numbered(3, 3))
    items: Sequence[Item] = [await subscription.next() for subscription in subscriptions]
    chunks = [item for item in items if isinstance(item, Chunk)]
    assert len(chunks) == 10
    assert {id(chunk.frames) for chunk in chunks} == {id(chunks[0].frames)}
    assert bodies(chunks[0].frames) == list("012345")


async def test_what_comes_while_many_are_woken_goes_out_together() -> None:
    log = Log()
    crowd = [log.subscribe() for _ in range(MAX_AT_ONCE + 1)]
    for each in crowd:
        await told(each, 1)
    async with AsyncExitStack() as stack:
        waiting = [await stack.enter_async_context(asking(each)) for each in crowd]
        log.append(some("a"))
        manual_loop().advance(0.1)
        await turns()
        assert all(task.done() for task in waiting)
        first = crowd[0]
        log.append(some("b"))
        # The wave has taken a tenth of a second, and so long the next one waits.
        assert await silent(first)
        async with asking(first) as task:
            log.append(some("c"))
            await passing(0.1)
            item = task.result()
            assert isinstance(item, Chunk)
            assert bodies(item.frames) == ["b", "c"]
        first.end(UnavailableError("SHUTTING_DOWN", "the hub shuts down"))
        with pytest.raises(UnavailableError):
            await first.next()

"""One subscriber: a cursor over the log.

While it keeps up it takes shared chunks from the tail; when it falls behind it reads the log at its
own pace, and comes back to the tail when it has caught up. Nobody waits for it, and it holds no
queue of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from switchboard_server.core.clock import Clock
from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.filters import Filter
from switchboard_server.core.ports import ReadResult
from switchboard_server.core.tail import MAX_CHUNK_BYTES, Chunk, Tail, assemble

STALLED_SECONDS = 5.0
"""A subscriber that has not taken for so long what it was given counts as slow."""


@dataclass(frozen=True, slots=True)
class Started:
    """The subscription stands; everything after `position` will come.

    Args:
        position: Where it begins.
        member_id: Names the stream among the members of its group; empty without a group.
    """

    position: int
    member_id: str = ""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing came for a while; everything up to `position` is delivered or not wanted."""

    position: int


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """What was in the log at the start is delivered."""

    position: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Events from `first` to `last` are gone before they could be delivered."""

    first: int
    last: int


Item = Chunk | Started | Heartbeat | CaughtUp | Gap
"""What a subscription has to say."""

Read = Callable[[int, int], Awaitable[ReadResult]]
"""Reads the log after a sequence, up to a number of bytes."""


class Subscription:
    """Delivers matching events in the order of the log, each once.

    Made by `EventHub.subscribe`. One task calls `next`; `close` must be called in the end.

    Args:
        wish: The events wanted.
        after: Deliver what comes after this sequence.
        announce_caught_up: Whether to say when the end of the log, as it is now, is reached.
        tail: The newest part of the log.
        read: Reads the rest of it.
        clock: Unix time in nanoseconds, for expiry.
        heartbeat: Seconds of silence after which a heartbeat is due.

    Attributes:
        delivered: How many events have been handed out.
        gaps: How often it was told of events that are gone.
    """

    def __init__(
        self,
        wish: Filter,
        after: int,
        *,
        announce_caught_up: bool,
        tail: Tail,
        read: Read,
        clock: Clock,
        heartbeat: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._tail = tail
        self._read = read
        self._clock = clock
        self._audience = tail.join(wish)
        self._cursor = after
        self._number = -1
        self._target = tail.last if announce_caught_up else None
        self._heartbeat = heartbeat
        self._spoken = self._loop.time()
        self._started = False
        self._closed = False
        self._end: SwitchboardError | None = None
        self._woken: asyncio.Future[None] | None = None
        self.delivered = 0
        self.gaps = 0

    @property
    def behind(self) -> bool:
        """Whether it reads slowly: from the log, or not at all what it was given seconds ago."""
        if self._cursor < self._audience.floor:
            return True
        stalled = self._loop.time() > self._spoken + STALLED_SECONDS
        return stalled and self._started and self._woken is None

    @property
    def position(self) -> int:
        """Everything up to this sequence has been handed out or is not wanted."""
        return self._cursor

    async def next(self) -> Item:
        """Waits for what comes next.

        Returns:
            `Started` first, then chunks and words about the stream.

        Raises:
            SwitchboardError: The subscription was ended by the hub, or the log cannot be read.

        Safe to cancel: nothing is lost, the next call goes on. Not safe to call concurrently.
        """
        if not self._started:
            self._started = True
            return Started(self._cursor)
        if self._audience.busy and self._in_tail() and not self._drained():
            # Meanwhile more comes, and goes out together.
            await self._sleep(line_up=True)
        while True:
            if self._end is not None:
                raise self._end
            item: Item | None = self._caught_up()
            if item is None:
                item = self._from_tail() if self._in_tail() else await self._from_log()
            if item is None and self._loop.time() >= self._spoken + self._heartbeat:
                item = Heartbeat(self._cursor)
            if item is not None:
                self._spoken = self._loop.time()
                return item
            if self._drained():
                await self._sleep()

    def wake(self) -> None:
        """Ends the wait of `next`, because there may be something to say."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def end(self, error: SwitchboardError) -> None:
        """Has `next` raise an error, after what it is handing out now."""
        self._end = error
        self.wake()

    def close(self) -> None:
        """Leaves the hub. May be called twice."""
        if not self._closed:
            self._closed = True
            self._audience.forget(self)
            self._tail.leave(self._audience)

    def _in_tail(self) -> bool:
        """Whether all that is still to deliver is in the tail; finds the place there."""
        audience = self._audience
        if self._cursor < audience.floor:
            self._number = -1
            return False
        if self._number < audience.first:
            # Not looked for yet; or the log was read further than the tail had come by then, and
            # what the tail got next has left it already.
            self._number = audience.number_after(self._cursor)
        return True

    def _drained(self) -> bool:
        return 0 <= self._number == self._audience.end

    def _from_tail(self) -> Item | None:
        if not self._drained():
            chunk, self._number = self._audience.take(self._number, self._cursor, self._clock())
            self._cursor = chunk.last
            if chunk.count:
                self.delivered += chunk.count
                return chunk
            return None
        self._cursor = max(self._cursor, self._tail.last)
        return self._caught_up()

    async def _from_log(self) -> Item | None:
        result = await self._read(self._cursor, MAX_CHUNK_BYTES)
        if result.window.first > self._cursor + 1:
            return self._skip(result.window.first - 1)
        if result.lost is not None:
            return self._skip(result.lost[1])
        wanted = [
            (batch, runs)
            for batch in result.batches
            if (
                runs := batch.matching(
                    self._audience.filter, max(0, self._cursor + 1 - batch.first)
                )
            )
        ]
        last = result.batches[-1].last if result.batches else result.window.last
        self._cursor = max(self._cursor, last)
        if wanted:
            frames, total = assemble(wanted, self._clock())
            if total:
                self.delivered += total
                return Chunk(frames, total, self._cursor)
        return None

    def _skip(self, last: int) -> Gap:
        gap = Gap(self._cursor + 1, last)
        self.gaps += 1
        self._cursor = last
        return gap

    def _caught_up(self) -> CaughtUp | None:
        if self._target is None or self._cursor < self._target:
            return None
        self._target = None
        return CaughtUp(self._cursor)

    async def _sleep(self, *, line_up: bool = False) -> None:
        self._woken = self._loop.create_future()
        if line_up:
            self._audience.line_up(self)
        else:
            self._audience.wait(self)
        timer = self._loop.call_at(self._spoken + self._heartbeat, self.wake)
        try:
            await self._woken
        finally:
            timer.cancel()
            self._woken = None
            self._audience.forget(self)

"""One member of a group: the stream of what is given to it."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from switchboard_server.core.groups.entries import Entry, Holder
from switchboard_server.core.sleeping import Sleeper
from switchboard_server.core.subscription import Gap, Heartbeat, Item, Started
from switchboard_server.core.tail import Chunk


class Giver(Protocol):
    """The group, as its member sees it."""

    def position(self) -> int:
        """Everything up to here is settled or does not match."""
        ...

    def ask(self, member: "Member") -> None:
        """Notes that a member waits for something. It gets what there is soon, never at once."""
        ...

    def withdraw(self, member: "Member") -> None:
        """Takes back `ask`."""
        ...

    def rest(self, member: "Member", *, draining: bool) -> None:
        """Keeps new deliveries from a member, or not any more."""
        ...

    def leave(self, member: "Member", untaken: Sequence[Entry]) -> None:
        """Lets a member go; what was assigned to it and not sent was never delivered."""
        ...


@dataclass(slots=True)
class Parcel:
    """What is sent to a member at once.

    Args:
        frames: The deliveries' bytes.
        entries: The events.
    """

    frames: bytes
    entries: Sequence[Entry]


class Member(Sleeper):
    """A member's stream. Made by `GroupHub.subscribe`.

    One task calls `next`; `close` must be called in the end.

    Args:
        group: Gives out the events.
        holder: What the member is to the group.
        heartbeat: Seconds of silence after which a heartbeat is due.
        join_ns: When it joined, Unix time in nanoseconds.
        released: Is called once it is closed.

    Attributes:
        delivered: How many events have been handed out.
        latest: The events of the chunk that was handed out last.
    """

    def __init__(
        self,
        group: Giver,
        holder: Holder,
        *,
        heartbeat: float,
        join_ns: int,
        released: Callable[[], None],
    ) -> None:
        super().__init__()
        self._group = group
        self._heartbeat = heartbeat
        self._released = released
        self._spoken = self._loop.time()
        self._started = False
        self._closed = False
        self._end: Exception | None = None
        self._parcels: deque[Parcel] = deque()
        self._gaps: deque[Gap] = deque()
        self.holder = holder
        self.join_ns = join_ns
        self.delivered = 0
        self.latest: Sequence[Entry] = ()

    @property
    def position(self) -> int:
        """Everything up to here is settled in the group or does not match."""
        return self._group.position()

    async def next(self) -> Item:
        """Waits for what comes next.

        Returns:
            `Started` first, then chunks and words about the stream.

        Raises:
            SwitchboardError: The stream was ended by the hub.
            MovedError: The group is served by another node now.

        Safe to cancel: nothing is lost, the next call goes on. Not safe to call concurrently.
        """
        if not self._started:
            return self.start()
        while True:
            if self._end is not None:
                raise self._end
            item: Item | None = None
            if self._gaps:
                item = self._gaps.popleft()
            elif self._parcels:
                parcel = self._parcels.popleft()
                self.delivered += len(parcel.entries)
                self.latest = parcel.entries
                last = parcel.entries[-1].sequence
                item = Chunk(parcel.frames, len(parcel.entries), last)
            elif self._loop.time() >= self._spoken + self._heartbeat:
                item = Heartbeat(self.position)
            if item is not None:
                self._spoken = self._loop.time()
                return item
            await self._wait()

    def start(self) -> Started:
        """What `next` returns first, at once."""
        self._started = True
        return Started(self.position, self.holder.identity.member_id)

    def give(self, parcels: Sequence[Parcel]) -> None:
        """Takes what has been assigned to the member."""
        self._parcels.extend(parcels)
        self.wake()

    def tell(self, gap: Gap) -> None:
        """Takes notice that events are gone."""
        self._gaps.append(gap)
        self.wake()

    def forget(self) -> None:
        """Lets go of what has been assigned and not sent: the group has gone elsewhere."""
        self._parcels.clear()

    def drain(self, *, draining: bool) -> None:
        """Gets nothing new from now on, or something again."""
        self._group.rest(self, draining=draining)

    def end(self, error: Exception) -> None:
        """Has `next` raise an error."""
        self._end = error
        self.wake()

    def close(self, untaken: Sequence[Entry] = ()) -> None:
        """Leaves the group, which takes back what the member holds. May be called twice.

        Args:
            untaken: Events that were handed out here, and have not reached the client.
        """
        if not self._closed:
            self._closed = True
            self._group.withdraw(self)
            waiting = [each for parcel in self._parcels for each in parcel.entries]
            self._group.leave(self, [*untaken, *waiting])
            self._parcels.clear()
            self._released()

    async def _wait(self) -> None:
        """Waits for something to say, be it that the stream lives."""
        self._group.ask(self)
        try:
            await self._sleep_until(self._spoken + self._heartbeat)
        finally:
            self._group.withdraw(self)

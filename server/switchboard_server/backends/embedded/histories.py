"""What rooms remember, in memory: gone when the process ends."""

import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import count, islice

from switchboard_server.core.realtime.history import HistoryPolicy, HistoryView
from switchboard_server.core.realtime.messages import Delivered, Message, Position
from switchboard_server.core.realtime.names import SortedNames

ROOM_BYTES = 1024
"""What a history costs besides its messages, about."""


class _History:
    """One room's history.

    Attributes:
        epoch: Names this life of it.
        offset: Offset of the latest message.
        messages: What is kept, each with the time at which it expires.
        size: Bytes of what is kept.
        held: Somebody stands in the room.
        watched: Something of it ends at a time that is waited for.
        idle_until: When the count ends that nobody holds.
        create_time_ns: When it was made, Unix time in nanoseconds.
    """

    __slots__ = (
        "create_time_ns",
        "epoch",
        "held",
        "idle_until",
        "messages",
        "offset",
        "room",
        "size",
        "ttl_ns",
        "watched",
    )

    def __init__(self, room: str, create_time_ns: int, ttl_ns: int) -> None:
        self.room = room
        self.epoch = secrets.token_hex(6)
        self.offset = 0
        self.messages: deque[tuple[int, Delivered]] = deque()
        self.size = 0
        self.held = False
        self.watched = False
        self.idle_until = 0
        self.ttl_ns = ttl_ns
        self.create_time_ns = create_time_ns

    @property
    def position(self) -> Position:
        return Position(self.room, self.epoch, self.offset)


class MemoryHistories:
    """See `RoomHistories`.

    Beyond `max_bytes` the rooms to which nothing was sent for longest lose all their messages, and
    the last of all its oldest ones.

    Args:
        max_bytes: How much all histories may hold, in bytes.
        clock: Nanoseconds that only grow.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._histories: OrderedDict[str, _History] = OrderedDict()
        self._names = SortedNames()
        self._bytes = 0
        self._due: list[tuple[int, int, _History]] = []
        self._ties = count()

    @property
    def size(self) -> int:
        """See `RoomHistories.size`."""
        self._expire()
        return self._bytes

    def append(self, room: str, policy: HistoryPolicy, message: Message) -> Delivered:
        """See `RoomHistories.append`."""
        history = self._made(room, policy, message.time_ns)
        history.offset += 1
        delivered = Delivered(message, (history.position,))
        expires = self._clock() + policy.ttl_ns
        history.idle_until = expires
        history.messages.append((expires, delivered))
        if len(history.messages) == 1:
            self._names.add(room)
            self._watch(history)
        self._bytes += delivered.size
        history.size += delivered.size
        if len(history.messages) > policy.size:
            self._forget_first(history)
        self._histories.move_to_end(room)
        self._make_room()
        return delivered

    def hold(self, room: str, policy: HistoryPolicy, now_ns: int) -> Position:
        """See `RoomHistories.hold`."""
        history = self._made(room, policy, now_ns)
        history.held = True
        self._make_room()
        return history.position

    def release(self, room: str) -> None:
        """See `RoomHistories.release`."""
        history = self._histories[room]
        history.held = False
        history.idle_until = self._clock() + history.ttl_ns
        if not history.messages:
            self._watch(history)

    def after(self, room: str, place: Position) -> Sequence[Delivered] | None:
        """See `RoomHistories.after`."""
        self._expire()
        history = self._histories.get(room)
        if history is None or place.epoch != history.epoch or place.offset > history.offset:
            return None
        skipped = place.offset - (history.offset - len(history.messages))
        if skipped < 0:
            return None
        return [delivered for _, delivered in islice(history.messages, skipped, None)]

    def latest(self, room: str, limit: int) -> Sequence[Delivered]:
        """See `RoomHistories.latest`."""
        self._expire()
        history = self._histories.get(room)
        if history is None:
            return []
        skipped = max(0, len(history.messages) - limit)
        return [delivered for _, delivered in islice(history.messages, skipped, None)]

    def view(self, room: str) -> HistoryView | None:
        """See `RoomHistories.view`."""
        self._expire()
        history = self._histories.get(room)
        if history is None:
            return None
        return HistoryView(history.position, len(history.messages), history.create_time_ns)

    def names(self) -> Sequence[str]:
        """See `RoomHistories.names`."""
        self._expire()
        return self._names.names

    def _made(self, room: str, policy: HistoryPolicy, now_ns: int) -> _History:
        """A room's history, begun where there is none."""
        self._expire()
        history = self._histories.get(room)
        if history is None:
            history = self._histories[room] = _History(room, now_ns, policy.ttl_ns)
            self._bytes += ROOM_BYTES
        return history

    def _watch(self, history: _History) -> None:
        """Has a history looked at when its first message expires, or its count ends."""
        if not history.watched:
            history.watched = True
            due = history.messages[0][0] if history.messages else history.idle_until
            heappush(self._due, (due, next(self._ties), history))

    def _expire(self) -> None:
        """Forgets what has expired by now."""
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            history = heappop(self._due)[2]
            history.watched = False
            if self._histories.get(history.room) is not history:
                continue
            while history.messages and history.messages[0][0] <= now:
                self._forget_first(history)
            if history.messages or (not history.held and history.idle_until > now):
                self._watch(history)
            elif not history.held:
                self._forget(history)

    def _make_room(self) -> None:
        """Empties the histories that were sent to longest ago, until all are small enough."""
        if self._bytes <= self._max_bytes:
            return
        for history in list(self._over()):
            while history.messages:
                self._forget_first(history)
            if not history.held:
                self._forget(history)
        newest = next(reversed(self._histories.values()))
        while self._bytes > self._max_bytes and len(newest.messages) > 1:
            self._forget_first(newest)

    def _over(self) -> Iterator[_History]:
        """The histories to be emptied, of which the newest is none."""
        excess = self._bytes - self._max_bytes
        newest = next(reversed(self._histories.values()))
        for history in self._histories.values():
            if excess <= 0 or history is newest:
                return
            if history.messages or not history.held:
                yield history
                excess -= history.size + ROOM_BYTES

    def _forget_first(self, history: _History) -> None:
        size = history.messages.popleft()[1].size
        self._bytes -= size
        history.size -= size
        if not history.messages:
            self._names.remove(history.room)

    def _forget(self, history: _History) -> None:
        del self._histories[history.room]
        self._bytes -= ROOM_BYTES

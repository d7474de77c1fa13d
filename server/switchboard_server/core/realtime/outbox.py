"""What waits for a connection, in order and bounded.

When it is full, the oldest messages that are in no room's history make room, and their number is
told. When only such wait as a history can bring back, or words about the connection, it is full for
good: the connection has to come back and recover.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from switchboard_server.core.realtime.items import Dropped, Item, Joined, Left, Started
from switchboard_server.core.realtime.messages import Delivered
from switchboard_server.core.realtime.notices import Gathering, Waiting

if TYPE_CHECKING:
    from switchboard_server.core.realtime.connection import Connection

WORD_BYTES = 256
"""What a word about the connection costs, about."""


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """How much may wait for one connection.

    Args:
        messages: Most messages, words about the connection included.
        bytes: Most bytes: JSON of the contents, and a little for each message. A single message
            may have more.
    """

    messages: int = 1000
    bytes: int = 1024 * 1024


class _Word:
    """A word about the connection."""

    __slots__ = ("item", "number")

    def __init__(self, number: int, item: Item) -> None:
        self.number = number
        self.item = item


class _Replay:
    """Messages of a room's history; what they cost is the history's."""

    __slots__ = ("messages", "number", "taken")

    def __init__(self, messages: Sequence[Delivered]) -> None:
        # It follows its word at once: everything that was sent later has a higher number.
        self.number = 0
        self.messages = messages
        self.taken = 0

    def take(self, items: list[Item], max_bytes: int) -> int:
        """Adds messages to the items, and returns their bytes."""
        size = 0
        while self.taken < len(self.messages) and size < max_bytes:
            delivered = self.messages[self.taken]
            items.append(delivered)
            self.taken += 1
            size += delivered.size
        return size


class Outbox:
    """The queue of one connection. Its methods are called in the event loop and never wait.

    Items carry numbers that grow with time, and wait in two queues by what may be done to them;
    `take` merges these by number. They are lists, since most are empty most of the time, and an
    empty deque takes ten times the memory.

    Args:
        limits: How much may wait.
        wake: Is called when something waits again, after `take` had left nothing.

    Attributes:
        dropped: How many messages were dropped.
    """

    __slots__ = (
        "_bytes",
        "_idle",
        "_kept",
        "_limits",
        "_loose",
        "_notices",
        "_unsaid",
        "_wake",
        "_words",
        "dropped",
    )

    def __init__(self, limits: OutboxLimits, wake: Callable[[], None]) -> None:
        self._limits = limits
        self._wake = wake
        self._kept: list[Delivered | _Word | _Replay | Waiting] = []
        self._loose: list[Delivered] = []
        self._notices: dict[str, Waiting] = {}
        self._words = 0
        self._bytes = 0
        self._unsaid = 0
        self._idle = True
        self.dropped = 0

    def __len__(self) -> int:
        """How many messages and words wait; a replay counts as one."""
        return len(self._kept) + len(self._loose)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, as far as `take` has told; `wake` is called when that ends."""
        return self._idle

    @property
    def size(self) -> int:
        """Bytes that wait, about."""
        return self._bytes

    def offer(self, delivered: Delivered) -> bool:
        """Takes a message.

        Returns:
            Whether it was taken. If not, it is dropped and counted; or, where it is in a history,
            the outbox is full for good.
        """
        size = delivered.size
        limits = self._limits
        if (
            len(self._kept) + len(self._loose) >= limits.messages
            or self._bytes + size > limits.bytes
        ) and not self._make_room(1, size):
            if not delivered.recoverable:
                self._drop(1)
            return False
        if delivered.recoverable:
            self._kept.append(delivered)
        else:
            self._loose.append(delivered)
        self._bytes += size
        if self._idle:
            self._idle = False
            self._wake()
        return True

    def tell(self, number: int, item: Started | Joined | Left) -> bool:
        """Takes a word about the connection.

        Returns:
            Whether it was taken; if not, the outbox is full for good.
        """
        if not self._make_room(1, WORD_BYTES):
            return False
        self._bytes += WORD_BYTES
        self._add(_Word(number, item))
        return True

    def replay(self, messages: Sequence[Delivered]) -> None:
        """Takes what is replayed after the word that was told last.

        It is not held against the limits, so that a room whose history is longer than an outbox can
        be recovered; the next word is.
        """
        if messages:
            self._add(_Replay(messages))

    def notify(self, number: int, watcher: Connection, gathering: Gathering) -> bool:
        """Takes what is to change in a room, together with what waits to be told of it.

        Returns:
            As of `tell`.
        """
        name = gathering.room.name
        waiting = self._notices.get(name)
        if waiting is not None:
            self._bytes += waiting.add(gathering)
            return self._make_room(0, 0)
        if not self._make_room(1, WORD_BYTES):
            return False
        waiting = self._notices[name] = Waiting(number, watcher, gathering, WORD_BYTES)
        self._bytes += WORD_BYTES
        self._add(waiting)
        return True

    def forget_notice(self, room: str) -> None:
        """Takes back what waits to be told of a room's joins and leaves."""
        waiting = self._notices.pop(room, None)
        if waiting is not None:
            self._kept.remove(waiting)
            self._words -= 1
            self._bytes -= waiting.size

    def take(self, max_bytes: int) -> list[Item]:
        """Hands out what comes next.

        Args:
            max_bytes: Stop when so many bytes are handed out, at least 1; the last item may exceed
                it.

        Returns:
            The items in order; empty: nothing waits.
        """
        items: list[Item] = []
        if self._unsaid:
            items.append(Dropped(self._unsaid))
            self._unsaid = 0
        if not self._kept and self._bytes <= max_bytes:
            items += self._loose
            self._loose.clear()
            self._bytes = 0
        elif not self._words and not self._loose and self._bytes <= max_bytes:
            items += self._kept  # type: ignore[arg-type]  # without words these are messages
            self._kept.clear()
            self._bytes = 0
        else:
            self._merge(items, max_bytes)
        self._idle = not self._kept and not self._loose
        return items

    def detach(self) -> None:
        """Wakes nobody from now on; what waits can still be taken."""
        self._wake = _nobody

    def clear(self) -> None:
        """Forgets all that waits."""
        self._kept.clear()
        self._loose.clear()
        self._notices.clear()
        self._words = self._bytes = self._unsaid = 0

    def _merge(self, items: list[Item], max_bytes: int) -> None:
        kept, loose = self._kept, self._loose
        at = loose_at = 0
        left = max_bytes
        while left > 0 and (at < len(kept) or loose_at < len(loose)):
            if loose_at < len(loose) and (
                at == len(kept) or loose[loose_at].number < kept[at].number
            ):
                left -= self._hand_out(loose[loose_at], items)
                loose_at += 1
                continue
            head = kept[at]
            if isinstance(head, _Replay):
                left -= head.take(items, left)
                if head.taken < len(head.messages):
                    break
                self._words -= 1
            else:
                left -= self._hand_out(head, items)
            at += 1
        del kept[:at], loose[:loose_at]

    def _hand_out(self, head: Delivered | _Word | Waiting, items: list[Item]) -> int:
        """Adds what stands at the head of a queue to the items, and returns its bytes."""
        if isinstance(head, Delivered):
            items.append(head)
            self._bytes -= head.size
            return head.size
        self._words -= 1
        if isinstance(head, _Word):
            items.append(head.item)
            self._bytes -= WORD_BYTES
            return WORD_BYTES
        del self._notices[head.room]
        self._bytes -= head.size
        notice = head.notice()
        if notice is None:
            return 0
        items.append(notice)
        return head.size

    def _add(self, word: _Word | _Replay | Waiting) -> None:
        self._kept.append(word)
        self._words += 1
        if self._idle:
            self._idle = False
            self._wake()

    def _make_room(self, entries: int, size: int) -> bool:
        """Drops messages that are in no history until there is room, and tells whether there is."""
        limits, loose = self._limits, self._loose
        while (
            len(self._kept) + len(loose) + entries > limits.messages
            or self._bytes + size > limits.bytes
        ):
            if not loose:
                return not self._kept
            self._bytes -= loose.pop(0).size
            self._drop(1)
        return True

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._unsaid += count


def _nobody() -> None:
    """Wakes nobody."""

"""What is ready, by priority and by the order of the log, and never starving anyone."""

from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

from switchboard_server.core.groups.entries import Entry
from switchboard_server.core.validation import PRIORITIES

FAIR_TURN = 8
"""Every so many deliveries one goes to what has been ready longest, whatever its priority."""


class _Level:
    """The entries of one priority in the order of the log."""

    def __init__(self) -> None:
        # What is read comes in order; only what has come back does not. One of the latter comes
        # before the last in order, so where there are others, that one is still there.
        self._in_order: deque[Entry] = deque()
        self._others: list[Entry] = []

    def __len__(self) -> int:
        return len(self._in_order) + len(self._others)

    def __iter__(self) -> Iterator[Entry]:
        yield from self._in_order
        yield from self._others

    def first(self) -> Entry:
        """The first entry; there must be one."""
        if not self._others:
            return self._in_order[0]
        return min(self._in_order[0], self._others[0])

    def rank(self) -> tuple[int, int]:
        """The larger it is, the sooner it is the turn of the first entry."""
        first = self.first()
        return first.priority, -first.sequence

    def push(self, entry: Entry) -> None:
        """Adds an entry."""
        if not self._in_order or self._in_order[-1].sequence < entry.sequence:
            self._in_order.append(entry)
        else:
            heappush(self._others, entry)

    def push_all(self, entries: Sequence[Entry]) -> None:
        """Adds entries that are in the order of the log."""
        if entries and (not self._in_order or self._in_order[-1] < entries[0]):
            self._in_order.extend(entries)
        else:
            for entry in entries:
                self.push(entry)

    def pop_all(self, most: int) -> list[Entry] | None:
        """Takes out the first entries; None: they have to be taken one by one."""
        if self._others:
            return None
        if most >= len(self._in_order):
            entries = list(self._in_order)
            self._in_order.clear()
            return entries
        take = self._in_order.popleft
        return [take() for _ in range(most)]

    def pop(self) -> Entry:
        """Takes out the first entry; there must be one."""
        if not self._others or self._in_order[0] < self._others[0]:
            return self._in_order.popleft()
        return heappop(self._others)

    def clear(self) -> None:
        """Forgets all entries."""
        self._in_order.clear()
        self._others.clear()


class ReadyQueue:
    """Entries that wait for a member, given out by the rule that GroupService states."""

    def __init__(self) -> None:
        self._levels = {priority: _Level() for priority in PRIORITIES}
        self._order = [self._levels[priority] for priority in PRIORITIES[::-1]]
        self._turn = 0
        self._count = 0

    def __len__(self) -> int:
        """How many entries are ready."""
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        """The entries, in no order."""
        for level in self._order:
            yield from level

    def count(self, priority: int) -> int:
        """How many entries of a priority are ready."""
        return len(self._levels[priority])

    def push(self, entry: Entry) -> None:
        """Adds an entry."""
        self._levels[entry.priority].push(entry)
        self._count += 1

    def push_all(self, priority: int, entries: Sequence[Entry]) -> None:
        """Adds entries of one priority that are in the order of the log."""
        self._levels[priority].push_all(entries)
        self._count += len(entries)

    def pop_all(self, most: int) -> list[Entry]:
        """Takes out the next entries, so many at most, as `pop` does one by one."""
        most = min(most, self._count)
        # Mostly they are all of one priority, and then it is nobody's turn but the first one's.
        level = self._highest() if most else self._order[0]
        if most and len(level) == self._count:
            entries = level.pop_all(most)
            if entries is not None:
                self._turn += len(entries)
                self._count -= len(entries)
                return entries
        return [self.pop() for _ in range(most)]

    def pop(self, beside: "ReadyQueue | None" = None) -> Entry:
        """Takes out the next entry; there must be one.

        Args:
            beside: Its entries are given out in turn with those of this queue, as if they were one.
        """
        self._turn += 1
        fair = not self._turn % FAIR_TURN
        chosen = self
        if beside:
            if not self._count:
                chosen = beside
            elif fair:
                both = (self, beside)
                chosen = min(both, key=lambda each: each._longest().first().ready_ns)
            else:
                chosen = max((self, beside), key=lambda each: each._highest().rank())
        level = chosen._longest() if fair else chosen._highest()
        chosen._count -= 1
        return level.pop()

    def _longest(self) -> _Level:
        return min(filter(len, self._order), key=_waiting_since)

    def _highest(self) -> _Level:
        for level in self._order:
            if level._in_order:  # Where there are others, the last in order is still there.
                return level
        raise IndexError("nothing is ready")

    def clear(self) -> list[Entry]:
        """Takes out all entries, in no order."""
        entries = list(self)
        for level in self._order:
            level.clear()
        self._count = 0
        return entries


def _waiting_since(level: _Level) -> int:
    return level.first().ready_ns

"""When something is due: deadlines of deliveries, and ends of waits."""

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from switchboard_server.core.groups.entries import Entry, State

_SLACK = 1024
"""Alarms that are out of date and may lie about, beyond as many as are valid."""
_IN_FLIGHT, _RETRYING = State.IN_FLIGHT, State.RETRYING


class Alarms:
    """An alarm holds while its entry is in flight or waits, and has no other one set later.

    Those that are out of date are passed over when it is their turn.
    """

    def __init__(self) -> None:
        # Nearly all are deadlines of one and the same length, which come in the order of time.
        self._in_order: deque[tuple[int, Entry]] = deque()
        self._others: list[tuple[int, int, Entry]] = []

    def __len__(self) -> int:
        """How many are kept, those that do not hold any more included."""
        return len(self._in_order) + len(self._others)

    def set(self, entry: Entry, due_ns: int, valid: int) -> None:
        """Sets an entry's alarm.

        Args:
            entry: Becomes due; an earlier alarm of it does not hold any more.
            due_ns: When, Unix time in nanoseconds.
            valid: How many entries are in flight or wait.
        """
        entry.due_ns = due_ns
        if len(self) > _SLACK + 2 * valid:
            self._in_order = deque(each for each in self._in_order if _holds(*each))
            self._others = [each for each in self._others if _holds(each[0], each[2])]
            heapify(self._others)
        heappush(self._others, (due_ns, entry.nonce, entry))

    def set_in_order(self, entry: Entry, due_ns: int, valid: int) -> None:
        """As `set`, where alarms so set are mostly due one after the other."""
        in_order = self._in_order
        if (in_order and due_ns < in_order[-1][0]) or len(self) > _SLACK + 2 * valid:
            self.set(entry, due_ns, valid)
        else:
            entry.due_ns = due_ns
            in_order.append((due_ns, entry))

    def set_all_in_order(self, entries: Sequence[Entry], due_ns: int, valid: int) -> None:
        """As `set_in_order`, for entries that are due at the same time."""
        in_order = self._in_order
        if (in_order and due_ns < in_order[-1][0]) or len(self) > _SLACK + 2 * valid:
            for entry in entries:
                self.set_in_order(entry, due_ns, valid)
        else:
            for entry in entries:
                entry.due_ns = due_ns
            in_order.extend([(due_ns, entry) for entry in entries])

    def due(self, now_ns: int) -> Entry | None:
        """Takes an entry that is due by now; None: there is none."""
        earliest_ns = self.next_ns()
        if earliest_ns is None or earliest_ns > now_ns:
            return None
        if self._in_order and self._in_order[0][0] == earliest_ns:
            return self._in_order.popleft()[1]
        return heappop(self._others)[2]

    def next_ns(self) -> int | None:
        """When the next entry is due; None: never."""
        in_order, others = self._in_order, self._others
        while in_order and not _holds(*in_order[0]):
            in_order.popleft()
        while others and not _holds(others[0][0], others[0][2]):
            heappop(others)
        if not in_order:
            return others[0][0] if others else None
        return min(in_order[0][0], others[0][0]) if others else in_order[0][0]

    def clear(self) -> None:
        """Forgets all."""
        self._in_order.clear()
        self._others.clear()


def _holds(due_ns: int, entry: Entry) -> bool:
    return entry.due_ns == due_ns and (entry.state is _IN_FLIGHT or entry.state is _RETRYING)

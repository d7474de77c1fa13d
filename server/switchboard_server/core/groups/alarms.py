"""When something is due: deadlines of deliveries, and ends of waits."""

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import islice

from switchboard_server.core.groups.entries import Entry, State

_SLACK = 1024
"""Alarms that are out of date and may lie about, beyond as many as are valid."""
_IN_FLIGHT, _RETRYING = State.IN_FLIGHT, State.RETRYING


class Alarms:
    """An alarm holds while its entry is in flight or waits, and has no other one set later.

    Those that are out of date are passed over when it is their turn.
    """

    def __init__(self) -> None:
        # Nearly all are deadlines of one and the same length, which come in the order of time, and
        # many at once. Of the first run what lies before `_at` has been passed over.
        self._runs: deque[tuple[int, Sequence[Entry]]] = deque()
        self._at = 0
        self._in_runs = 0
        self._others: list[tuple[int, int, Entry]] = []

    def __len__(self) -> int:
        """How many are kept, those that do not hold any more included."""
        return self._in_runs + len(self._others)

    def set(self, entry: Entry, due_ns: int, valid: int) -> None:
        """Sets an entry's alarm.

        Args:
            entry: Becomes due; an earlier alarm of it does not hold any more.
            due_ns: When, Unix time in nanoseconds.
            valid: How many entries are in flight or wait.
        """
        entry.due_ns = due_ns
        if len(self) > _SLACK + 2 * valid:
            self._tidy()
        heappush(self._others, (due_ns, entry.nonce, entry))

    def set_in_order(self, entries: Sequence[Entry], due_ns: int, valid: int) -> None:
        """As `set`, for entries due at one time, where alarms so set mostly follow one another.

        Args:
            entries: Become due. Must not change afterwards.
            due_ns: When, Unix time in nanoseconds.
            valid: How many entries are in flight or wait.
        """
        runs = self._runs
        if not entries:
            return
        if (runs and due_ns < runs[-1][0]) or len(self) > _SLACK + 2 * valid:
            for entry in entries:
                self.set(entry, due_ns, valid)
        else:
            for entry in entries:
                entry.due_ns = due_ns
            runs.append((due_ns, entries))
            self._in_runs += len(entries)

    def due(self, now_ns: int) -> Entry | None:
        """Takes an entry that is due by now; None: there is none."""
        earliest_ns = self.next_ns()
        if earliest_ns is None or earliest_ns > now_ns:
            return None
        if self._runs and self._runs[0][0] == earliest_ns:
            entry = self._runs[0][1][self._at]
            self._pass(1)
            return entry
        return heappop(self._others)[2]

    def next_ns(self) -> int | None:
        """When the next entry is due; None: never."""
        runs, others = self._runs, self._others
        while runs:
            due_ns, entries = runs[0]
            at = self._at
            for entry in islice(entries, at, None):
                # As `_holds` does, without the call.
                if entry.due_ns == due_ns and (
                    entry.state is _IN_FLIGHT or entry.state is _RETRYING
                ):
                    break
                at += 1
            self._pass(at - self._at)
            if at < len(entries):
                break
        while others and not _holds(others[0][0], others[0][2]):
            heappop(others)
        if not runs:
            return others[0][0] if others else None
        return min(runs[0][0], others[0][0]) if others else runs[0][0]

    def clear(self) -> None:
        """Forgets all."""
        self._runs.clear()
        self._at = self._in_runs = 0
        self._others.clear()

    def _pass(self, count: int) -> None:
        """Passes over the next alarms of the first run."""
        self._at += count
        self._in_runs -= count
        if self._at == len(self._runs[0][1]):
            self._runs.popleft()
            self._at = 0

    def _tidy(self) -> None:
        """Forgets all that do not hold any more."""
        kept = deque[tuple[int, Sequence[Entry]]]()
        for due_ns, entries in self._runs:
            held = [each for each in islice(entries, self._at, None) if _holds(due_ns, each)]
            self._at = 0
            if held:
                kept.append((due_ns, held))
        self._runs = kept
        self._in_runs = sum(len(held) for _, held in kept)
        self._others = [each for each in self._others if _holds(each[0], each[2])]
        heapify(self._others)


def _holds(due_ns: int, entry: Entry) -> bool:
    return entry.due_ns == due_ns and (entry.state is _IN_FLIGHT or entry.state is _RETRYING)

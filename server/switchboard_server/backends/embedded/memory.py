"""Batches in memory: for tests, and for hubs that need no yesterday."""

import secrets
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from operator import attrgetter, itemgetter

from switchboard_server.backends.embedded.group_memory import MemoryGroups
from switchboard_server.backends.embedded.store import Commit, Due, Retention, StoreState
from switchboard_server.core.groups.changes import DeadLetter
from switchboard_server.core.groups.ports import Found, StoredGroup
from switchboard_server.core.ports import Capabilities, ReadResult, RecentId, Window
from switchboard_server.core.records import Batch, Drafts

_last = attrgetter("last")
_time = attrgetter("time_ns")


class MemoryStore:
    """A `Store` that a restart empties.

    Args:
        retention: What is kept; bytes are those of encoded events.
    """

    capabilities = Capabilities(
        name="memory",
        durable="nothing: held in memory only",
        survives_restart=False,
        contiguous=True,
    )
    blocks = False

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._lock = threading.Lock()
        self._batches: list[Batch] = []
        self._bytes = 0
        self._window = Window(1, 0)
        self._scheduled: list[tuple[int, int, Drafts, int]] = []
        self._rows = 0
        self._groups = MemoryGroups()

    def open(self) -> StoreState:
        """See `Store.open`."""
        return StoreState(secrets.token_hex(4), self._window, 0, None)

    def commit(self, work: Commit) -> None:
        """See `Store.commit`."""
        self._groups.apply(work.groups)
        with self._lock:
            for batch in work.batches:
                self._batches.append(batch)
                self._bytes += len(batch.frames)
                self._window = Window(self._window.first, batch.last)
            if work.released:
                gone = set(work.released)
                self._scheduled = [each for each in self._scheduled if each[1] not in gone]
            for drafts in work.scheduled:
                for index in range(len(drafts)):
                    self._rows += 1
                    due_ns = drafts.extras[index].deliver_at_ns
                    insort(
                        self._scheduled,
                        (due_ns, self._rows, drafts.select([index]), work.time_ns),
                    )

    def due(self, now_ns: int, limit: int) -> Due:
        """See `Store.due`."""
        ready = [each for each in self._scheduled[:limit] if each[0] <= now_ns]
        following = self._scheduled[len(ready) : len(ready) + 1]
        return Due(
            rows=[each[1] for each in ready],
            drafts=[each[2] for each in ready],
            next_due_ns=following[0][0] if following else None,
        )

    def check(self) -> None:
        """See `Store.check`."""

    def probe(self) -> None:
        """See `Store.probe`."""

    def trim(self, now_ns: int) -> Window | None:
        """See `Store.trim`."""
        age, limit = self._retention.age_ns, self._retention.bytes
        with self._lock:
            number = 0
            while number < len(self._batches):
                batch = self._batches[number]
                old = age and batch.time_ns <= now_ns - age
                if not old and not (limit and self._bytes > limit):
                    break
                self._bytes -= len(batch.frames)
                self._window = Window(batch.last + 1, self._window.last)
                number += 1
            del self._batches[:number]
            return self._window if number else None

    def size(self) -> int:
        """See `Store.size`."""
        return self._bytes

    def read(self, after: int, max_bytes: int, priority: int = 0) -> ReadResult:
        """See `Store.read`."""
        with self._lock:
            found, size = list[Batch](), 0
            for number in range(bisect_right(self._batches, after, key=_last), len(self._batches)):
                batch = self._batches[number]
                if size >= max_bytes:
                    break
                if not priority or any(route.priority == priority for route in batch.routes):
                    found.append(batch)
                    size += len(batch.frames)
            return ReadResult(found, self._window)

    def read_backward(self, before: int, max_bytes: int) -> ReadResult:
        """See `Store.read_backward`."""
        with self._lock:
            stop = bisect_left(self._batches, before, key=attrgetter("first"))
            start, size = stop, 0
            while start > 0 and size < max_bytes:
                start -= 1
                size += len(self._batches[start].frames)
            return ReadResult(self._batches[start:stop], self._window)

    def sequence_before(self, time_ns: int) -> int:
        """See `Store.sequence_before`."""
        with self._lock:
            number = bisect_left(self._batches, time_ns, key=_time)
            return self._batches[number - 1].last if number else self._window.first - 1

    def recent_ids(self, since_ns: int, limit: int) -> Sequence[RecentId]:
        """See `Store.recent_ids`."""
        found = [
            RecentId(batch.route(index).source_service, each, batch.first + index, batch.time_ns)
            for batch in self._batches[bisect_left(self._batches, since_ns, key=_time) :]
            for index, each in sorted(batch.ids.items())
        ]
        found += [
            RecentId(drafts.route(0).source_service, drafts.ids[0], 0, accepted_ns)
            for _, _, drafts, accepted_ns in sorted(self._scheduled, key=itemgetter(1))
            if drafts.ids and drafts.ids[0] and accepted_ns >= since_ns
        ]
        found.sort(key=_time)
        return found[-limit:]

    def read_each(self, sequences: Sequence[int]) -> Found:
        """See `Store.read_each`."""
        found: dict[int, Batch] = {}
        with self._lock:
            for sequence in sequences:
                number = bisect_left(self._batches, sequence, key=_last)
                if number < len(self._batches) and self._batches[number].first <= sequence:
                    found[sequence] = self._batches[number]
        return Found(found)

    def groups(self) -> Sequence[StoredGroup]:
        """See `Store.groups`: a new process finds none."""
        return ()

    def dead_letters(
        self, number: int, before: tuple[int, int] | None, limit: int
    ) -> Sequence[DeadLetter]:
        """See `Store.dead_letters`."""
        return self._groups.before(number, before, limit)

    def dead_letters_of(self, number: int, sequences: Sequence[int]) -> Sequence[DeadLetter]:
        """See `Store.dead_letters_of`."""
        return self._groups.of(number, sequences)

    def redriven(self, number: int, after: int, limit: int) -> Sequence[DeadLetter]:
        """See `Store.redriven`."""
        return self._groups.redriven(number, after, limit)

    def close(self) -> None:
        """See `Store.close`."""

"""Reads the log ahead for a group: from the tail while it keeps up, else from the log."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from switchboard_server.core.groups.config import Mode
from switchboard_server.core.groups.entries import Entry
from switchboard_server.core.groups.ledger import Ledger
from switchboard_server.core.groups.ports import GroupStore
from switchboard_server.core.ports import EventLog
from switchboard_server.core.records import Batch, Run, count
from switchboard_server.core.subscription import Gap
from switchboard_server.core.tail import Audience, Match, Tail
from switchboard_server.core.validation import PRIORITIES

READ_BYTES = 1024 * 1024
"""How much of the log is read at once."""


@dataclass(slots=True)
class _Lane:
    """One priority, or in a KEY_SHARED group all of them, on its way through the log."""

    priorities: tuple[int, ...]
    wanted: int
    number: int = -1


class Reader:
    """The place of a group in the log.

    A queue reads each priority by itself, so that a critical event behind a million others is found
    at once. A KEY_SHARED group reads all as one, for the order of its keys.

    Args:
        ledger: Where it stands, and who takes what is read.
        tail: The newest part of the log.
        log: All of it.

    Attributes:
        audience: What the tail has for the group.
    """

    def __init__(self, ledger: Ledger, tail: Tail, log: EventLog) -> None:
        self._ledger = ledger
        self._tail = tail
        self._log = log
        self._wish = ledger.config.filter
        self.audience: Audience = tail.join(self._wish)
        self._counted_from = tail.last
        self._counted_number = self.audience.end
        self._unread = dict.fromkeys(PRIORITIES, 0)
        self._gaps = tail.gaps
        self._generation = 0
        self._told = 0
        self._unread_ns: int | None = None
        if ledger.config.mode is Mode.KEY_SHARED:
            self._lanes = [_Lane(PRIORITIES, 0)]
        else:
            self._lanes = [_Lane((each,), each) for each in PRIORITIES[::-1]]

    def close(self) -> None:
        """Leaves the tail."""
        self._tail.leave(self.audience)

    def restart(self) -> None:
        """Goes on from where the ledger stands now."""
        self._generation += 1
        self._count_anew()
        for lane in self._lanes:
            lane.number = -1

    @property
    def exact(self) -> bool:
        """Whether it is known how many events are still to be read."""
        return min(self._ledger.cursors.values()) >= self._counted_from

    @property
    def unread(self) -> int:
        """How many events are still to be read; if not exact, at most."""
        behind = max(0, self._counted_from - min(self._ledger.cursors.values()))
        return behind + sum(self._unread.values())

    @property
    def unread_ns(self) -> int | None:
        """When the oldest event that is still to be read entered the log, or one before it.

        Only known while nothing that came after it has been read; None: there is none, or it is
        not known.
        """
        return self._unread_ns if self.unread else None

    async def look(self, store: GroupStore) -> None:
        """Finds out since when there is something to be read.

        Args:
            store: Reads single events; of many groups that have come to the same place, all but the
                first find it at hand.

        Raises:
            UnavailableError: The log cannot be read now.
        """
        if self.unread:
            first = max(min(self._ledger.cursors.values()) + 1, self._log.window.first)
            batch = (await store.read_each([first])).batches.get(first)
            self._unread_ns = batch.time_ns if batch is not None else None

    def noted(self) -> None:
        """Counts what has been offered to the audience since the last call."""
        audience = self.audience
        if self._counted_number < audience.first or self._gaps != self._tail.gaps:
            # Something has left the tail before it could be counted, or never was in it.
            self._gaps = self._tail.gaps
            self._count_anew()
        for number in range(self._counted_number, audience.end):
            match = audience.matches[number]
            if not self.unread:
                self._unread_ns = match.batch.time_ns
            for priority, found in _by_priority(match.batch, match.runs):
                self._unread[priority] += found
        self._counted_number = audience.end
        if not self._ledger.holders:
            self._pass_over()

    def fill(self) -> bool:
        """Reads ahead what is in memory.

        Returns:
            Whether the log has to be read for more.
        """
        behind = False
        for lane in self._lanes:
            while room := self._ledger.window(lane.priorities[0]):
                if self._cursor(lane) < self.audience.floor:
                    lane.number = -1
                    behind = True
                    break
                if not self._step(lane, room):
                    break
        return behind

    async def read(self) -> Gap | None:
        """Reads from the log what is not in memory any more, a piece at a time.

        Returns:
            Events that are gone from the log, of which nobody has been told yet.

        Raises:
            UnavailableError: The log cannot be read now.
        """
        for lane in self._lanes:
            if not self._ledger.window(lane.priorities[0]):
                continue
            cursor, generation = self._cursor(lane), self._generation
            if cursor >= self.audience.floor:
                continue
            result = await self._log.read(cursor, READ_BYTES, lane.wanted)
            if generation != self._generation or cursor != self._cursor(lane):
                return None
            if result.window.first > cursor + 1:
                return self._skip(lane, result.window.first - 1)
            if result.lost is not None:
                return self._skip(lane, result.lost[1])
            entries: list[Entry] = []
            for batch in result.batches:
                runs = batch.matching(self._wish, max(0, cursor + 1 - batch.first))
                entries += self._entries(batch, runs, lane)
            last = result.batches[-1].last if result.batches else result.window.last
            self._offer(lane, entries, max(cursor, last))
            return None
        return None

    def _cursor(self, lane: _Lane) -> int:
        return self._ledger.cursors[lane.priorities[0]]

    def _step(self, lane: _Lane, room: int) -> bool:
        """Takes the next match of the tail; False where there is none."""
        audience = self.audience
        if lane.number < audience.first:
            lane.number = audience.number_after(self._cursor(lane))
        if lane.number == audience.end:
            self._offer(lane, (), max(self._cursor(lane), self._tail.last))
            return False
        entries: list[Entry] = []
        last = self._cursor(lane)
        while lane.number < audience.end and len(entries) < room:
            match: Match = audience.matches[lane.number]
            after = last + 1 - match.batch.first
            runs = match.runs if after <= 0 else _from(match.runs, after)
            entries += self._entries(match.batch, runs, lane)
            last = match.batch.last
            lane.number += 1
        self._offer(lane, entries, last)
        return True

    def _entries(self, batch: Batch, runs: Sequence[Run], lane: _Lane) -> Iterable[Entry]:
        if not any(route.priority in lane.priorities for route in batch.routes):
            return []
        keys = batch.ordering_keys if lane.wanted == 0 else {}
        expiries, first, time_ns = batch.expiries, batch.first, batch.time_ns
        plain = None if len(batch.routes) > 1 else batch.routes[0].priority
        if plain and not keys and not expiries:
            return [
                Entry(first + index, plain, "", time_ns, 0, batch, index)
                for start, stop in runs
                for index in range(start, stop)
            ]
        return [
            Entry(
                first + index,
                priority,
                keys.get(index, ""),
                time_ns,
                expiries.get(index, 0),
                batch,
                index,
            )
            for start, stop in runs
            for index in range(start, stop)
            if (priority := plain or batch.route(index).priority) in lane.priorities
        ]

    def _offer(self, lane: _Lane, entries: Sequence[Entry], last: int) -> None:
        if lane.wanted and entries and entries[0].sequence > self._counted_from:
            self._unread[lane.wanted] -= len(entries)
        else:
            for entry in entries:
                if entry.sequence > self._counted_from:
                    self._unread[entry.priority] -= 1
        self._ledger.offer(entries, dict.fromkeys(lane.priorities, last))

    def _skip(self, lane: _Lane, last: int) -> Gap | None:
        """Passes over what is gone."""
        first = max(self._cursor(lane), self._told) + 1
        self._ledger.offer((), dict.fromkeys(lane.priorities, last))
        if last <= self._told:
            return None
        self._told = last
        if last > self._counted_from:
            # Of what is gone it is not known how much had been counted.
            self._count_anew()
        return Gap(first, last)

    def _count_anew(self) -> None:
        self._counted_from = self._tail.last
        self._counted_number = self.audience.end
        self._unread = dict.fromkeys(PRIORITIES, 0)

    def _pass_over(self) -> None:
        """Moves on over what does not match, where that is known without reading."""
        if self.exact and not any(self._unread.values()):
            for lane in self._lanes:
                if self._cursor(lane) >= self.audience.floor:
                    self._offer(lane, (), max(self._cursor(lane), self._tail.last))


def _by_priority(batch: Batch, runs: Sequence[Run]) -> Iterable[tuple[int, int]]:
    if len(batch.routes) == 1:
        return [(batch.routes[0].priority, count(runs))]
    return [
        (batch.route(index).priority, 1) for start, stop in runs for index in range(start, stop)
    ]


def _from(runs: Sequence[Run], index: int) -> list[Run]:
    return [(max(start, index), stop) for start, stop in runs if stop > index]

"""Reads single events of a log that only reads ranges, and dearly."""

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Sequence

from switchboard_server.core.events import EventHub
from switchboard_server.core.groups.ports import Found
from switchboard_server.core.records import Batch

RANGE_BYTES = 256 * 1024
"""How much is read at once: what follows an event that is wanted is mostly wanted soon."""
KEPT_BYTES = 8 * 1024 * 1024
"""How much of what was read is kept."""


class Fetcher:
    """Finds single events in the tail, in what was read lately, or in the log.

    A KEY_SHARED group wants the first event of each of its keys, over and over: they lie near each
    other, and each by itself would cost a consumer.

    Args:
        events: The node's events.
        kept_bytes: How much of what was read is kept.
    """

    def __init__(self, events: EventHub, kept_bytes: int = KEPT_BYTES) -> None:
        self._events = events
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[int, Batch] = OrderedDict()
        self._firsts: list[int] = []
        self._size = 0
        self._reading = asyncio.Lock()

    async def read_each(self, sequences: Sequence[int]) -> Found:
        """See `GroupStore.read_each`."""
        found: dict[int, Batch] = {}
        wanted = self._at_hand(sequences, found)
        if wanted:
            # One after the other: groups that are taken up together want the same.
            async with self._reading:
                await self._read(self._at_hand(wanted, found), found)
        return Found(found)

    def _at_hand(self, sequences: Sequence[int], found: dict[int, Batch]) -> list[int]:
        """Finds what need not be read; returns the rest."""
        wanted: list[int] = []
        for sequence in sequences:
            batch = self._events.tail.find(sequence) or self._recall(sequence)
            if batch is None:
                wanted.append(sequence)
            else:
                found[sequence] = batch
        return wanted

    async def _read(self, wanted: list[int], found: dict[int, Batch]) -> None:
        at = 0
        while at < len(wanted):
            result = await self._events.log.read(wanted[at] - 1, RANGE_BYTES)
            read = max(wanted[at], result.window.first - 1)
            if result.lost is not None:
                read = max(read, result.lost[1])
            for batch in result.batches:
                self._keep(batch)
                start, stop = bisect_left(wanted, batch.first), bisect_right(wanted, batch.last)
                found.update(dict.fromkeys(wanted[start:stop], batch))
                read = max(read, batch.last)
            at = bisect_right(wanted, read)

    def _recall(self, sequence: int) -> Batch | None:
        place = bisect_right(self._firsts, sequence) - 1
        if place < 0:
            return None
        first = self._firsts[place]
        batch = self._kept[first]
        if batch.last < sequence:
            return None
        self._kept.move_to_end(first)
        return batch

    def _keep(self, batch: Batch) -> None:
        if batch.first in self._kept:
            return
        self._kept[batch.first] = batch
        insort(self._firsts, batch.first)
        self._size += batch.weight
        while self._size > self._kept_bytes and len(self._kept) > 1:
            first, old = self._kept.popitem(last=False)
            del self._firsts[bisect_left(self._firsts, first)]
            self._size -= old.weight

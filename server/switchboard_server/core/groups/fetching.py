"""Reads single events of a log that only reads ranges, and dearly."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from switchboard_server.core.groups.ports import Found
from switchboard_server.core.ports import EventLog
from switchboard_server.core.records import Batch
from switchboard_server.core.tail import Tail

RANGE_BYTES = 1024 * 1024
"""How much is read at once where several of the events wanted are near each other."""
NEAR = 10_000
"""Events that are not wanted, which one reads rather than asking the log once more."""


async def read_each(sequences: Sequence[int], tail: Tail, log: EventLog) -> Found:
    """Reads the batches that hold some events, from the tail what is there.

    Args:
        sequences: In ascending order.
        tail: The newest part of the log.
        log: All of it.

    Raises:
        UnavailableError: The log cannot be read now.
    """
    found: dict[int, Batch] = {}
    behind = bisect_right(sequences, tail.floor)
    if behind < len(sequences):
        # First, and without a wait: what leaves the tail meanwhile would be missed.
        for batch in tail.read(sequences[behind] - 1, _EVERYTHING):
            _note(found, sequences, batch)
    at = 0
    while at < behind:
        first = sequences[at]
        last = sequences[at + 1] if at + 1 < behind else first
        near = first < last <= first + NEAR
        result = await log.read(first - 1, RANGE_BYTES if near else 1)
        for batch in result.batches:
            _note(found, sequences, batch)
        read = result.batches[-1].last if result.batches else first
        if result.lost is not None:
            read = max(read, result.lost[1])
        at = bisect_right(sequences, max(read, result.window.first - 1, first))
    return Found(found)


_EVERYTHING = 1 << 62


def _note(found: dict[int, Batch], sequences: Sequence[int], batch: Batch) -> None:
    start, stop = bisect_left(sequences, batch.first), bisect_right(sequences, batch.last)
    found.update(dict.fromkeys(sequences[start:stop], batch))

"""What the hub counts, as plain numbers for whoever shows them."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COMMIT_BOUNDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper bounds of the buckets for the duration of transactions, in seconds."""


class Histogram:
    """Values counted by size.

    Args:
        bounds: Upper bound of each bucket but the last, which has none; ascending.

    Attributes:
        counts: How many values each bucket has.
        total: Their sum.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(frozen=True, slots=True)
class EventStats:
    """The hub's events at one moment. Counts are since the start of the process.

    Args:
        published: Events that entered the log.
        scheduled: Events stored for later.
        duplicates: Events that were published again and answered with their first result.
        refused: Events that were not accepted, by the reason of the error.
        delivered: Events handed to subscribers, once for each.
        gaps: Times that a subscriber was told of missing events.
        trimmed: Events that retention removed.
        log_events: Events in the log.
        log_bytes: Size of the log.
        first_sequence: Sequence of the oldest event in the log; 0: it is empty.
        last_sequence: Sequence of the newest event that ever entered the log; 0: there was none.
        subscribers: Open subscriptions.
        slow_readers: Those of them that are behind the tail, or have taken nothing for seconds.
        tail_bytes: Bytes of memory that the newest events take, about.
        pending_bytes: Bytes of the events that wait to become durable.
        remembered_ids: Ids that the idempotency window holds.
        forgotten_ids: Ids that it forgot before their time, for want of room.
        commits: How long transactions took, in seconds.
    """

    published: int
    scheduled: int
    duplicates: int
    refused: Mapping[str, int]
    delivered: int
    gaps: int
    trimmed: int
    log_events: int
    log_bytes: int
    first_sequence: int
    last_sequence: int
    subscribers: int
    slow_readers: int
    tail_bytes: int
    pending_bytes: int
    remembered_ids: int
    forgotten_ids: int
    commits: Histogram

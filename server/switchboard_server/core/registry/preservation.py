"""Whether instances that ran out may be removed, or whether too many did at once."""

from collections import deque

SHARE = 0.15
"""Share of the instances that may run out within one interval."""
LEAST = 10
"""With fewer instances than this, nothing is concluded."""


class Preservation:
    """Watches how many instances run out within an interval.

    When many do, it is likelier that the hub lost its network than that all of them died.

    Args:
        interval: Length of the interval in seconds.

    Attributes:
        active: Eviction is withheld now.
        since_ns: Since when, Unix nanoseconds.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._evicted: deque[float] = deque()
        self.active = False
        self.since_ns = 0

    def withholds(self, due: int, registered: int, now: float, wall_ns: int) -> bool:
        """Whether what has run out must stay.

        Args:
            due: How many have run out.
            registered: How many are registered, those included.
            now: Monotonic seconds.
            wall_ns: The same by the wall clock, Unix nanoseconds.
        """
        while self._evicted and self._evicted[0] <= now - self._interval:
            self._evicted.popleft()
        before = registered + len(self._evicted)
        gone = due + len(self._evicted)
        active = due > 0 and before >= LEAST and gone > SHARE * before
        if active and not self.active:
            self.since_ns = wall_ns
        self.active = active
        return active

    def evicted(self, now: float) -> None:
        """Counts an instance that was removed because it had run out."""
        self._evicted.append(now)

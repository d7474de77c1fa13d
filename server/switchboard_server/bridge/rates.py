"""How often a client may do something."""


class TokenBucket:
    """Lets so many through a second, and a burst of as many at once.

    Args:
        rate: How many a second.
        now: The time in seconds, on a clock that never goes back.

    Attributes:
        refused: How many were turned away since the bucket was last full.
    """

    __slots__ = ("_filled", "_level", "_rate", "refused")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._level = rate
        self._filled = now
        self.refused = 0

    def take(self, now: float) -> bool:
        """Whether one more may pass.

        Args:
            now: The time in seconds.
        """
        self._level = min(self._rate, self._level + (now - self._filled) * self._rate)
        self._filled = now
        if self._level >= self._rate:
            self.refused = 0
        if self._level >= 1:
            self._level -= 1
            return True
        self.refused += 1
        return False

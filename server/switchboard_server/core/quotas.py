"""What the callers of one subject may take of the hub, so that one cannot take it all.

A caller without a subject, because the hub asks for no tokens or is the hub itself, has no share of
its own: it is bounded only by what all may take together.
"""

import time
from collections import Counter
from collections.abc import Callable

from switchboard_server.core.errors import ResourceExhaustedError, limit_reached

FORGET_AFTER = 4096
"""So many subjects are remembered before those are forgotten that owe nothing."""


class Rates:
    """How fast each subject publishes: a bucket each, which one second fills.

    A call is let through while anything is in the bucket, and may take more than there is: what is
    owed has to run in again first. So a batch of any size passes, and the rate holds all the same.

    Args:
        per_second: Events that a subject may publish in a second; 0: any number.
        clock: Tells the time in seconds, evenly.
    """

    def __init__(self, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def wait(self, subject: str) -> float:
        """Seconds until a subject may publish again; 0: it may now."""
        full_at = self._full_at.get(subject)
        if full_at is None:
            return 0.0
        # It is empty a second before it is full.
        return max(0.0, full_at - 1.0 - self._clock())

    def take(self, subject: str, events: int) -> None:
        """Notes that a subject publishes."""
        if not self._per_second or not subject:
            return
        now = self._clock()
        if len(self._full_at) >= FORGET_AFTER and subject not in self._full_at:
            self._full_at = {each: at for each, at in self._full_at.items() if at > now}
        self._full_at[subject] = max(self._full_at.get(subject, now), now) + (
            events / self._per_second
        )

    def check(self, subject: str) -> None:
        """Checks that a subject may publish now.

        Raises:
            ResourceExhaustedError: It has to wait.
        """
        if wait := self.wait(subject):
            raise ResourceExhaustedError(
                "RATE_LIMITED",
                f"{subject!r} publishes more than {self._per_second} events a second; try again in "
                f"{wait:.3f} s, or use PublishStream, which waits by itself",
                metadata={
                    "limit": str(self._per_second),
                    "retry_after_ms": str(int(wait * 1000) + 1),
                },
            )


class Shares:
    """How many subscriptions each subject has open.

    Args:
        most: How many it may have; 0: any number.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    def check(self, subject: str) -> None:
        """Checks that a subject may have one more.

        Raises:
            ResourceExhaustedError: It may not.
        """
        if self._most and self._held[subject] >= self._most:
            setting = "SWITCHBOARD_MAX_SUBSCRIPTIONS_PER_SUBJECT"
            held = f"{subject!r} has {self._most} subscriptions already"
            raise limit_reached(f"{held}; close some, or raise {setting}", self._most, setting)

    def add(self, subject: str) -> None:
        """Notes that a subject opens one."""
        if self._most and subject:
            self._held[subject] += 1

    def remove(self, subject: str) -> None:
        """Notes that a subject closes one."""
        if self._most and subject:
            self._held[subject] -= 1
            if not self._held[subject]:
                del self._held[subject]

"""The wall clock as a log needs it, though somebody may set it forward or back."""

import asyncio
import logging
from collections.abc import Callable

from switchboard_server.core.clock import SECOND_NS, Clock

LOOK_SECONDS = 2.0
"""How late an alarm may be when the clock is set forward, since timers do not notice."""
STEP_NS = SECOND_NS
"""By how much the clock may be behind the log without a word."""

_logger = logging.getLogger(__name__)


class Alarm:
    """Rings once when the wall clock has reached the earliest of some times.

    Args:
        ring: What to call then.
        clock: Unix time in nanoseconds.
    """

    def __init__(self, ring: Callable[[], None], clock: Clock) -> None:
        self._loop = asyncio.get_running_loop()
        self._ring = ring
        self._clock = clock
        self._due_ns: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, due_ns: int) -> None:
        """Rings at a time, Unix nanoseconds, unless it is to ring earlier."""
        if self._due_ns is None or due_ns < self._due_ns:
            self.cancel()
            self._wait(due_ns)

    def cancel(self) -> None:
        """Does not ring."""
        self._due_ns = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, due_ns: int) -> None:
        self._due_ns = due_ns
        wait = min(max(0.0, (due_ns - self._clock()) / SECOND_NS), LOOK_SECONDS)
        self._timer = self._loop.call_later(wait, self._look, due_ns)

    def _look(self, due_ns: int) -> None:
        if self._clock() < due_ns:
            self._wait(due_ns)
        else:
            self._due_ns = self._timer = None
            self._ring()


class LogTime:
    """The time at which events enter a log: the clock's, and never before that of earlier events.

    While the clock is behind, because it was set back, the time stands still.

    Args:
        clock: Unix time in nanoseconds.
        newest_ns: When the newest event entered the log.
    """

    def __init__(self, clock: Clock, newest_ns: int) -> None:
        self._clock = clock
        self._newest_ns = newest_ns
        self._behind = False

    def now(self) -> int:
        """Unix time in nanoseconds; says once in the log that the clock is behind."""
        now_ns = self._clock()
        behind_ns = self._newest_ns - now_ns
        if behind_ns <= 0:
            self._behind = False
            self._newest_ns = now_ns
        elif behind_ns > STEP_NS and not self._behind:
            self._behind = True
            _logger.warning(
                "the clock is %.0f seconds behind the newest event: it was set back. "
                "Until it has caught up, events get that one's time, and expire later by as much",
                behind_ns / SECOND_NS,
            )
        return self._newest_ns

"""When the directory is asked what has run out: at its next deadline, by one timer."""

import asyncio
import logging
import math
from collections.abc import Callable

from switchboard_server.core.registry.directory import Directory
from switchboard_server.core.registry.model import Moment

ASLEEP_SECONDS = 2.0
"""When the hub is so late for a deadline, it was away itself, and nobody is to blame."""
AWAKE_SECONDS = 1.0
"""How long it then listens before it concludes anything."""

_logger = logging.getLogger(__name__)


class Sweeper:
    """Has a directory remove what has run out.

    Args:
        directory: The directory.
        now: Tells the time.
    """

    def __init__(self, directory: Directory, now: Callable[[], Moment]) -> None:
        self._loop = asyncio.get_running_loop()
        self._directory = directory
        self._now = now
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0.0
        self._preserving = False
        self._closed = False

    def arm(self) -> None:
        """Sets the timer for the next deadline, unless it is set for that or an earlier moment."""
        now = self._now()
        deadline = self._directory.next_deadline(now)
        if self._closed or deadline == math.inf:
            return
        if self._timer is not None:
            if self._armed <= deadline:
                return
            self._timer.cancel()
        self._armed = max(deadline, now.seconds)
        self._timer = self._loop.call_at(self._armed, self._sweep)

    def close(self) -> None:
        """Removes nothing any more. May be called twice."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        self._timer = None
        now = self._now()
        late = now.seconds - self._armed
        if late >= ASLEEP_SECONDS:
            _logger.warning("the hub was away; leases are extended", extra={"seconds": late})
            self._directory.forgive(late + AWAKE_SECONDS)
        self._directory.expire(now)
        preserving = self._directory.preserving
        if preserving is not self._preserving:
            self._preserving = preserving
            facts = {"withheld": self._directory.withheld, "registered": self._directory.size}
            if preserving:
                _logger.warning("too many instances run out at once: none is removed", extra=facts)
            else:
                _logger.info("instances that run out are removed again", extra=facts)
        self.arm()

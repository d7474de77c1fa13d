"""What the log is told of troubles that go on."""

import logging
from collections.abc import Callable

REPEAT_SECONDS = 30.0
"""How often a trouble that goes on is told."""


class Complaints:
    """Tells each trouble at once, and again every half minute for as long as it is met.

    Args:
        logger: Is told, by warnings.
        clock: Seconds that only grow.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float]) -> None:
        self._logger = logger
        self._clock = clock
        self._told: dict[str, float] = {}

    def tell(self, problem: str) -> None:
        """Takes note that something is so, or still is."""
        now = self._clock()
        recent = {each: at for each, at in self._told.items() if now - at < REPEAT_SECONDS}
        if problem not in recent:
            recent[problem] = now
            self._logger.warning("%s", problem)
        self._told = recent

    def end(self) -> None:
        """Takes note that all is well: what is met from now on is another trouble."""
        self._told.clear()

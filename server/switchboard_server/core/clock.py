"""Time, passed in wherever it decides something, so that tests need not wait for it."""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Tells the Unix time in nanoseconds."""

SECOND_NS = 1_000_000_000
"""Nanoseconds of a second."""

wall_clock: Clock = time.time_ns
"""The machine's clock."""


def steady_clock() -> Clock:
    """A clock that starts with the machine's and then runs evenly, even if that one is set.

    For deadlines: a clock that is set would end them all at once, or not for long.
    """
    ahead = time.time_ns() - time.monotonic_ns()
    return lambda: time.monotonic_ns() + ahead

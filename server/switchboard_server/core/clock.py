"""Time, passed in wherever it decides something, so that tests need not wait for it."""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Tells the Unix time in nanoseconds."""

SECOND_NS = 1_000_000_000
"""Nanoseconds of a second."""

wall_clock: Clock = time.time_ns
"""The machine's clock."""

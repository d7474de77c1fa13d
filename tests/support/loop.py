"""An event loop whose time is the test's to decide."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from switchboard_server.core.clock import SECOND_NS

EPOCH_NS = 1_700_000_000 * SECOND_NS
"""What the wall clock shows when a loop is made, Unix nanoseconds."""

T = TypeVar("T")


class ManualLoop(asyncio.SelectorEventLoop):
    """Its time, and the wall clock that goes with it, stand still until `advance` is called."""

    def __init__(self) -> None:
        self._elapsed_ns = 0
        self._step_ns = 0
        super().__init__()
        # So that timers run at their very moment even after days, when floats are coarse.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._elapsed_ns / SECOND_NS

    def clock(self) -> int:
        """The wall clock, Unix nanoseconds."""
        return EPOCH_NS + self._elapsed_ns + self._step_ns

    def advance(self, seconds: float) -> None:
        """Lets time pass; timers that are due then run in the next turn."""
        self._elapsed_ns += round(seconds * SECOND_NS)

    def set_clock(self, seconds: float) -> None:
        """Sets the wall clock so many seconds ahead of the loop's time, which does not notice."""
        self._step_ns = round(seconds * SECOND_NS)


def manual_loop() -> ManualLoop:
    """The running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ManualLoop)
    return loop


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Runs a scenario in a loop of its own, for tests that are not coroutines."""
    with asyncio.Runner(loop_factory=ManualLoop) as runner:
        return runner.run(scenario)


async def turns(count: int = 60) -> None:
    """Lets everybody else have some turns of the loop: all that is possible without time passing.

    The longest chain from cause to effect takes about twenty.
    """
    for _ in range(count):
        await asyncio.sleep(0)


async def passing(seconds: float) -> None:
    """Lets time pass, and what follows from it happen."""
    manual_loop().advance(seconds)
    await turns()

"""A million events that nobody has consumed yet."""

import asyncio
import time
from pathlib import Path

from scripts.campaigns import require
from tests.e2e.backlog import BATCH, CREDIT, MIB, SETTINGS, Reader, progress, publish
from tests.e2e.load import running
from tests.support.hub import HubProcess

_COLUMNS = "{:<44} {:>9} {:>8}"
_WARM = 20_000
_GROWTH = 32 * MIB
_STEPS = 5
_PAUSE = 0.01


class _Table:
    """Prints what the hub's memory is, and sees to it that it does not grow much."""

    def __init__(self, hub: HubProcess) -> None:
        self._hub = hub
        self._before = hub.memory()
        self._began = time.monotonic()

    def add(self, what: str) -> None:
        """Adds a line, with the seconds since the one before."""
        memory, now = self._hub.memory(), time.monotonic()
        print(_COLUMNS.format(what, f"{memory / MIB:.1f}", f"{now - self._began:.2f}"), flush=True)
        require(memory - self._before < _GROWTH, "the hub's memory grows with the backlog")
        self._began = time.monotonic()


async def backlog(folder: Path, events: int, seconds: float) -> None:
    """Leaves events to a group, and looks at the hub's memory, and at what an urgent one waits for.

    Args:
        folder: The data folder.
        events: How many.
        seconds: For how long a member reads slowly.

    Raises:
        AssertionError: The memory grew with the backlog, or an urgent event had to wait in line.
    """
    print(_COLUMNS.format("", "RSS MiB", "seconds"))
    with running(folder, SETTINGS) as hub:
        async with hub.channel() as channel:
            async with Reader(channel).joined():
                await publish(channel, _WARM)
            table = _Table(hub)
            for _ in range(1, _STEPS + 1):
                await publish(channel, events // _STEPS // BATCH * BATCH)
                table.add(f"{(await progress(channel)).progress.lag_events} events, no member")
    with running(folder, SETTINGS) as hub:
        async with hub.channel() as channel:
            table = _Table(hub)
            table.add("started again over them")
            async with Reader(channel).joined() as reader:
                delivery = await reader.take()
                table.add("first delivery to a member")
                await reader.settle(delivery)
                others, passed = await reader.overtaken()
                table.add(f"critical event after {passed:.3f} s, {others} others before")
                others, passed = await reader.overtaken()
                table.add(f"another one after {passed:.3f} s, {others} others before")
                require(others <= 1, "an urgent event had to wait in line")
                await _read_slowly(reader, seconds, table)
            lag = (await progress(channel)).progress
            print(f"\n{lag.lag_events} events are left; {CREDIT} were in flight at most.")


async def _read_slowly(reader: Reader, seconds: float, table: _Table) -> None:
    for _ in range(1, _STEPS + 1):
        until = time.monotonic() + seconds / _STEPS
        taken = 0
        while time.monotonic() < until:
            await reader.settle(await reader.take())
            taken += 1
            await asyncio.sleep(_PAUSE)
        table.add(f"{taken} more read slowly")

"""One subscriber that stops reading for a while under full load."""

import asyncio
import time
from pathlib import Path

from scripts.campaigns import require
from tests.e2e.load import deliveries, running
from tests.e2e.slow import MIB, READERS, SETTINGS, scene

_COLUMNS = "{:>8} {:>10} {:>12} {:>14} {:>10}"
_GROWTH = 16 * MIB


async def sleep(folder: Path, seconds: float) -> None:
    """Publishes for so long past a subscriber that does not read, and then lets it read.

    Args:
        folder: The data folder.
        seconds: How long it does not read once the hub waits for it.

    Raises:
        AssertionError: Somebody missed an event, or the hub's memory grew.
    """
    print(_COLUMNS.format("seconds", "published", "events/s", "sleeper behind", "RSS MiB"))
    with running(folder, SETTINGS) as hub:
        async with scene(hub) as made:
            sent = await made.block()
            memory, began, last = hub.memory(), time.monotonic(), 0.0
            first = counted = made.published
            while (passed := time.monotonic() - began) < seconds:
                require(await made.round() == sent, "the sleeper was sent something")
                require(hub.memory() - memory < _GROWTH, "the hub's memory grows")
                if passed - last >= seconds / 10:
                    rate = (made.published - counted) / (time.monotonic() - began - last)
                    last, counted = time.monotonic() - began, made.published
                    print(
                        _COLUMNS.format(
                            f"{last:.1f}",
                            made.published,
                            f"{rate:.0f}",
                            made.published - sent,
                            f"{hub.memory() / MIB:.1f}",
                        ),
                        flush=True,
                    )
            woke = time.monotonic()
            expected = 1
            async with asyncio.timeout(max(60.0, 4 * seconds)):
                async for event in deliveries(made.sleeper):
                    require(event.sequence == expected, "the sleeper missed an event")
                    expected += 1
                    if expected > made.published:
                        break
            print(
                f"\n{READERS} readers were given each of {made.published - first} events in order "
                f"meanwhile. The sleeper then read all {made.published} in order in "
                f"{time.monotonic() - woke:.1f} s."
            )

"""Streams that come and go, for as long as one likes."""

import asyncio
from pathlib import Path

from scripts.campaigns import require
from tests.e2e.load import running
from tests.e2e.test_leaks import CHANNELS, GROWTH, SETTINGS, gone, leave_streams

_COLUMNS = "{:>6} {:>9} {:>9} {:>16}"


async def churn(folder: Path, rounds: int, streams: int) -> None:
    """Opens and leaves streams, and looks at the hub's memory after each round.

    Args:
        folder: The data folder.
        rounds: How many rounds; the first half warms up.
        streams: How many streams a round, a multiple of 100.

    Raises:
        AssertionError: A stream stays open, the memory grows, or the hub complains of something.
    """
    print(_COLUMNS.format("round", "streams", "RSS KiB", "bytes a stream"))
    with running(folder, SETTINGS) as hub:
        channels = [hub.channel() for _ in range(CHANNELS)]
        sizes = [hub.memory()]
        for number in range(rounds):
            await leave_streams(channels, streams)
            await gone(hub)
            sizes.append(hub.memory())
            grown = (sizes[-1] - sizes[-2]) // streams
            print(
                _COLUMNS.format(number + 1, (number + 1) * streams, sizes[-1] // 1024, grown),
                flush=True,
            )
        half = rounds // 2
        slope = (sizes[-1] - sizes[half]) / ((rounds - half) * streams)
        require(slope < GROWTH, f"{slope:.0f} bytes stay behind of each stream")
        print(f"\n{rounds * streams} streams came and went, {slope:.0f} bytes a stream at the end.")
        await asyncio.gather(*(channel.close() for channel in channels))

"""A long backlog costs a hub no memory, and holds up nothing that is urgent."""

from pathlib import Path

from tests.e2e.backlog import MIB, SETTINGS, Reader, progress, publish
from tests.e2e.load import running

EVENTS = 200_000
GROWTH = 24 * MIB
"""Of a backlog of 34 MiB as it is stored, in objects several times that."""


async def test_a_backlog_is_not_held_in_memory_and_a_critical_event_passes_it(
    tmp_path: Path,
) -> None:
    with running(tmp_path, SETTINGS) as hub:
        async with hub.channel() as channel:
            async with Reader(channel).joined():
                await publish(channel, 20_000)
            before = hub.memory()
            await publish(channel, EVENTS)
            assert hub.memory() - before < GROWTH
            assert (await progress(channel)).progress.lag_events == EVENTS + 20_000

            async with Reader(channel).joined() as reader:
                for _ in range(100):
                    await reader.settle(await reader.take())
                others, _ = await reader.overtaken()
                # Every eighth delivery is the one that has been ready longest.
                assert others <= 1
                assert hub.memory() - before < GROWTH
                assert (await progress(channel)).progress.lag_events == EVENTS + 20_000 - 116

"""A subscriber that stops reading: nobody waits for it, it costs little, and it loses nothing."""

import asyncio
from pathlib import Path

from tests.e2e.load import PATIENCE, deliveries, list_events, metrics, running, until
from tests.e2e.slow import MIB, SETTINGS, TEXT_BYTES, read_until, scene


async def test_one_that_stops_reading_holds_up_nobody_and_gets_every_event_later(
    tmp_path: Path,
) -> None:
    with running(tmp_path, SETTINGS) as hub:
        async with scene(hub) as made:
            sent = await made.block()
            memory = hub.memory()
            for _ in range(4):
                assert await made.round() == sent
            # 16 MB went past the sleeper meanwhile, and the hub does not hold them for it.
            assert hub.memory() - memory < 8 * MIB
            assert (await metrics(hub))["switchboard_slow_readers"] == 1

            expected = 1
            async with asyncio.timeout(PATIENCE):
                async for event in deliveries(made.sleeper):
                    assert event.sequence == expected
                    assert event.id == str(expected - 1)
                    expected += 1
                    if expected > made.published:
                        break

            # Back in the tail, it gets what is new.
            await made.round()
            assert (await anext(deliveries(made.sleeper))).sequence == expected
            assert (await metrics(hub))["switchboard_slow_readers"] == 0


async def test_what_retention_took_from_one_that_slept_is_told_as_a_gap(tmp_path: Path) -> None:
    limit = 4 * MIB
    settings = {**SETTINGS, "SWITCHBOARD_RETENTION_BYTES": str(limit)}
    with running(tmp_path, settings) as hub:
        async with scene(hub) as made:
            sent = await made.block()
            # One that has just been stopped may lack no more than what is retained.
            assert await made.round() == sent

            async def trimmed() -> bool:
                first = (await metrics(hub))["switchboard_log_first_sequence"]
                # Not by the size of the file, in which events take more than they count.
                return sent + 1 < first and (made.published - first + 1) * TEXT_BYTES <= limit

            await until(trimmed, "retention removes what the sleeper has not been sent")
            async with hub.channel() as channel:
                retained = (await list_events(channel))[0].sequence

            events, gaps = await read_until(made.sleeper, made.published)
            (gap,) = gaps
            assert gap.from_sequence == sent + 1
            assert gap.to_sequence >= retained - 1, "what was removed since is gone, too"
            assert events == [
                *range(1, sent + 1),
                *range(gap.to_sequence + 1, made.published + 1),
            ]

"""A subscriber that stops reading: nobody waits for it, it costs little, and it loses nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from switchboard.v1 import subscription_pb2
from tests.e2e.load import (
    PATIENCE,
    Publisher,
    deliveries,
    list_events,
    metrics,
    running,
    subscribe,
    until,
)
from tests.support.hub import HubProcess

if TYPE_CHECKING:
    from tests.e2e.load import SubscribeCall

MIB = 1024 * 1024
TAIL_BYTES = MIB
TEXT_BYTES = 4000
ROUND = 1000
"""Events of a round, four times what the tail holds."""
READERS = 3
SETTINGS = {"SWITCHBOARD_TAIL_BYTES": str(TAIL_BYTES)}


@dataclass
class Reader:
    """A subscriber that keeps reading."""

    expected: int = 1
    reached: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self, hub: HubProcess, ready: asyncio.Event) -> None:
        async with hub.channel() as channel:
            call = await subscribe(channel)
            ready.set()
            async for event in deliveries(call):
                assert event.sequence == self.expected
                self.expected += 1
                async with self.reached:
                    self.reached.notify_all()

    async def wait_for(self, sequence: int) -> None:
        async with asyncio.timeout(PATIENCE), self.reached:
            await self.reached.wait_for(lambda: self.expected > sequence)


class Scene:
    """A hub under load with readers that keep up and one subscriber that has stopped reading."""

    def __init__(self, hub: HubProcess, sleeper: "SubscribeCall") -> None:
        self.hub = hub
        self.sleeper = sleeper
        self.publisher = Publisher("load", size=TEXT_BYTES)
        self.readers = [Reader() for _ in range(READERS)]

    @property
    def published(self) -> int:
        return len(self.publisher.sequences)

    async def round(self) -> int:
        """Publishes a round, waits until every reader has it, and tells what the sleeper was sent."""
        async with self.hub.channel() as channel:
            await self.publisher.run(channel, self.published + ROUND)
        await asyncio.gather(*(each.wait_for(self.published) for each in self.readers))
        delivered = (await metrics(self.hub))["switchboard_events_delivered_total"]
        return int(delivered) - READERS * self.published

    async def block(self) -> int:
        """Publishes until nothing more is sent to the sleeper; tells how much was."""
        sent, before = await self.round(), -1
        while sent != before:
            sent, before = await self.round(), sent
            assert self.published * TEXT_BYTES < 100 * MIB, "the sleeper never comes to a stop"
        # A whole round went past it, so it is stopped by flow control and not merely slow.
        assert (self.published - sent) * TEXT_BYTES > 2 * TAIL_BYTES
        return sent


@asynccontextmanager
async def scene(hub: HubProcess) -> AsyncIterator[Scene]:
    async with hub.channel() as channel, asyncio.TaskGroup() as group:
        made = Scene(hub, await subscribe(channel))
        tasks = []
        for reader in made.readers:
            ready = asyncio.Event()
            tasks.append(group.create_task(reader.run(hub, ready)))
            await asyncio.wait_for(ready.wait(), PATIENCE)
        yield made
        for task in tasks:
            task.cancel()
        made.sleeper.cancel()


async def test_one_that_stops_reading_holds_up_nobody_and_gets_every_event_later(
    tmp_path: Path,
) -> None:
    with running(tmp_path, SETTINGS) as hub:
        async with scene(hub) as made:
            sent = await made.block()
            memory = hub.memory()
            for _ in range(4):
                assert await made.round() == sent
            # 16 MB went past the sleeper meanwhile; what the hub holds for it does not grow with it.
            assert hub.memory() - memory < 8 * MIB

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


async def test_what_retention_took_from_one_that_slept_is_told_as_a_gap(tmp_path: Path) -> None:
    limit = 4 * MIB
    settings = {**SETTINGS, "SWITCHBOARD_RETENTION_BYTES": str(limit)}
    with running(tmp_path, settings) as hub:
        async with scene(hub) as made:
            sent = await made.block()

            async def trimmed() -> bool:
                found = await metrics(hub)
                return (
                    found["switchboard_log_first_sequence"] > sent + 1
                    and found["switchboard_log_bytes"] <= limit
                )

            await until(trimmed, "retention removes what the sleeper has not been sent")
            async with hub.channel() as channel:
                retained = (await list_events(channel))[0].sequence

            events, gaps = await read_until(made.sleeper, made.published)
            assert [(gap.from_sequence, gap.to_sequence) for gap in gaps] == [
                (sent + 1, retained - 1)
            ]
            assert events == [*range(1, sent + 1), *range(retained, made.published + 1)]


async def read_until(
    call: "SubscribeCall", last: int
) -> tuple[list[int], list[subscription_pb2.SubscriptionGap]]:
    """Sequences and gaps of a stream, up to a sequence."""
    sequences: list[int] = []
    gaps: list[subscription_pb2.SubscriptionGap] = []
    async with asyncio.timeout(PATIENCE):
        while not (sequences and sequences[-1] == last):
            response = await call.read()
            sequences += (each.event.sequence for each in response.deliveries)
            if response.HasField("gap"):
                gaps.append(response.gap)
    return sequences, gaps

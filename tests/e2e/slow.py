"""A hub under load with readers that keep up and one subscriber that has stopped reading."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from switchboard.v1 import subscription_pb2
from tests.e2e.load import PATIENCE, Publisher, deliveries, metrics, read, subscribe
from tests.support.hub import HubProcess

if TYPE_CHECKING:
    from tests.e2e.load import SubscribeCall

MIB = 1024 * 1024
TAIL_BYTES = MIB
TEXT_BYTES = 4000
ROUND = 1000
"""Events of a round, four times what the tail holds."""
READERS = 3
SETTINGS = {
    "SWITCHBOARD_TAIL_BYTES": str(TAIL_BYTES),
    # Few, since the ids of two minutes take more memory than what is looked for here.
    "SWITCHBOARD_IDEMPOTENCY_MAX_KEYS": "1000",
}


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
        """Publishes until every reader has a round more; tells what the sleeper was sent so far."""
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


async def read_until(
    call: "SubscribeCall", last: int
) -> tuple[list[int], list[subscription_pb2.SubscriptionGap]]:
    """Sequences and gaps of a stream, up to a sequence."""
    sequences: list[int] = []
    gaps: list[subscription_pb2.SubscriptionGap] = []
    async with asyncio.timeout(PATIENCE):
        while not (sequences and sequences[-1] == last):
            response = await read(call)
            sequences += (each.event.sequence for each in response.deliveries)
            if response.HasField("gap"):
                gaps.append(response.gap)
    return sequences, gaps

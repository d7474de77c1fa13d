"""Nodes of a cluster as far as events, groups and calls go, over a real RabbitMQ."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from switchboard_server.backends.rabbitmq.carrying import GroupSeats, PeersCarrier
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.log import ClusterLog, ClusterLogSettings
from switchboard_server.backends.rabbitmq.peers import Peers
from switchboard_server.backends.rabbitmq.topology import Topology
from switchboard_server.core.calls import Caller
from switchboard_server.core.clock import steady_clock
from switchboard_server.core.cluster.groups import SpreadGroups
from switchboard_server.core.cluster.letters import SpreadLetters
from switchboard_server.core.cluster.responders import SpreadResponders
from switchboard_server.core.cluster.roaming import RoamingMember
from switchboard_server.core.events import Begin, EventHub, Start
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.config import GroupConfig, Mode, RetryPolicy
from switchboard_server.core.groups.entries import Outcome
from switchboard_server.core.groups.hub import GroupLimits, GroupWish
from switchboard_server.core.records import Extra
from switchboard_server.core.subscription import Started
from switchboard_server.core.tail import Chunk
from tests.support.deliveries import Got, TellingCodec, deliveries
from tests.support.events import some

PATIENCE = 30.0
"""Seconds that anything may take."""


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something is so; for what nothing tells of."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@dataclass
class Worker:
    """A member of a group and what it has seen."""

    node: "GroupNode"
    name: str
    member: RoamingMember
    waiting: deque[Got] = field(default_factory=deque)

    async def take(self, count: int) -> list[Got]:
        """The next deliveries."""
        async with asyncio.timeout(PATIENCE):
            while len(self.waiting) < count:
                item = await self.member.next()
                if isinstance(item, Chunk):
                    self.waiting.extend(deliveries(item.frames))
        return [self.waiting.popleft() for _ in range(count)]

    async def acknowledge(self, got: Sequence[Got]) -> list[Outcome]:
        """Settles deliveries through its own node."""
        return await self.node.groups.acknowledge(self.name, [each.ack_id for each in got])


class GroupNode:
    """A node.

    Args:
        url: Where RabbitMQ is.
        prefix: What it shares with its peers.
        name: Its id.
    """

    def __init__(self, url: str, prefix: str, name: str) -> None:
        self.name = name
        self.topology = Topology(prefix)
        self.link = Link(url, name)
        self.reading = Link(url, f"{name} reading")
        self.peers = Peers(self.link, self.topology, name)
        codec = TellingCodec()
        self.log = ClusterLog(
            self.link,
            self.reading,
            self.peers,
            self.topology,
            codec=codec,
            settings=ClusterLogSettings(),
        )
        self.events = EventHub(self.log)
        self.carrier = PeersCarrier(self.peers)
        self.groups = SpreadGroups(
            self.events, self.carrier, codec, GroupLimits(), steady_clock(), patience=PATIENCE
        )
        self.letters = SpreadLetters(self.groups.asking)
        self.calls = Caller(self.events, SpreadResponders(self.events, self.groups, self.carrier))
        self.seats = GroupSeats(
            self.link,
            self.topology,
            self.peers,
            self.groups,
            self.events,
        )

    async def open(self) -> None:
        """Starts everything in order."""
        await self.link.start()
        await self.reading.start()
        await self.peers.start()
        await self.events.open()
        await self.seats.start()

    async def close(self) -> None:
        """Stops everything in the reverse order."""
        await self.seats.close()
        await self.groups.close()
        await self.events.close()
        await self.peers.close()
        await self.reading.close()
        await self.link.close()

    async def join(
        self,
        name: str = "g",
        *,
        credit: int = 64,
        mode: Mode = Mode.QUEUE,
        wish: Filter | None = None,
        start: Start = Begin.LATEST,
    ) -> Worker:
        """Joins a group."""
        config = GroupConfig(wish or Filter(), mode, retry=RetryPolicy(100, 0, 0))
        member = await self.groups.subscribe(GroupWish(name, config, credit), start)
        assert isinstance(await member.next(), Started)
        return Worker(self, name, member)

    async def publish(self, *texts: str, key: str = "") -> int:
        """Publishes events; the first sequence."""
        extras = {index: Extra(ordering_key=key) for index in range(len(texts))} if key else {}
        return (await self.events.publish(some(*texts, extras=extras))).first


@asynccontextmanager
async def group_nodes(url: str, prefix: str, count: int = 3) -> AsyncIterator[list[GroupNode]]:
    """Nodes that know each other, and have all seats among them."""
    nodes: list[GroupNode] = []
    try:
        for number in range(count):
            node = GroupNode(url, prefix, f"n{number}")
            nodes.append(node)
            await node.open()
        await until(lambda: all(len(node.carrier.nodes) == count for node in nodes))
        await until(lambda: sum(len(node.groups.holdings.seats) for node in nodes) == 4)
        yield nodes
    finally:
        for node in reversed(nodes):
            await node.close()

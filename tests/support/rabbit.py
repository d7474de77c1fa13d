"""Nodes on a RabbitMQ, without a hub on top: what the tests of the backend's parts stand on."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

from switchboard_server.backends.rabbitmq.link import HEARTBEAT_SECONDS, Link
from switchboard_server.backends.rabbitmq.peers import Peers
from switchboard_server.backends.rabbitmq.seat import Seat, Term
from switchboard_server.backends.rabbitmq.topology import Topology
from tests.support.brokers import RabbitServer

PATIENCE_SECONDS = 30.0
"""How long a test waits for what has to come."""

_epochs = count(1)
"""Numbers terms, as a journal would."""
SETTLE_SECONDS = 2.5
"""How long after the first quorum queue or stream of a server was declared it must not be killed.
RabbitMQ 3.10 writes down a moment later under which name it finds its own parts again, and where it
has not, a stream stays away for good."""


@dataclass(frozen=True, slots=True)
class Note:
    """A message, and its answer."""

    text: str


def fresh_topology() -> Topology:
    """Names that no other test uses."""
    return Topology(f"t{secrets.token_hex(4)}")


async def control(server: RabbitServer, *arguments: str) -> None:
    """Calls rabbitmqctl."""
    command, environment = server.tool(*arguments)
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environment}, stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something is so; for what nothing tells of."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Told:
    """A listener of a link that can be waited for."""

    def __init__(self, link: Link) -> None:
        self.heard: list[bool] = []
        self._news = asyncio.Event()
        link.watch(self._hear)

    def _hear(self, up: bool) -> None:
        self.heard.append(up)
        self._news.set()

    async def until(self, *heard: bool) -> None:
        """Waits until exactly this has been told."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while tuple(self.heard) != heard:
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def linked(url: str, name: str = "test") -> AsyncIterator[Link]:
    """A link that is up."""
    link = Link(url, name)
    await link.start()
    try:
        await link.wait_connected(PATIENCE_SECONDS)
        yield link
    finally:
        await link.close()


class Node:
    """One node: a link, its peers, and seats that it stands for.

    Args:
        url: Of RabbitMQ.
        topology: The names.
        name: Its id.
        heartbeat: As of `Link`.
    """

    def __init__(
        self, url: str, topology: Topology, name: str, heartbeat: int = HEARTBEAT_SECONDS
    ) -> None:
        self.name = name
        self.topology = topology
        self.link = Link(url, name, heartbeat=heartbeat)
        self.peers = Peers(self.link, topology, name)
        self.seats: dict[str, Seat] = {}
        self.took: asyncio.Queue[Term] = asyncio.Queue()
        self.lost: asyncio.Queue[Term] = asyncio.Queue()

    async def start(self, *others: "Node") -> "Node":
        """Starts it, and waits until it and others know of each other."""
        await self.link.start()
        await self.link.wait_connected(PATIENCE_SECONDS)
        await self.peers.start()
        for node in (self, *others):
            await until(lambda node=node: len(node.peers.nodes) == len(others) + 1)  # type: ignore[misc]
        return self

    async def stand(self, seat: str) -> None:
        """Has it stand for a seat."""

        async def taken(term: Term) -> None:
            term.epoch = next(_epochs)
            self.took.put_nowait(term)

        async def lost(term: Term) -> None:
            self.lost.put_nowait(term)

        made = Seat(self.link, self.topology, self.peers, seat, taken=taken, lost=lost)
        self.seats[seat] = made
        await made.start()

    def holds(self, seat: str) -> bool:
        """Whether it has taken a seat."""
        term = self.seats[seat].term if seat in self.seats else None
        return term is not None and term.is_open

    async def close(self) -> None:
        """Says good-bye."""
        for seat in self.seats.values():
            await seat.close()
        await self.peers.close()
        await self.link.close()


@asynccontextmanager
async def nodes(url: str, count: int) -> AsyncIterator[list[Node]]:
    """Some nodes that know each other."""
    topology = fresh_topology()
    made: list[Node] = []
    try:
        for number in range(count):
            node = Node(url, topology, f"n{number}")
            made.append(node)
            await node.start(*made[:-1])
        yield made
    finally:
        for node in reversed(made):
            await node.close()

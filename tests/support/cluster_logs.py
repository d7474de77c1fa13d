"""Nodes of a cluster as far as the log goes, over a real RabbitMQ."""

import secrets

from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.log import ClusterLog, ClusterLogSettings
from switchboard_server.backends.rabbitmq.peers import Peers
from switchboard_server.backends.rabbitmq.topology import Topology
from switchboard_server.core.clock import Clock, wall_clock
from switchboard_server.core.ports import LogListener
from switchboard_server.core.records import Codec
from tests.support.events import PlainCodec


def a_prefix() -> str:
    """Names that no other test has."""
    return f"test-{secrets.token_hex(6)}"


class LogNode:
    """A node: its connections, its peers, its log.

    Args:
        url: Where RabbitMQ is.
        prefix: What it shares with its peers.
        name: Its id.
        settings: How its log works.
        clock: Unix time in nanoseconds.
        heartbeat: Seconds; 0 where time does not pass by itself.
        codec: How events look as bytes.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        name: str = "",
        *,
        settings: ClusterLogSettings | None = None,
        clock: Clock = wall_clock,
        heartbeat: int = 5,
        codec: Codec | None = None,
    ) -> None:
        self.topology = Topology(prefix)
        self.name = name or f"node-{secrets.token_hex(4)}"
        self.link = Link(url, self.name, heartbeat=heartbeat)
        self.reading = Link(url, f"{self.name} reading", heartbeat=heartbeat)
        self.peers = Peers(self.link, self.topology, self.name)
        self.log = ClusterLog(
            self.link,
            self.reading,
            self.peers,
            self.topology,
            codec=codec or PlainCodec(),
            settings=settings or ClusterLogSettings(),
            clock=clock,
        )

    async def open(self, listener: LogListener) -> None:
        """Opens the log."""
        await self.start()
        await self.log.open(listener)

    async def start(self) -> None:
        """Begins to connect."""
        await self.link.start()
        await self.reading.start()
        await self.peers.start()

    async def close(self) -> None:
        """Closes everything in order."""
        await self.log.close()
        await self.peers.close()
        await self.reading.close()
        await self.link.close()

    async def round_trip(self) -> None:
        """Waits for an answer of RabbitMQ, and for what has come before it."""
        await (await self.link.channel()).close()

    @property
    def numbers(self) -> bool:
        """Whether this node numbers events."""
        return self.log._sequencer.term is not None

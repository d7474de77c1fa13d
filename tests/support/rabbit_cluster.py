"""A RabbitMQ of several nodes, any of which may fail."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.support.brokers import RabbitServer
from tests.support.servers import LOOPBACK, Server, free_port

PATIENCE_SECONDS = 60.0
"""How long a node may take to catch up with the others."""
_COOKIE = "the nodes of one test"


class PortMapper(Server):
    """Tells Erlang nodes each other's ports; outlives any of them."""

    name = "epmd"
    ready = "epmd running"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()

    def command(self) -> Sequence[str]:
        """See the base."""
        return ["epmd", "-d", "-port", str(self.port), "-address", LOOPBACK]


class RabbitNode(RabbitServer):
    """One node of several, which keep streams and quorum queues in common.

    Args:
        folder: Where it keeps all its files.
        number: Its number, from 1.
        count: How many nodes there are.
        mapper_port: Of their port mapper.
    """

    def __init__(self, folder: Path, number: int, count: int, mapper_port: int) -> None:
        super().__init__(folder)
        self._number, self._count, self._mapper_port = number, count, mapper_port
        self.name = f"RabbitMQ {number}"

    def files(self) -> Mapping[str, str]:
        """See the base."""
        cluster = [
            "cluster_formation.peer_discovery_backend = rabbit_peer_discovery_classic_config",
            "cluster_partition_handling = pause_minority",
        ]
        cluster += [
            f"cluster_formation.classic_config.nodes.{each} = {_name(each)}"
            for each in range(1, self._count + 1)
        ]
        files = super().files()
        return {**files, "rabbitmq.conf": files["rabbitmq.conf"] + "\n".join(cluster) + "\n"}

    def environment(self) -> Mapping[str, str]:
        """See the base."""
        return {**super().environment(), "RABBITMQ_NODENAME": _name(self._number)}

    def helpers(self) -> Iterable[Sequence[str]]:
        """See the base."""
        return ()

    def start(self) -> "RabbitNode":
        """See the base."""
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            cookie.write_text(_COOKIE)
            cookie.chmod(0o400)
        return super().start()


def _name(number: int) -> str:
    return f"rabbit{number}@localhost"


async def until_whole(nodes: Sequence[RabbitNode]) -> None:
    """Waits until every stream and quorum queue is on all nodes again.

    Until then a second node that fails may leave some without a majority, and RabbitMQ lets nobody
    use them.
    """
    command, environment = nodes[0].tool(
        *("list_queues", "type", "online", "--formatter", "json", "--quiet")
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            process = await asyncio.create_subprocess_exec(
                *command, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE
            )
            output, _ = await process.communicate()
            queues = json.loads(output or "[]") if process.returncode == 0 else []
            if queues and all(
                len(each["online"]) == len(nodes) for each in queues if each["type"] != "classic"
            ):
                return


@asynccontextmanager
async def rabbit_nodes(folder: Path, count: int) -> AsyncIterator[list[RabbitNode]]:
    """Starts a RabbitMQ of several nodes."""
    async with AsyncExitStack() as stack:
        mapper = stack.enter_context(PortMapper(folder / "epmd"))
        nodes = [
            RabbitNode(folder / f"rabbitmq-{number}", number, count, mapper.port)
            for number in range(1, count + 1)
        ]
        for node in nodes:
            stack.push_async_callback(asyncio.to_thread, node.kill)
        await asyncio.gather(*(asyncio.to_thread(node.start) for node in nodes))
        yield nodes

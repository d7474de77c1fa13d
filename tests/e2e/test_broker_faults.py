"""Hubs over several nodes of RabbitMQ, or of Redis, of which one after the other fails."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.e2e.cluster.faults import Fault
from tests.e2e.cluster.nodes import Hubs, Node, running
from tests.e2e.cluster.report import endure
from tests.e2e.cluster.trial import Trial
from tests.support.brokers import RabbitServer, RedisServer
from tests.support.rabbit_cluster import RabbitNode, rabbit_nodes, until_whole

pytestmark = pytest.mark.faults

HUBS = 3
RATE = 200.0
"""Events a second of each publisher."""
DOWN_SECONDS = 3.0
"""How long a node is away before it is started again."""
FROZEN_SECONDS = 8.0
"""Longer than MESSAGE_TIMEOUT here, and less than it takes the other nodes to give one up."""
MOST_PAUSE_SECONDS = 5.0
"""How long no publish may be answered while the others elect leaders."""


def killed(node: RabbitNode, nodes: list[RabbitNode]) -> Fault:
    """A node of RabbitMQ is killed with SIGKILL, started again, and catches up."""

    async def befall() -> None:
        await asyncio.to_thread(node.kill)
        await asyncio.sleep(DOWN_SECONDS)
        await asyncio.to_thread(node.start)
        await until_whole(nodes)

    return Fault(f"{node.name} killed", befall)


def frozen(node: RabbitNode) -> Fault:
    """A node of RabbitMQ is frozen for a time."""

    async def befall() -> None:
        node.freeze()
        await asyncio.sleep(FROZEN_SECONDS)
        node.thaw()

    return Fault(f"{node.name} frozen", befall)


def failed_over(master: RedisServer, replica: RedisServer) -> Fault:
    """A Redis is killed, its replica takes its place, and it comes back as a replica of that."""

    async def befall() -> None:
        await asyncio.to_thread(master.kill)
        async with Redis(port=replica.port) as client:
            await client.replicaof("NO", "ONE")
        master.master, replica.master = replica, None
        await asyncio.to_thread(master.start)

    return Fault("Redis failed over", befall)


@asynccontextmanager
async def hubs(
    folder: Path, rabbits: Sequence[RabbitServer], redises: Sequence[RedisServer]
) -> AsyncIterator[Hubs]:
    """Three hubs, each of which prefers another node of RabbitMQ."""
    nodes = []
    for number in range(HUBS):
        first = number % len(rabbits)
        settings = {
            "SWITCHBOARD_BACKEND": "cluster",
            "SWITCHBOARD_DATA_DIR": "",
            "RABBITMQ_URL": ",".join(each.url for each in (*rabbits[first:], *rabbits[:first])),
            "REDIS_URL": ",".join(each.url for each in redises),
            "SWITCHBOARD_SHUTDOWN_SECONDS": "2",
            "MESSAGE_TIMEOUT": "5",
        }
        nodes.append(Node(f"hub {number + 1}", folder / f"hub-{number + 1}", settings))
    async with running(nodes), Hubs(nodes) as whole:
        yield whole


@pytest.mark.timeout(300)
async def test_events_go_on_whichever_node_of_rabbitmq_fails(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer(tmp_path / "redis"))
        rabbits = await stack.enter_async_context(rabbit_nodes(tmp_path, 3))
        trial = Trial(await stack.enter_async_context(hubs(tmp_path, rabbits, [redis])), RATE)
        kills = [killed(each, rabbits) for each in rabbits]
        rows = await endure(trial, *kills, frozen(rabbits[0]))
    assert max(row.pause for row in rows[:-1]) < MOST_PAUSE_SECONDS


@pytest.mark.timeout(300)
async def test_rooms_and_discovery_go_on_when_a_replica_takes_over_from_redis(
    tmp_path: Path,
) -> None:
    one, two = RedisServer(tmp_path / "redis-1"), RedisServer(tmp_path / "redis-2")
    two.master = one
    async with AsyncExitStack() as stack:
        rabbit = RabbitServer(tmp_path / "rabbitmq")
        for server in (rabbit, one, two):
            stack.enter_context(server)
        trial = Trial(await stack.enter_async_context(hubs(tmp_path, [rabbit], [one, two])), RATE)
        await endure(trial, failed_over(one, two), failed_over(two, one))

"""Hubs over a RabbitMQ of three nodes, of which one after the other fails under load."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.e2e.cluster.faults import Fault
from tests.e2e.cluster.nodes import Hubs, Node, running
from tests.e2e.cluster.report import table
from tests.e2e.cluster.trial import Trial
from tests.support.brokers import RedisServer
from tests.support.rabbit_cluster import RabbitNode, rabbit_nodes, until_whole

pytestmark = pytest.mark.faults

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


@asynccontextmanager
async def hubs(folder: Path, rabbits: list[RabbitNode]) -> AsyncIterator[Hubs]:
    """Three hubs, each of which prefers another node of RabbitMQ."""
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer(folder / "redis"))
        nodes = []
        for number in range(len(rabbits)):
            order = rabbits[number:] + rabbits[:number]
            settings = {
                "SWITCHBOARD_BACKEND": "cluster",
                "SWITCHBOARD_DATA_DIR": "",
                "RABBITMQ_URL": ",".join(each.url for each in order),
                "REDIS_URL": redis.url,
                "SWITCHBOARD_SHUTDOWN_SECONDS": "2",
                "MESSAGE_TIMEOUT": "5",
            }
            nodes.append(Node(f"hub {number + 1}", folder / f"hub-{number + 1}", settings))
        await stack.enter_async_context(running(nodes))
        yield await stack.enter_async_context(Hubs(nodes))


@pytest.mark.timeout(300)
async def test_events_go_on_whichever_node_of_rabbitmq_fails(tmp_path: Path) -> None:
    async with rabbit_nodes(tmp_path, 3) as rabbits, hubs(tmp_path, rabbits) as whole:
        trial = Trial(whole, RATE)
        async with trial.running():
            rows = [await trial.meet(killed(each, rabbits)) for each in rabbits]
            rows.append(await trial.meet(frozen(rabbits[0])))
            await trial.finish()
    print(f"\n{table([*rows, trial.totals])}\n{trial.tally}")
    assert max(row.pause for row in rows[:-1]) < MOST_PAUSE_SECONDS

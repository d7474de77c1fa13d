"""What hubs that run on do with a RabbitMQ that was killed and came back without what it stored."""

import asyncio
import secrets

import pytest

from switchboard_server.core.events import Begin
from switchboard_server.core.listing import Query
from tests.support.brokers import RabbitServer
from tests.support.events import bodies, some
from tests.support.group_nodes import PATIENCE, GroupNode, group_nodes, until

pytestmark = pytest.mark.faults

BEFORE = 300
"""Events that are lost, each a message of the stream."""


async def lose_everything(rabbit: RabbitServer, nodes: list[GroupNode]) -> None:
    """Makes RabbitMQ forget all, and waits until every node can store events again."""
    await asyncio.to_thread(rabbit.restart, empty=True)
    await until(lambda: all(node.log.problem is None for node in nodes))
    await until(lambda: sum(len(node.groups.holdings.seats) for node in nodes) == 4)


async def test_every_hub_reads_what_came_after_the_loss(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with RabbitServer(tmp_path_factory.mktemp("rabbitmq")) as rabbit:
        async with group_nodes(rabbit.url, f"t{secrets.token_hex(4)}") as nodes:
            for number in range(BEFORE):
                await nodes[number % 3].publish(f"old {number}")
            known = (await nodes[0].events.publish(some("known", ids=["known"]))).first
            await lose_everything(rabbit, nodes)
            for node in nodes:
                async with asyncio.timeout(5):
                    assert (await node.events.list_events(Query())).frames == []
            for number, node in enumerate(nodes):
                assert await node.publish(f"new {number}") == known + 1 + number
            texts = [f"new {number}" for number in range(3)]
            for node in nodes:
                async with asyncio.timeout(PATIENCE):
                    await node.events.reach(known + 3)
                # RabbitMQ says nothing to a reader that begins beyond the end.
                async with asyncio.timeout(5):
                    page = await node.events.list_events(Query(newest_first=False))
                    assert bodies(page.frames) == texts
                    again = await node.events.publish(some("known", ids=["known"]))
                    assert (again.duplicates, again.time_ns) == ({0: known}, 0)
                worker = await node.join(f"group-{node.name}", start=Begin.EARLIEST)
                assert [each.body for each in await worker.take(3)] == texts
                worker.member.close()

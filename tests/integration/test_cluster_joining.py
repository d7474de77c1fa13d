"""A node opens its events when RabbitMQ is there, however late."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from switchboard_server.backends.rabbitmq import joining as joining_module
from switchboard_server.backends.rabbitmq.joining import Joining
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.events import EventHub
from tests.support.brokers import RabbitServer
from tests.support.cluster_logs import LogNode, a_prefix
from tests.support.events import some
from tests.support.proxy import TcpProxy
from tests.support.rabbit import fresh_topology, linked


class Node:
    """A node whose events are opened by a `Joining`, and what began after that."""

    def __init__(self, url: str, prefix: str = "") -> None:
        self.node = LogNode(url, prefix or a_prefix())
        self.events = EventHub(self.node.log)
        self.begun: list[str] = []
        self.all_begun = asyncio.Event()
        then = [self.first, self.second]
        self.joining = Joining(self.node.link, self.node.log, self.events, then)

    async def first(self) -> None:
        """Begins."""
        self.begun.append("first" if self.events.problem is None else "too early")

    async def second(self) -> None:
        """Begins after it."""
        self.begun.append("second")
        self.all_begun.set()


@asynccontextmanager
async def a_node(url: str, prefix: str = "") -> AsyncIterator[Node]:
    made = Node(url, prefix)
    await made.node.start()
    try:
        yield made
    finally:
        await made.joining.close()
        await made.node.close()


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for long."""
    monkeypatch.setattr(joining_module, "REACH_SECONDS", 0.2)
    monkeypatch.setattr(joining_module, "LOOK_SECONDS", 0.1)


async def test_a_node_goes_on_without_rabbitmq_and_opens_its_events_when_that_is_there(
    rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(
        joining_module._logger, "warning", lambda *words: told.put_nowait(words[0] % words[1:])
    )
    async with TcpProxy(rabbit.port) as proxy:
        await proxy.cut()
        async with a_node(rabbit.url_at(proxy.port)) as node:
            await node.joining.start()
            problem = "the log cannot be reached: RabbitMQ: "
            assert f"events and groups cannot be served yet: {problem}" in await told.get()
            assert problem in str(node.events.problem)
            with pytest.raises(UnavailableError, match=problem):
                await node.events.publish(some("a"))
            assert node.begun == []
            await proxy.restore()
            await node.all_begun.wait()
            assert node.begun == ["first", "second"]
            assert (await node.events.publish(some("a"))).first == 1


async def test_where_rabbitmq_is_there_all_is_open_when_it_has_started(
    rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining_module, "REACH_SECONDS", 60.0)
    async with a_node(rabbit.url) as node:
        await node.joining.start()
        assert node.begun == ["first", "second"]


async def test_a_node_that_reaches_rabbitmq_but_cannot_open_the_log_goes_on_without_it(
    rabbit: RabbitServer,
) -> None:
    async with linked(rabbit.url) as link:
        topology = fresh_topology()
        channel = await link.channel()
        await channel.declare_exchange(topology.events, "direct")
        async with a_node(rabbit.url, topology.prefix) as node:
            # Far less than it waits for another node to give up a seat.
            async with asyncio.timeout(joining_module.OPEN_SECONDS - 5):
                await node.joining.start()
            assert node.begun == []
            assert "PRECONDITION_FAILED" in str(node.events.problem)
            with pytest.raises(UnavailableError, match="PRECONDITION_FAILED"):
                await node.events.publish(some("a"))
            await channel.raw.exchange_delete(topology.events)
            await node.all_begun.wait()
            assert (await node.events.publish(some("a"))).first == 1
        await channel.close()


async def test_a_node_that_never_came_to_its_events_ends_without_them(rabbit: RabbitServer) -> None:
    async with TcpProxy(rabbit.port) as proxy:
        await proxy.cut()
        async with a_node(rabbit.url_at(proxy.port)) as node:
            await node.joining.start()
        assert node.begun == []
        assert node.events.problem is not None


async def test_a_defect_on_the_way_is_told(
    rabbit: RabbitServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining_module, "REACH_SECONDS", 60.0)

    async def defect() -> None:
        raise ValueError("a defect")

    async with a_node(rabbit.url) as node:
        joining = Joining(node.node.link, node.node.log, node.events, [defect])
        await joining.start()
        await joining.close()
    assert "events and groups cannot be served" in caplog.text
    assert "a defect" in caplog.text

"""Whatever fails in whatever order, nodes agree within a lease, and nothing answered is lost."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path

import pytest

from switchboard_server.core.errors import NotFoundError, SwitchboardError
from switchboard_server.core.registry.leases import Lease
from switchboard_server.core.registry.model import Status
from tests.support.brokers import RedisServer
from tests.support.proxy import TcpProxy
from tests.support.registries import TCP
from tests.support.registry_nodes import LEASE, Cluster, Node, frozen, until

INSTANCES = range(1, 9)
"""Fewer than ten, so that self-preservation keeps out of it."""
WITHIN = 4 * LEASE
"""How long it may take after a fault is over, on a busy machine. On an idle one it is a lease, in
which the others take a node for dead."""


class Storm:
    """Nodes to which things are done at random, with a model of what was answered.

    Args:
        server: The Redis.
        seed: Decides what happens.

    Attributes:
        expected: Instances that must be there, with the status that SetStatus gave them.
        unsure: Instances that may be there or not: the answer was lost, or their holder was.
        slowest: The longest that nodes took to agree after a fault was over, in seconds.
    """

    def __init__(self, server: RedisServer, seed: int) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.cluster = Cluster(server.url)
        self.expected: dict[int, Status] = {}
        self.unsure: set[int] = set()
        self.held: dict[int, tuple[Node, Lease]] = {}
        self.names = 0
        self.slowest = 0.0
        self.proxy = TcpProxy(server.port)
        self.faults: list[Callable[[], Coroutine[None, None, None]]] = [
            self.lose_redis,
            self.freeze_redis,
            self.empty_redis,
            self.kill_node,
            self.freeze_node,
            self.replace_node,
            self.cut_node,
        ]

    async def run(self, faults: int) -> None:
        """Has so many things fail, each kind before any comes again."""
        async with self.proxy, self.cluster:
            url = self.server.url_at(self.proxy.port)
            self.far = await self.cluster.add("far", url)
            order: list[Callable[[], Coroutine[None, None, None]]] = []
            for _ in range(faults):
                if not order:
                    order = self.random.sample(self.faults, len(self.faults))
                await self.work(12)
                working = asyncio.create_task(self.work(1_000_000))
                keeping = asyncio.create_task(self.keep())
                try:
                    await order.pop()()
                finally:
                    working.cancel()
                    keeping.cancel()
                    await asyncio.wait([working, keeping])
                await self.check()

    async def work(self, steps: int) -> None:
        for _ in range(steps):
            node = self.random.choice([each for each in self.cluster.living if not each.frozen])
            number = self.random.choice(INSTANCES)
            doing = self.random.choice(
                [
                    self.register,
                    self.register,
                    self.set_status,
                    self.hold,
                    self.remove,
                    self.break_stream,
                ]
            )
            try:
                async with asyncio.timeout(10):
                    await doing(node, number)
            except SwitchboardError:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.01)

    async def register(self, node: Node, number: int) -> None:
        known = self.doubt(number)
        created = await node.register(number, check=TCP)
        self.settle(number, Status.SERVING if created else known)

    async def set_status(self, node: Node, number: int) -> None:
        status = self.random.choice([Status.DRAINING, Status.NOT_SERVING, None])
        known = self.doubt(number)
        with suppress(NotFoundError):
            await node.set_status(status, number)
            # One whose stream has just ended is about to go.
            self.settle(number, known and (status or Status.SERVING))

    async def remove(self, node: Node, number: int) -> None:
        self.doubt(number)
        with suppress(NotFoundError):
            await node.deregister(number)
        self.unsure.discard(number)
        await self.forget(number)

    async def hold(self, node: Node, number: int) -> None:
        await self.forget(number, unsure=True)
        known = self.doubt(number)
        with suppress(NotFoundError):
            lease = await node.hold(number)
            self.held[number] = node, lease
            if known is not None:
                self.settle(number, known)

    async def break_stream(self, _node: Node, number: int) -> None:
        await self.forget(number, unsure=True)

    async def forget(self, number: int, *, unsure: bool = False) -> None:
        """Ends the stream that holds an instance, if one does."""
        if number in self.held:
            node, lease = self.held.pop(number)
            if unsure:
                self.doubt(number)
            if not node.gone:
                await node.let_go(lease)

    def doubt(self, number: int) -> Status | None:
        """Nothing is sure of an instance any more; returns what was."""
        self.unsure.add(number)
        return self.expected.pop(number, None)

    def settle(self, number: int, status: Status | None) -> None:
        if status is not None:
            self.unsure.discard(number)
            self.expected[number] = status

    async def keep(self) -> None:
        """Sends requests on all streams, and notices those that end, until cancelled."""
        while True:
            for number, (node, lease) in list(self.held.items()):
                if node.gone or node.frozen:
                    continue
                await node.call(lambda lease=lease: lease.renew(None))  # type: ignore[misc]
                if lease.ended:
                    await self.forget(number, unsure=True)
            await asyncio.sleep(0.2)

    async def lose_redis(self) -> None:
        self.server.kill()
        await asyncio.sleep(self.random.uniform(0, 3))
        self.server.restart()

    async def empty_redis(self) -> None:
        self.server.kill()
        await asyncio.sleep(self.random.uniform(0, 1))
        self.server.restart(empty=True)

    async def freeze_redis(self) -> None:
        self.server.freeze()
        await asyncio.sleep(self.random.uniform(0, 3))
        self.server.thaw()

    async def kill_node(self) -> None:
        node = self.random.choice([each for each in self.cluster.living if each is not self.far])
        await self.abandon(node)
        await node.die()
        await self.start()

    async def replace_node(self) -> None:
        node = self.random.choice([each for each in self.cluster.living if each is not self.far])
        await self.abandon(node)
        await node.stop()
        await self.start()

    async def freeze_node(self) -> None:
        node = self.random.choice(self.cluster.living)
        with frozen(node):
            self.doubt_held(node)
            await asyncio.sleep(self.random.uniform(0, 3))

    async def cut_node(self) -> None:
        self.doubt_held(self.far)
        if self.random.random() < 0.5:
            await self.proxy.cut()
        else:
            self.proxy.blackhole()
        await asyncio.sleep(self.random.uniform(0, 4))
        self.doubt_held(self.far)
        await self.proxy.restore()

    def doubt_held(self, node: Node) -> None:
        """What a node holds may be evicted."""
        for number, (holder, _) in self.held.items():
            if holder is node:
                self.doubt(number)

    async def abandon(self, node: Node) -> None:
        for number, (holder, _) in list(self.held.items()):
            if holder is node:
                await self.forget(number, unsure=True)

    async def start(self) -> None:
        self.names += 1
        await self.cluster.add(f"later{self.names}")

    async def check(self) -> None:
        """All nodes agree with each other, with Redis, and with what was answered."""
        began = time.monotonic()
        await self.cluster.settled()
        # Streams may have ended, and nobody has looked yet.
        for number, (_, lease) in list(self.held.items()):
            if lease.ended:
                await self.forget(number, unsure=True)
        await until(self.consistent)
        self.slowest = max(self.slowest, time.monotonic() - began)
        # And so does one that knows nothing but what is in Redis.
        fresh = await self.cluster.add("looking")
        await self.cluster.agreed()
        await fresh.stop()
        for each in self.cluster.living:
            revisions = [change.revision for change in each.changes if not change.quiet]
            assert revisions == sorted(set(revisions))

    def consistent(self) -> bool:
        living = self.cluster.living
        views = [(node.registry.revision, node.there) for node in living]
        there = {int(name[1:]): status for name, status in views[0][1].items()}
        sure = {number: status for number, status in there.items() if number not in self.unsure}
        owners = [name for node in living for name in node.owned]
        return (
            all(view == views[0] for view in views)
            and sure == self.expected
            and sorted(owners) == sorted(views[0][1])
        )


@pytest.mark.parametrize(("seed", "faults"), [(1, 2), pytest.param(1, 7, marks=pytest.mark.faults)])
async def test_nodes_agree_whatever_fails(tmp_path: Path, seed: int, faults: int) -> None:
    with RedisServer(tmp_path / "redis", append_only=True) as server:
        storm = Storm(server, seed)
        await storm.run(faults)
        assert storm.slowest < WITHIN

"""What befalls a cluster, each with what has to go on meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.e2e.cluster.nodes import Cluster, Node
from tests.e2e.cluster.places import LEASE_SECONDS
from tests.e2e.cluster.trial import Trial

EVENTS = "switchboard.v1.EventService"
GROUPS = "switchboard.v1.GroupService"
REALTIME = "switchboard.v1.RealtimeService"
REGISTRY = "switchboard.v1.RegistryService"
TOLD_SECONDS = 30.0
"""Within which the health of every hub has to tell that a server is down."""


@dataclass(frozen=True)
class Fault:
    """A fault.

    Args:
        name: What it is called in the table.
        befall: Lets it happen, and ends it.
    """

    name: str
    befall: Callable[[], Awaitable[None]]


def kill_rabbitmq(cluster: Cluster, trial: Trial) -> Fault:
    """RabbitMQ is killed, and started again once every hub has said so in its health."""

    async def befall() -> None:
        await asyncio.to_thread(cluster.rabbit.kill)
        async with asyncio.timeout(TOLD_SECONDS):
            await cluster.until_health(EVENTS, serving=False)
        for service in (REALTIME, REGISTRY):
            await cluster.until_health(service, serving=True)
        # Without it, rooms and discovery go on.
        for number in range(len(cluster.nodes)):
            await trial.places.heard(number, f"without RabbitMQ {time.monotonic_ns()}")
            assert await trial.places.view(number) == trial.places.truth
        await asyncio.to_thread(cluster.rabbit.start)

    return Fault("RabbitMQ killed", befall)


def kill_redis(cluster: Cluster, trial: Trial) -> Fault:
    """Redis is killed, and comes back empty once every hub has said so in its health."""

    async def befall() -> None:
        await asyncio.to_thread(cluster.redis.kill)
        async with asyncio.timeout(TOLD_SECONDS):
            await cluster.until_health(REALTIME, serving=False)
        for service in (EVENTS, GROUPS):
            await cluster.until_health(service, serving=True)
        # Without it, events and groups go on.
        await trial.events_pass()
        await asyncio.to_thread(cluster.redis.restart, empty=True)

    return Fault("Redis killed, back empty", befall)


def kill_node(node: Node, seconds: float) -> Fault:
    """A hub is killed, and started again after a time."""

    async def befall() -> None:
        await node.kill()
        await asyncio.sleep(seconds)
        await node.start()

    return Fault(f"{node.name} killed", befall)


def kill_node_without_rabbitmq(cluster: Cluster, node: Node, trial: Trial) -> Fault:
    """RabbitMQ is killed, then a hub; the hub is started first, and serves what it can."""

    async def befall() -> None:
        await asyncio.to_thread(cluster.rabbit.kill)
        await node.kill()
        await node.start()
        async with asyncio.timeout(TOLD_SECONDS):
            for service in (REALTIME, REGISTRY):
                await cluster.until_health(service, serving=True)
            await cluster.until_health(EVENTS, serving=False)
        await trial.places.agree(LEASE_SECONDS)
        await asyncio.to_thread(cluster.rabbit.start)

    return Fault(f"RabbitMQ, then {node.name}", befall)


def freeze_node(node: Node, seconds: float) -> Fault:
    """A hub is frozen for a time."""

    async def befall() -> None:
        node.freeze()
        await asyncio.sleep(seconds)
        node.thaw()

    return Fault(f"{node.name} frozen for {seconds:.0f} s", befall)


def cut_link(cluster: Cluster, seconds: float) -> Fault:
    """The ways of the last hub to RabbitMQ and Redis are cut for a time."""

    async def befall() -> None:
        for link in (cluster.rabbit_link, cluster.redis_link):
            await link.cut()
        await asyncio.sleep(seconds)
        for link in (cluster.rabbit_link, cluster.redis_link):
            await link.restore()

    return Fault(f"{cluster.nodes[-1].name} cut off", befall)


def clog_link(cluster: Cluster, seconds: float) -> Fault:
    """The same ways let nothing through for a time, and close nothing."""

    async def befall() -> None:
        for link in (cluster.rabbit_link, cluster.redis_link):
            link.blackhole()
        await asyncio.sleep(seconds)
        for link in (cluster.rabbit_link, cluster.redis_link):
            await link.restore()

    return Fault(f"{cluster.nodes[-1].name}'s links clogged", befall)

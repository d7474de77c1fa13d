"""Three hubs of a cluster, as services and callers see them: whichever they ask, one directory."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from switchboard.v1.registry_service_pb2 import KeepAliveRequest
from tests.integration.client import Client, failing
from tests.integration.hubs import cluster_settings, running
from tests.integration.registry_client import RegistryClient, an_instance, answered
from tests.integration.xds import CALLS, XDS, Caller, answering
from tests.support.brokers import RabbitServer, RedisServer
from tests.support.hub import HubProcess
from tests.support.registry_nodes import until

NODE_LEASE = 5.0
"""Seconds after which a hub is taken for dead."""


@pytest.fixture(scope="module")
def hubs(
    rabbit: RabbitServer, own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[HubProcess]]:
    """Three hubs."""
    settings = {**cluster_settings(rabbit, own_redis), **XDS}
    with ExitStack() as stack:
        folder: Path = tmp_path_factory.mktemp("hubs")
        yield [stack.enter_context(running(folder / str(number), settings)) for number in range(3)]


async def seen(clients: list[Client], service: str, *ids: str) -> None:
    """Waits until every hub lets these instances be discovered."""
    for client in clients:
        registry = RegistryClient(client)
        while True:
            page = await registry.list_services(name_prefix=service, include_instances=True)
            found = [each for listed in page.services for each in listed.instances]
            if sorted(each.instance_id for each in found) == sorted(ids):
                break


async def test_what_one_hub_is_told_all_answer(
    hubs: list[HubProcess], clients: list[Client]
) -> None:
    a, b, c = map(RegistryClient, clients)
    async with clients[1].subscribe("system_event") as events, answering("one") as one:
        await events.next()
        async with c.followed("who", all_statuses=True) as watching:
            check = {"tcp": {}, "interval": {"seconds": 1}}
            await a.register(an_instance("who", 1, port=one, health_check=check))
            await watching.until(lambda known: bool(known) and known["who/i1"].status == 2)
            revision = watching.revision
        assert [await each.discovered("who") for each in (a, b, c)] == [["i1"]] * 3
        assert (
            await failing(b.register(an_instance("who", 1, port=9)))
        ).reason == "INSTANCE_CONFLICT"
        with Caller(hubs[2], "who") as caller:
            await caller.until(lambda answers: answers == {"one": CALLS})
            async with answering("two") as two:
                await b.register(an_instance("who", 2, port=two))
                held = await c.kept("who", "i2", load=1.5)
                await caller.until(lambda answers: answers.keys() == {"one", "two"})
                await a.set_status("who", "i1", "DRAINING")
                assert await caller.until(lambda answers: answers == {"two": CALLS}) < 1
                await b.set_status("who", "i1", "SERVING")
                began = time.monotonic()
                held.cancel()
                await seen(clients, "who", "i1")
                assert time.monotonic() - began < 1.5
                await caller.until(lambda answers: answers == {"one": CALLS})
        await c.deregister("who", "i1")
        await seen(clients, "who")
        # Who watched one hub goes on at another, and misses nothing.
        async with b.watching("who", after_revision=revision, all_statuses=True) as watching:
            assert (await watching.next()).WhichOneof("control") == "resumed"
            while not (watching.known == {} and watching.revision >= revision + 5):
                await watching.next()
        told = [event.attributes for event in await events.events(7)]
        assert [(each["instance_id"], each["event"].rpartition(".")[2]) for each in told] == [
            ("i1", "registered"),
            ("i1", "changed"),
            ("i2", "registered"),
            ("i1", "changed"),
            ("i1", "changed"),
            ("i2", "removed"),
            ("i1", "removed"),
        ]


async def test_without_redis_discovery_goes_on_and_registering_says_why_not(
    own_redis: RedisServer, hubs: list[HubProcess], clients: list[Client]
) -> None:
    a, b, c = map(RegistryClient, clients)
    await a.register(an_instance("steady", 1))
    await a.register(an_instance("steady", 2, lease_ttl={"seconds": 2}))
    held = await b.kept("steady", "i2")
    await seen(clients, "steady", "i1", "i2")
    own_redis.kill()
    failure = await failing(refused(a))
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.UNAVAILABLE,
        "REGISTRY_UNAVAILABLE",
    )
    assert "Redis" in failure.message
    for _ in range(6):
        await asyncio.sleep(0.5)
        await held.write(KeepAliveRequest())
        await answered(held)
        assert [await each.discovered("steady") for each in (a, b, c)] == [["i1", "i2"]] * 3
    for client in clients:
        health = health_pb2_grpc.HealthStub(client.channel)
        asked = health_pb2.HealthCheckRequest(service="switchboard.v1.RegistryService")
        assert (await health.Check(asked)).status == health_pb2.HealthCheckResponse.SERVING
    own_redis.restart(empty=True)
    await accepted(a)
    await seen(clients, "steady", "i1", "i2", "i3")
    await held.write(KeepAliveRequest())
    await answered(held)
    held.cancel()
    await seen(clients, "steady", "i1", "i3")


async def refused(registry: RegistryClient) -> None:
    """Registers until that is refused."""
    while True:
        await registry.register(an_instance("steady", 1))


async def accepted(registry: RegistryClient) -> None:
    """Registers until that is accepted."""
    while True:
        with suppress(grpc.aio.AioRpcError):
            await registry.register(an_instance("steady", 3))
            return
        await asyncio.sleep(0.1)


async def test_what_a_killed_hub_held_goes_within_its_lease_unless_it_is_held_elsewhere(
    hubs: list[HubProcess], clients: list[Client]
) -> None:
    a, _, c = map(RegistryClient, clients)
    for number in (1, 2):
        await a.register(an_instance("held", number))
        await c.kept("held", f"i{number}")
    await seen(clients, "held", "i1", "i2")
    hubs[2].kill()
    killed = time.monotonic()
    again = await a.kept("held", "i2")
    await seen(clients[:2], "held", "i2")
    assert 2 < time.monotonic() - killed < NODE_LEASE + 2
    await again.write(KeepAliveRequest())
    await answered(again)
    await until(lambda: time.monotonic() - killed > NODE_LEASE + 1)
    await seen(clients[:2], "held", "i2")

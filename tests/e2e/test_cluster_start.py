"""A hub that starts while RabbitMQ or Redis is away serves what it can, and the rest later."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from switchboard.v1 import event_service_pb2, subscription_pb2
from switchboard.v1.group_service_pb2 import ListGroupsRequest
from switchboard.v1.group_service_pb2_grpc import GroupServiceStub
from switchboard.v1.realtime_service_pb2 import BroadcastRequest
from switchboard.v1.realtime_service_pb2_grpc import RealtimeServiceStub
from switchboard_server.backends.redis.link import RedisLink
from tests.e2e.cluster.faults import EVENTS, GROUPS, REALTIME, REGISTRY
from tests.e2e.cluster.nodes import Hubs, Node
from tests.e2e.load import get, numbered, read, reason_of, stub, subscribe
from tests.support.brokers import RabbitServer, RedisServer
from tests.support.cluster_logs import a_prefix
from tests.support.rabbit import control

RIGHTS = "^switchboard"
RIGHT_TO_WRITE = r"^(switchboard|amq\.default$)"
"""What a hub's user may configure and read in RabbitMQ, and write."""
ACCESS = "~{switchboard}* &switchboard* +@all -@dangerous +info"
"""What it may do in Redis."""


@asynccontextmanager
async def a_hub(
    folder: Path, rabbitmq: str, redis: str, prefix: str = ""
) -> AsyncIterator[tuple[Hubs, Node]]:
    node = Node(
        "hub",
        folder,
        {
            "SWITCHBOARD_BACKEND": "cluster",
            "SWITCHBOARD_DATA_DIR": "",
            "RABBITMQ_URL": rabbitmq,
            "REDIS_URL": redis,
            "MESSAGE_QUEUE_EXCHANGE": prefix or a_prefix(),
        },
    )
    try:
        await node.start()
        async with Hubs([node]) as hubs:
            yield hubs, node
        await node.stop()
    finally:
        if node.running:
            await node.kill()


async def publish(hubs: Hubs) -> int:
    request = event_service_pb2.PublishRequest(event=numbered("starter", 1))
    return (await stub(hubs.channel(0)).Publish(request)).sequence


async def refused(hubs: Hubs) -> list[tuple[str, str]]:
    """What becomes of calls that need the log: reason and message."""
    channel = hubs.channel(0)
    told = []
    for call in (
        publish(hubs),
        subscribe(channel),
        subscribe(channel, subscription_pb2.SubscribeRequest(group="crew")),
        stub(channel).ListEvents(event_service_pb2.ListEventsRequest()),
        GroupServiceStub(channel).ListGroups(ListGroupsRequest()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        told.append((reason_of(caught.value)[0], caught.value.details() or ""))
    return told


@pytest.mark.faults
async def test_a_hub_starts_without_its_servers_and_serves_when_they_come(tmp_path: Path) -> None:
    rabbit, redis = RabbitServer(tmp_path / "rabbitmq"), RedisServer(tmp_path / "redis")
    try:
        async with a_hub(tmp_path / "hub", rabbit.url, redis.url) as (hubs, node):
            assert "which cannot be used yet" in node.text
            for service in (EVENTS, GROUPS, REALTIME, REGISTRY):
                assert not await hubs.serves(0, service)
            assert await hubs.serves(0, "grpc.health.v1.Health")
            _, body = await get(node.hub, "/health")
            for part in ("realtime", "registry"):
                assert f"Redis at 127.0.0.1:{redis.port}" in json.loads(body)[part]["problem"]
            for reason, text in await refused(hubs):
                assert reason == "LOG_UNAVAILABLE", text
            await asyncio.to_thread(redis.start)
            for service in (REALTIME, REGISTRY):
                await hubs.until_health(service, serving=True)
            assert not await hubs.serves(0, EVENTS)
            message = BroadcastRequest(message_type="chat", rooms=["hall"])
            await RealtimeServiceStub(hubs.channel(0)).Broadcast(message)
            await asyncio.to_thread(rabbit.start)
            for service in (EVENTS, GROUPS):
                await hubs.until_health(service, serving=True)
            call = await subscribe(hubs.channel(0))
            assert await publish(hubs) == 1
            response = await read(call)
            assert response.deliveries[0].event.id == "1"
            members = await subscribe(
                hubs.channel(0), subscription_pb2.SubscribeRequest(group="crew")
            )
            members.cancel()
            call.cancel()
    finally:
        for server in (rabbit, redis):
            await asyncio.to_thread(server.kill)


async def test_a_password_that_is_wrong_is_told_and_stops_nothing_else(
    tmp_path: Path, rabbit: RabbitServer, redis: RedisServer
) -> None:
    wrong = rabbit.url.replace("guest:guest", "guest:wrong")
    async with a_hub(tmp_path, wrong, redis.url) as (hubs, node):
        for service in (REALTIME, REGISTRY):
            await hubs.until_health(service, serving=True)
        assert not await hubs.serves(0, EVENTS)
        status, body = await get(node.hub, "/health")
        assert status == 503
        problem = json.loads(body)["log"]["problem"]
        assert "ACCESS_REFUSED" in problem
        for _, text in await refused(hubs):
            assert "ACCESS_REFUSED" in text
        assert f"events and groups cannot be served yet: {problem}" in node.text


async def test_a_right_that_a_hub_lacks_is_told_and_those_of_the_readme_suffice(
    tmp_path: Path, rabbit: RabbitServer, redis: RedisServer
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for told in (RIGHTS, RIGHT_TO_WRITE, ACCESS):
        assert f"`{told}`" in readme
    prefix = a_prefix()
    rights, right_to_write, access = (
        each.replace("switchboard", prefix) for each in (RIGHTS, RIGHT_TO_WRITE, ACCESS)
    )
    await control(rabbit, "add_user", prefix, "oats")
    await control(rabbit, "set_permissions", prefix, rights, rights, rights)
    link = RedisLink([redis.url])
    await link.open()
    await link.call("ACL", "SETUSER", prefix, "on", ">oats", *access.split())
    await link.close()
    whose = f"{prefix}:oats@127.0.0.1"
    urls = f"amqp://{whose}:{rabbit.port}/", f"redis://{whose}:{redis.port}/0"
    async with a_hub(tmp_path, *urls, prefix) as (hubs, node):
        for _, text in await refused(hubs):
            assert "ACCESS_REFUSED - access to exchange 'amq.default'" in text
        assert "events and groups cannot be served yet" in node.text
        await control(rabbit, "set_permissions", prefix, rights, right_to_write, rights)
        for service in (EVENTS, GROUPS, REALTIME, REGISTRY):
            await hubs.until_health(service, serving=True)
        assert await publish(hubs) == 1
        members = await subscribe(hubs.channel(0), subscription_pb2.SubscribeRequest(group="crew"))
        members.cancel()
        message = BroadcastRequest(message_type="chat", rooms=["hall"])
        await RealtimeServiceStub(hubs.channel(0)).Broadcast(message)

"""Browsers and services on the hubs of a cluster, over both doors of real processes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
import websockets.asyncio.client
from grpc_health.v1 import health_pb2, health_pb2_grpc

from switchboard.v1 import realtime_service_pb2 as api
from switchboard.v1.connect_pb2 import RoomJoin
from switchboard.v1.realtime_pb2 import RoomPosition
from tests.integration.bridge import BridgeClient
from tests.integration.client import Client, an_event, failing
from tests.integration.hubs import cluster_settings, running
from tests.integration.realtime_client import Realtime
from tests.support.brokers import RabbitServer, RedisServer
from tests.support.hub import HubProcess

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def hubs(
    rabbit: RabbitServer, own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[HubProcess]]:
    """Two hubs."""
    settings = {**cluster_settings(rabbit, own_redis), "SWITCHBOARD_ROOM_HISTORY": "chat-*=50/5m"}
    with ExitStack() as stack:
        folder: Path = tmp_path_factory.mktemp("hubs")
        yield [stack.enter_context(running(folder / str(number), settings)) for number in range(2)]


@asynccontextmanager
async def browser(hub: HubProcess, name: str) -> AsyncIterator[BridgeClient]:
    """A client of a hub's bridge."""
    url = f"ws://127.0.0.1:{hub.port}/ws/{name}"
    async with websockets.asyncio.client.connect(url, compression=None) as socket:
        client = BridgeClient(socket)
        started = await client.read()
        assert started["data"]["event"] == "started", started
        yield client


async def until_health(client: Client, service: str, status: int) -> None:
    """Waits until a hub says so of a service."""
    health = health_pb2_grpc.HealthStub(client.channel)
    watching = health.Watch(health_pb2.HealthCheckRequest(service=service))
    async with asyncio.timeout(30):
        while (await watching.read()).status != status:
            pass
    watching.cancel()


async def test_a_browser_and_a_service_on_different_hubs_stand_in_one_room(
    hubs: list[HubProcess], clients: list[Client]
) -> None:
    one, two = map(Realtime, clients)
    async with (
        one.connect("service", "chat-1", user="eve") as service,
        browser(hubs[1], "tab") as tab,
    ):
        joined = await tab.done("join", {"room": "chat-1"})
        assert joined["connections"] == 2
        sent = await one.send("from grpc", rooms=["chat-1"])
        assert sent.connections == 2
        frame = await tab.until_type("chat")
        assert frame["data"] == {"text": "from grpc"}
        await tab.done("chat", {"room": "chat-1", "text": "from the browser"})
        assert await service.texts(2) == ["from grpc", "from the browser"]
        for realtime in (one, two):
            room = await realtime.call(
                "GetRoom", api.GetRoomRequest(room="chat-1", member_page_size=10)
            )
            assert [each.client_id for each in room.members] == ["service", "tab"]
            presence = await realtime.call("GetPresence", api.GetPresenceRequest(users=["eve"]))
            assert presence.presences[0].connections == 1
        listed = await two.call("ListConnections", api.ListConnectionsRequest(room="chat-1"))
        assert len({each.node for each in listed.connections}) == 2
        # The same name on the other hub takes the browser's place.
        async with one.connect("tab", RoomJoin(room="chat-1", recover_after=_first(sent))) as moved:
            assert await tab.closed() == (4500, "CONNECTION_REPLACED")
            assert moved.joined[0].recovered
            assert await moved.texts(1) == ["from the browser"]


def _first(sent: api.BroadcastResponse) -> RoomPosition:
    return sent.positions[0]


async def test_without_redis_events_go_on_and_realtime_says_what_it_cannot(
    hubs: list[HubProcess], clients: list[Client], own_redis: RedisServer
) -> None:
    one, two = map(Realtime, clients)
    async with one.connect("near", "hall") as near, browser(hubs[1], "far") as far:
        await far.done("join", {"room": "hall"})
        await far.done("join", {"room": "chat-2"})
        own_redis.kill()
        for client in clients:
            await until_health(client, "switchboard.v1.RealtimeService", NOT_SERVING)
        assert (await one.send("alone", rooms=["hall"])).connections == 1
        assert await near.texts(1) == ["alone"]
        failure = await failing(two.send("kept", rooms=["chat-2"]))
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "REALTIME_UNAVAILABLE",
        )
        failure = await failing(two.call("ListRooms", api.ListRoomsRequest()))
        assert failure.reason == "REALTIME_UNAVAILABLE"
        await until_health(clients[0], "switchboard.v1.EventService", SERVING)
        assert (await clients[0].publish(an_event())).sequence
        own_redis.start()
        for client in clients:
            await until_health(client, "switchboard.v1.RealtimeService", SERVING)
        # What it missed of the room that keeps a history nobody can tell.
        assert await far.closed() == (4007, "ROOM_INTERRUPTED")
        async with browser(hubs[1], "far") as back:
            await back.done("join", {"room": "hall"})
            assert (await one.send("together", rooms=["hall"])).connections == 2
            assert (await back.until_type("chat"))["data"] == {"text": "together"}
            assert await near.texts(1) == ["together"]

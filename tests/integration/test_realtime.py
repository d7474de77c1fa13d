"""RealtimeService over real connections: rooms, messages, recovery, and how streams end."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from switchboard.v1 import realtime_service_pb2 as api
from switchboard.v1.connect_pb2 import RoomJoin
from switchboard.v1.realtime_pb2 import TRANSPORT_GRPC, RoomPosition
from tests.integration.client import Client, failing
from tests.integration.credentials import SECRET, token
from tests.integration.hubs import MEMORY, connect, running
from tests.integration.realtime_client import Realtime
from tests.support.hub import HubProcess

_numbers = count(1)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    settings = {**MEMORY, "SWITCHBOARD_ROOM_HISTORY": "chat-*=100/5m"}
    with running(tmp_path_factory.mktemp("hub"), settings) as hub:
        yield hub


@pytest.fixture
async def realtime(hub: HubProcess) -> AsyncIterator[Realtime]:
    async with connect(hub) as client:
        yield Realtime(client)


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"n{next(_numbers)}"


async def test_a_message_reaches_all_who_stand_in_the_room(realtime: Realtime, name: str) -> None:
    async with (
        realtime.connect(f"{name}-1", name, user="ann") as first,
        realtime.connect(f"{name}-2", name) as second,
    ):
        assert (first.started.client_id, first.started.user) == (f"{name}-1", "ann")
        assert first.started.node
        assert (second.joined[0].connections, second.joined[0].users) == (2, 1)
        sent = await realtime.send("hi", rooms=[name], sender_client_id=f"{name}-1")
        assert sent.connections == 2
        for connection in (first, second):
            (message,) = await connection.messages(1)
            assert message.message_id == sent.message_id
            assert (message.message_type, dict(message.data)) == ("chat", {"text": "hi"})
            assert (message.sender_client_id, message.sender_user) == (f"{name}-1", "ann")
            assert [place.room for place in message.rooms] == [name]
            assert message.send_time.seconds


async def test_one_that_comes_back_gets_exactly_what_it_missed(
    realtime: Realtime, name: str
) -> None:
    room = f"chat-{name}"
    async with realtime.connect(name, room) as connection:
        await realtime.send("0", rooms=[room])
        (message,) = await connection.messages(1)
    for number in range(1, 51):
        await realtime.send(str(number), rooms=[room])
    back = RoomJoin(room=room, recover_after=message.rooms[0])
    async with realtime.connect(name, back) as connection:
        assert (connection.joined[0].recovered, connection.joined[0].replayed) == (True, 50)
        await realtime.send("51", rooms=[room])
        assert await connection.texts(51) == [str(number) for number in range(1, 52)]


async def test_one_whose_place_is_unknown_is_told(realtime: Realtime, name: str) -> None:
    room = f"chat-{name}"
    await realtime.send("0", rooms=[room])
    lost = RoomJoin(room=room, recover_after=RoomPosition(epoch="another", offset=1))
    async with realtime.connect(name, lost) as connection:
        assert not connection.joined[0].recovered
    details = await realtime.call("GetRoom", api.GetRoomRequest(room=room, history_limit=10))
    assert [message.data["text"] for message in details.history] == ["0"]
    assert details.room.history_ttl.seconds == 300
    assert not details.history_contiguous


async def test_rooms_are_joined_and_left_while_connected(realtime: Realtime, name: str) -> None:
    async with realtime.connect(name) as connection:
        join = api.JoinRoomRequest(client_id=name, join=RoomJoin(room=name))
        answer = await realtime.call("JoinRoom", join)
        assert (await connection.next()).joined == answer.joined
        assert (await realtime.call("JoinRoom", join)).already_joined
        leave = api.LeaveRoomRequest(client_id=name, room=name)
        assert (await realtime.call("LeaveRoom", leave)).left
        assert (await connection.next()).left.room == name
        assert not (await realtime.call("LeaveRoom", leave)).left


async def test_who_asks_is_told_who_joins_and_leaves(realtime: Realtime, name: str) -> None:
    async with realtime.connect(name, RoomJoin(room=name, presence_notices=True)) as connection:
        async with realtime.connect(f"{name}-2", name, user="bob"):
            notice = (await connection.next()).presence
            assert [(each.client_id, each.user) for each in notice.joined] == [(f"{name}-2", "bob")]
            assert (notice.connections, notice.users) == (2, 1)
        notice = (await connection.next()).presence
        assert [each.client_id for each in notice.left] == [f"{name}-2"]
        assert notice.connections == 1


async def test_everything_can_be_looked_at(realtime: Realtime, name: str) -> None:
    async with realtime.connect(name, f"{name}-b", f"{name}-a", user=f"{name}-user"):
        rooms = await realtime.call("ListRooms", api.ListRoomsRequest(name_prefix=name))
        assert [room.name for room in rooms.rooms] == [f"{name}-a", f"{name}-b"]
        request = api.GetRoomRequest(room=f"{name}-a", member_page_size=10)
        details = await realtime.call("GetRoom", request)
        assert [member.client_id for member in details.members] == [name]
        presence = await realtime.call(
            "GetPresence", api.GetPresenceRequest(users=[f"{name}-user", "nobody"])
        )
        assert [each.online for each in presence.presences] == [True, False]
        assert not presence.presences[1].HasField("online_since")
        listed = await realtime.call(
            "ListConnections",
            api.ListConnectionsRequest(client_id_prefix=name, transport=TRANSPORT_GRPC),
        )
        (connection,) = listed.connections
        assert (connection.client_id, connection.transport) == (name, TRANSPORT_GRPC)
        assert list(connection.rooms) == [f"{name}-a", f"{name}-b"]
        assert connection.peer.startswith("127.0.0.1:")
        assert listed.total == 1


async def test_silence_is_broken_by_heartbeats(realtime: Realtime, name: str) -> None:
    async with realtime.connect(name, heartbeat_interval=Duration(seconds=1)) as connection:
        for _ in range(2):
            assert (await connection.next()).heartbeat.send_time.seconds


async def test_another_connection_of_the_name_ends_the_first(realtime: Realtime, name: str) -> None:
    async with realtime.connect(name) as first, realtime.connect(name):
        failure = await failing(first.call.read())
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.ABORTED,
            "CONNECTION_REPLACED",
        )


async def test_disconnecting_tells_why_and_whether_to_come_back(
    realtime: Realtime, name: str
) -> None:
    async with realtime.connect(name) as connection:
        await realtime.send("bye", clients=[name])
        request = api.DisconnectRequest(clients=[name], reconnect=True, reason="moving")
        assert (await realtime.call("Disconnect", request)).disconnected == 1
        assert await connection.texts(1) == ["bye"]
        failure = await failing(connection.call.read())
        assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "CONNECTION_CLOSED")
        assert failure.metadata == {"reason": "moving", "reconnect": "true"}
        assert (await realtime.call("Disconnect", request)).disconnected == 0


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason"),
    [
        ("Broadcast", api.BroadcastRequest(message_type="x"), "INVALID_ARGUMENT", "FIELD_MISSING"),
        ("JoinRoom", api.JoinRoomRequest(client_id="a"), "INVALID_ARGUMENT", "FIELD_MISSING"),
        (
            "JoinRoom",
            api.JoinRoomRequest(client_id="a", join=RoomJoin(room="a")),
            "NOT_FOUND",
            "CONNECTION_NOT_FOUND",
        ),
        ("GetRoom", api.GetRoomRequest(room="nowhere"), "NOT_FOUND", "ROOM_NOT_FOUND"),
        (
            "ListConnections",
            api.ListConnectionsRequest(transport=9),  # type: ignore[arg-type]  # an unknown one
            "INVALID_ARGUMENT",
            "INVALID_FIELD",
        ),
        ("Disconnect", api.DisconnectRequest(), "INVALID_ARGUMENT", "FIELD_MISSING"),
    ],
)
async def test_mistakes_are_explained(
    realtime: Realtime, method: str, request_: Any, code: str, reason: str
) -> None:
    failure = await failing(realtime.call(method, request_))
    assert (failure.code.name, failure.reason) == (code, reason)


async def test_a_heartbeat_has_to_be_sensible(realtime: Realtime) -> None:
    call = realtime.connect(heartbeat_interval=Duration(seconds=4000)).call
    failure = await failing(call.read())
    assert list(failure.fields) == ["heartbeat_interval"]


async def test_one_that_does_not_read_is_ended_and_harms_nobody(tmp_path: Path) -> None:
    settings = {**MEMORY, "SWITCHBOARD_ROOM_HISTORY": "chat-*=10000/5m"}
    content = "x" * 100_000
    with running(tmp_path, settings) as hub:
        async with connect(hub) as one, connect(hub) as other, connect(hub) as sender:
            stalled = Realtime(one).connect("stalled", "chat-1")
            reading = Realtime(other).connect("reading", "chat-1")
            async with stalled, reading:
                before = hub.memory()
                received = 0
                while (await Realtime(sender).send(content, rooms=["chat-1"])).connections == 2:
                    received += len(await reading.messages(1))
                    assert received < 1000, "the stalled one is never ended"
                assert await reading.texts(1) == [content]
                listed = await Realtime(sender).call(
                    "ListConnections", api.ListConnectionsRequest()
                )
                assert [each.client_id for each in listed.connections] == ["reading"]
                assert hub.memory() < before + 200_000_000
                code = None
                while code is None:
                    try:
                        await stalled.call.read()
                    except grpc.aio.AioRpcError as error:
                        code = error.code()
                assert code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)


async def test_messages_in_no_history_are_dropped_and_counted(tmp_path: Path) -> None:
    content = "x" * 100_000
    with running(tmp_path, MEMORY) as hub:
        async with connect(hub) as one, connect(hub) as sender:
            stalled = Realtime(one).connect("stalled", "lobby")
            realtime = Realtime(sender)
            async with stalled:
                sent = 0
                listed = api.ListConnectionsResponse()
                while not listed.connections or not listed.connections[0].dropped_messages:
                    for _ in range(10):
                        await realtime.send(content, rooms=["lobby"])
                        sent += 1
                    listed = await realtime.call("ListConnections", api.ListConnectionsRequest())
                    assert sent < 2000
                got = dropped = 0
                while got + dropped < sent:
                    response = await stalled.next()
                    got += len(response.messages)
                    dropped += response.dropped.count
                assert dropped == listed.connections[0].dropped_messages
                assert got + dropped == sent


async def test_a_hub_that_stops_tells_its_connections(tmp_path: Path) -> None:
    with running(tmp_path, MEMORY) as hub:
        async with connect(hub) as client, Realtime(client).connect("a", "lobby") as connection:
            await Realtime(client).send("last", rooms=["lobby"])
            ended = asyncio.create_task(asyncio.to_thread(hub.terminate))
            assert await connection.texts(1) == ["last"]
            failure = await failing(connection.call.read())
            assert (failure.code, failure.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "SHUTTING_DOWN",
            )
            assert await ended == 0


async def test_tokens_name_users_and_scopes_name_rooms(tmp_path: Path) -> None:
    with running(tmp_path, {**MEMORY, "JWT_SECRET_KEY": SECRET}) as hub:
        permissions = ("rooms.join:team-*", "messaging.broadcast:team-*", "messaging.view:team-*")
        ann_token = token(*permissions, subject="ann")
        admin_token = token("rooms.join", "rooms.manage", "connections.manage", subject="admin")
        async with connect(hub, ann_token) as ann, connect(hub, admin_token) as admin:
            assert (await refused(ann, "other")) == "other"
            async with Realtime(ann).connect("tab", "team-1") as connection:
                assert connection.started.user == "ann"
                await Realtime(ann).send("x", rooms=["team-1"])
                (message,) = await connection.messages(1)
                assert message.sender_user == "ann"
                failure = await failing(Realtime(ann).send("x", all=True))
                assert failure.metadata == {"permission": "messaging.broadcast", "resource": "*"}
                leave = api.LeaveRoomRequest(client_id="tab", room="team-1")
                assert (await Realtime(admin).call("LeaveRoom", leave)).left
                left = (await connection.next()).left
                assert (left.room, left.removed) == ("team-1", True)


async def refused(client: Client, room: str) -> str:
    """Connects to a room that is out of scope, and returns what was out of it."""
    failure = await failing(Realtime(client).connect("x", room).call.read())
    assert failure.code is grpc.StatusCode.PERMISSION_DENIED
    return str(failure.metadata["resource"])


async def test_a_stream_ends_when_its_token_expires(tmp_path: Path) -> None:
    with running(tmp_path, {**MEMORY, "JWT_SECRET_KEY": SECRET}) as hub:
        short = token("rooms.join", seconds=2)
        async with connect(hub, short) as client, Realtime(client).connect("tab") as connection:
            failure = await failing(connection.call.read())
            assert (failure.code, failure.reason) == (
                grpc.StatusCode.UNAUTHENTICATED,
                "TOKEN_EXPIRED",
            )
        async with connect(hub, token("messaging.view")) as client:
            listed = await Realtime(client).call("ListConnections", api.ListConnectionsRequest())
            assert not listed.connections


async def test_there_are_no_more_connections_than_the_setting_allows(tmp_path: Path) -> None:
    with running(tmp_path, {**MEMORY, "WEBSOCKET_MAX_CONNECTIONS": "1"}) as hub:
        async with connect(hub) as client, Realtime(client).connect("a"):
            failure = await failing(Realtime(client).connect("b").call.read())
            assert (failure.code, failure.reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "LIMIT_REACHED",
            )
            assert failure.metadata["setting"] == "WEBSOCKET_MAX_CONNECTIONS"

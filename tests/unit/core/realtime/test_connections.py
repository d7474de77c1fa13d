"""Connections: who may have one, under which name, and how it ends."""

import pytest

from switchboard_server.core.errors import (
    AbortedError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SwitchboardError,
    UnavailableError,
)
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.history import HistoryPolicy
from switchboard_server.core.realtime.hub import RealtimeLimits
from switchboard_server.core.realtime.items import Joined, Left, Started
from switchboard_server.core.realtime.messages import Position
from switchboard_server.core.realtime.neighbours import Entry
from switchboard_server.core.realtime.wishes import (
    ConnectionsQuery,
    DisconnectWish,
    RoomJoin,
    RoomQuery,
)
from tests.support.realtime import Stage

ANN = Principal("ann", ["rooms.join", "messaging.broadcast"])
BOB = Principal("bob", ["rooms.join", "rooms.manage", "connections.manage"])


async def test_the_first_word_tells_the_names_and_the_rooms_follow() -> None:
    stage = Stage()
    client = await stage.connect("tab", "", "lobby", "chat-1", principal=ANN)
    started, lobby, chat = client.items()
    assert started == Started("tab", "ann", stage.hub.node)
    assert lobby == Joined(Position("lobby"), False, 0, 1, 1)
    assert isinstance(chat, Joined)
    assert (chat.position.room, chat.position.offset) == ("chat-1", 0)
    assert chat.position.epoch


async def test_a_room_named_twice_is_joined_once() -> None:
    client = await Stage().connect("tab", "", "lobby", "lobby")
    assert len(client.items()) == 2


async def test_the_hub_names_those_that_have_no_name() -> None:
    stage = Stage()
    names = {(await stage.connect()).connection.client_id for _ in range(3)}
    assert len(names) == 3
    assert all(names)


async def test_without_tokens_anybody_may_be_any_user() -> None:
    client = await Stage().connect("tab", "ann")
    assert client.connection.user == "ann"
    assert client.connection.principal.subject == "ann"
    assert client.connection.principal.may("rooms.manage")


async def test_a_token_is_good_for_its_own_user_only() -> None:
    stage = Stage()
    with pytest.raises(PermissionDeniedError) as caught:
        await stage.connect("tab", "bob", principal=ANN)
    assert caught.value.metadata == {"permission": "rooms.join", "resource": "bob"}
    assert (await stage.connect("tab", "ann", principal=ANN)).connection.user == "ann"


@pytest.mark.parametrize(
    ("permissions", "rooms"), [([], []), (["rooms.join:team-*"], ["team-1", "lobby"])]
)
async def test_who_may_not_join_may_not_connect(permissions: list[str], rooms: list[str]) -> None:
    stage = Stage()
    with pytest.raises(PermissionDeniedError):
        await stage.connect("tab", "", *rooms, principal=Principal("ann", permissions))
    assert stage.hub.stats().connections == {}


@pytest.mark.parametrize(
    ("client_id", "user", "room", "field", "reason"),
    [
        ("a*", "", "r", "client_id", "INVALID_FIELD"),
        ("a\n", "", "r", "client_id", "INVALID_FIELD"),
        ("\ud800", "", "r", "client_id", "INVALID_FIELD"),
        (".", "", "r", "client_id", "INVALID_FIELD"),
        ("..", "", "r", "client_id", "INVALID_FIELD"),
        ("x" * 256, "", "r", "client_id", "TOO_LARGE"),
        ("a", "x" * 256, "r", "user", "TOO_LARGE"),
        ("a", "\x00", "r", "user", "INVALID_FIELD"),
        ("a", "", "", "rooms[0].room", "FIELD_MISSING"),
        ("a", "", "r*", "rooms[0].room", "INVALID_FIELD"),
    ],
)
async def test_names_are_checked(
    client_id: str, user: str, room: str, field: str, reason: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await Stage().connect(client_id, user, room)
    assert (caught.value.violations[0].field, caught.value.reason) == (field, reason)


async def test_a_second_connection_of_the_same_user_takes_the_name() -> None:
    stage = Stage(RealtimeLimits(max_connections=1))
    first = await stage.settled("tab", "ann", "lobby")
    second = await stage.connect("tab", "ann")
    stage.turn()
    assert first.wakes == 1
    assert first.items() == []
    assert isinstance(first.connection.ended, AbortedError)
    assert first.connection.ended.reason == "CONNECTION_REPLACED"
    stage.hub.close(first.connection)
    assert len(second.items()) == 1
    assert stage.hub.stats().ended == {"CONNECTION_REPLACED": 1}
    assert (await stage.send("x", rooms=["lobby"])).connections == 0
    assert (await stage.send("x", clients=["tab"])).connections == 1


async def test_a_name_that_is_another_users_is_refused() -> None:
    stage = Stage()
    first = await stage.connect("tab", "bob")
    with pytest.raises(PermissionDeniedError):
        await stage.connect("tab", principal=ANN)
    assert first.connection.ended is None


async def test_there_are_no_more_connections_than_there_may_be() -> None:
    stage = Stage(RealtimeLimits(max_connections=2))
    first = await stage.connect("a")
    await stage.connect("b")
    with pytest.raises(ResourceExhaustedError) as caught:
        await stage.connect("c")
    assert caught.value.metadata == {"limit": "2", "setting": "WEBSOCKET_MAX_CONNECTIONS"}
    stage.hub.close(first.connection)
    await stage.connect("c")


async def test_a_connection_stands_in_at_most_128_rooms() -> None:
    stage = Stage()
    rooms = [f"room-{number}" for number in range(129)]
    with pytest.raises(ResourceExhaustedError) as caught:
        await stage.connect("a", "", *rooms)
    assert (caught.value.reason, caught.value.metadata) == ("LIMIT_REACHED", {"limit": "128"})
    client = await stage.connect("a", "", *rooms[:128])
    with pytest.raises(ResourceExhaustedError):
        await stage.join(client, rooms[128])
    assert (await stage.join(client, rooms[0])).already_joined
    await stage.leave(client, rooms[0])
    assert not (await stage.join(client, rooms[128])).already_joined


async def test_a_client_that_is_gone_leaves_everything_and_is_woken_no_more() -> None:
    stage = Stage()
    client = await stage.settled("tab", "ann", "lobby")
    await stage.send("x", rooms=["lobby"])
    stage.hub.close(client.connection, "PING_TIMEOUT")
    stage.hub.close(client.connection)
    stage.turn()
    assert client.wakes == 0
    assert client.items() == []
    stats = stage.hub.stats()
    assert (stats.connections, stats.users, stats.rooms) == ({}, 0, 0)
    assert stats.ended == {"PING_TIMEOUT": 1}
    with pytest.raises(NotFoundError) as caught:
        await stage.join(client, "lobby")
    assert caught.value.reason == "CONNECTION_NOT_FOUND"


async def test_joining_tells_the_connection_once_and_answers_again() -> None:
    stage = Stage()
    client = await stage.settled("tab", "ann")
    result = await stage.join(client, "lobby")
    assert client.items() == [result.joined]
    again = await stage.join(client, "lobby")
    assert again.already_joined
    assert again.joined == result.joined
    assert client.items() == []


async def test_leaving_tells_the_connection_and_can_be_repeated() -> None:
    stage = Stage()
    client = await stage.settled("tab", "ann", "lobby")
    assert await stage.leave(client, "lobby")
    assert not await stage.leave(client, "lobby")
    assert client.items() == [Left("lobby", removed=False)]
    assert (await stage.send("x", rooms=["lobby"])).connections == 0


async def test_moving_anothers_connection_needs_the_permission_to_manage() -> None:
    stage = Stage()
    client = await stage.settled("tab", "ann", "lobby")
    stranger = Principal("eve", ["rooms.join"])
    with pytest.raises(PermissionDeniedError):
        await stage.hub.join_room("tab", RoomJoin("team"), stranger)
    with pytest.raises(PermissionDeniedError):
        await stage.hub.leave_room("tab", "lobby", stranger)
    with pytest.raises(PermissionDeniedError):
        await stage.hub.leave_room("tab", "lobby", Principal("eve", ["rooms.manage"]))
    assert await stage.hub.leave_room("tab", "lobby", BOB)
    await stage.hub.join_room("tab", RoomJoin("team"), BOB)
    assert client.items() == [Left("lobby", removed=True), Joined(Position("team"), False, 0, 1, 1)]


async def test_another_token_of_the_same_user_counts_from_now_on() -> None:
    stage = Stage()
    client = await stage.connect("tab", principal=ANN)
    renewed = Principal("ann", ["rooms.join"], expires_at=5.0)
    client.connection.renew(renewed)
    assert client.connection.principal is renewed
    for other in (BOB, Principal("ann", [])):
        with pytest.raises(PermissionDeniedError):
            client.connection.renew(other)


async def test_disconnecting_ends_connections_after_what_waits_for_them() -> None:
    stage = Stage()
    tab = await stage.settled("tab", "ann")
    phone = await stage.settled("phone", "ann")
    other = await stage.settled("other", "bob")
    await stage.send("bye", clients=["tab"])
    wish = DisconnectWish(["tab", "nobody"], ["ann", "nobody"], reconnect=True, reason="moved")
    assert await stage.hub.disconnect(wish, BOB) == 2
    stage.turn()
    assert (tab.wakes, phone.wakes, other.wakes) == (1, 1, 0)
    assert tab.texts() == ["bye"]
    for client in (tab, phone):
        error = client.connection.ended
        assert isinstance(error, AbortedError)
        assert error.reason == "CONNECTION_CLOSED"
        assert error.metadata == {"reason": "moved", "reconnect": "true"}
    assert await stage.hub.disconnect(DisconnectWish(["other"]), BOB) == 1
    assert other.connection.ended is not None
    assert other.connection.ended.metadata["reconnect"] == "false"


async def test_disconnecting_is_all_or_nothing_within_a_scope() -> None:
    stage = Stage()
    tab = await stage.connect("tab", "ann")
    await stage.connect("other", "bob")
    principal = Principal("admin", ["connections.manage:ann"])
    for wish in (DisconnectWish(["tab", "other"]), DisconnectWish(["tab"], ["bob"])):
        with pytest.raises(PermissionDeniedError):
            await stage.hub.disconnect(wish, principal)
    assert tab.connection.ended is None
    assert await stage.hub.disconnect(DisconnectWish(["tab"], ["ann"]), principal) == 1


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (DisconnectWish(), "FIELD_MISSING"),
        (DisconnectWish(["a"] * 10_001), "TOO_LARGE"),
        (DisconnectWish(["a"], reason="é" * 62), "TOO_LARGE"),
        (DisconnectWish(["a"], reason="a\nb"), "INVALID_FIELD"),
    ],
)
async def test_a_wish_to_disconnect_is_checked(wish: DisconnectWish, reason: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await Stage().hub.disconnect(wish, BOB)
    assert caught.value.reason == reason


async def test_shutting_down_ends_all_after_what_waits_and_takes_nothing_more() -> None:
    stage = Stage()
    watcher = await stage.settled("a", "", RoomJoin("lobby", presence_notices=True))
    await stage.settled("b", "", "lobby")
    watcher.items()
    await stage.send("last", rooms=["lobby"])
    error = stage.hub.begin_shutdown()
    assert isinstance(error, UnavailableError)
    assert watcher.texts() == ["last"]
    assert isinstance(watcher.connection.ended, UnavailableError)
    assert stage.hub.stats().ended == {"SHUTTING_DOWN": 2}
    refused: list[SwitchboardError] = []
    for call in (
        stage.connect("c"),
        stage.send("x", to_all=True),
        stage.hub.join_room("a", RoomJoin("x"), ANONYMOUS),
    ):
        with pytest.raises(UnavailableError) as caught:
            await call
        refused.append(caught.value)
    assert {each.reason for each in refused} == {"SHUTTING_DOWN"}


async def test_messages_of_one_turn_wake_a_door_once_and_come_together() -> None:
    stage = Stage()
    client = await stage.settled("a", "", "lobby")
    for number in range(3):
        await stage.send(str(number), rooms=["lobby"])
    assert client.wakes == 0
    stage.turn()
    assert client.wakes == 1
    await stage.send("3", rooms=["lobby"])
    stage.turn()
    assert client.wakes == 1, "it has not taken what it was told of"
    assert client.texts() == ["0", "1", "2", "3"]
    await stage.send("4", rooms=["lobby"])
    stage.turn()
    assert client.wakes == 2


async def test_a_door_that_fails_does_not_keep_others_from_hearing() -> None:
    stage = Stage()
    first = await stage.settled("a", "", "lobby")
    second = await stage.settled("b", "", "lobby")

    def fail() -> None:
        raise RuntimeError("a door's defect")

    first.connection.on_ready = fail
    await stage.send("x", rooms=["lobby"])
    with pytest.raises(RuntimeError, match="defect"):
        stage.turn()
    stage.turn()
    assert second.wakes == 1


async def test_a_connection_that_other_nodes_do_not_admit_comes_to_nothing() -> None:
    stage = Stage()
    problem = UnavailableError("REALTIME_UNAVAILABLE", "no route")

    async def refuse(connection: Connection) -> None:
        raise problem

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.hub._neighbours, "admit", refuse)
        with pytest.raises(UnavailableError, match="no route"):
            await stage.connect("a", "ann")
    assert (await stage.settled("a", "ben")).connection.user == "ben"


async def test_a_connection_whose_name_is_taken_elsewhere_meanwhile_is_told_so() -> None:
    stage = Stage()
    taken = AbortedError("CONNECTION_REPLACED", "another took the name")

    async def replace(connection: Connection) -> None:
        connection.ended = taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.hub._neighbours, "admit", replace)
        with pytest.raises(AbortedError, match="another took the name"):
            await stage.connect("a", "ann")
    assert (await stage.settled("a", "ben")).connection.user == "ben"


async def test_a_connection_whose_room_cannot_be_entered_leaves_the_others() -> None:
    stage = Stage()
    hub, enter = stage.hub, stage.hub._neighbours.enter

    async def hinder(
        connection: Connection, join: RoomJoin, policy: HistoryPolicy | None, now_ns: int
    ) -> Entry:
        if join.room == "b":
            raise UnavailableError("REALTIME_UNAVAILABLE", "no history")
        return await enter(connection, join, policy, now_ns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub._neighbours, "enter", hinder)
        with pytest.raises(UnavailableError, match="no history"):
            await stage.connect("x", "ann", "a", "b")
    with pytest.raises(NotFoundError):
        await hub.get_room(RoomQuery("a"), ANONYMOUS)
    assert (await hub.list_connections(ConnectionsQuery(), ANONYMOUS)).total == 0

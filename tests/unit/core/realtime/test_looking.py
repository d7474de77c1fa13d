"""Listings: rooms, members, history, users and connections, a page at a time."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import (
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.realtime.hub import RealtimeHub
from switchboard_server.core.realtime.messages import Position
from switchboard_server.core.realtime.views import ConnectionView, RoomView, UserView
from switchboard_server.core.realtime.wishes import (
    ConnectionsQuery,
    PresenceQuery,
    RoomQuery,
    RoomsQuery,
    Transport,
)
from tests.support.realtime import CHAT, NOON_NS, Stage, text

SCOPED = Principal("ann", ["messaging.view:team-*"])


async def test_rooms_are_listed_in_the_order_of_their_names_a_page_at_a_time() -> None:
    stage = Stage()
    await stage.settled("a", "ann", "zoo", "lobby", "chat-2")
    await stage.send("x", rooms=["chat-1", "chat-2", "nowhere"])
    first = await stage.hub.list_rooms(RoomsQuery(page_size=3), ANONYMOUS)
    assert [room.name for room in first.rooms] == ["chat-1", "chat-2", "lobby"]
    query = RoomsQuery(page_size=3, page_token=first.next_page_token)
    second = await stage.hub.list_rooms(query, ANONYMOUS)
    assert [room.name for room in second.rooms] == ["zoo"]
    assert not second.next_page_token
    chats = await stage.hub.list_rooms(RoomsQuery("chat-"), ANONYMOUS)
    assert [room.name for room in chats.rooms] == ["chat-1", "chat-2"]
    assert stage.hub.stats().rooms == 4


async def test_a_scope_shows_the_rooms_within_it() -> None:
    stage = Stage()
    await stage.settled("a", "ann", "team-1", "lobby", "team-2")
    page = await stage.hub.list_rooms(RoomsQuery(), SCOPED)
    assert [room.name for room in page.rooms] == ["team-1", "team-2"]


async def test_a_room_shows_its_counts_and_when_it_was_made() -> None:
    stage = Stage()
    await stage.settled("a", "ann", "chat-1")
    stage.time.pass_seconds(1)
    await stage.settled("b", "ann", "chat-1")
    await stage.settled("c", "", "chat-1")
    position = (await stage.send("x", rooms=["chat-1"])).positions[0]
    details = await stage.hub.get_room(RoomQuery("chat-1"), ANONYMOUS)
    assert details.room == RoomView("chat-1", 3, 1, CHAT.size, CHAT.ttl_ns, position, 1, NOON_NS)
    assert (details.members, details.history) == ([], ())
    plain = await stage.settled("d", "", "lobby")
    details = await stage.hub.get_room(RoomQuery("lobby"), ANONYMOUS)
    assert details.room == RoomView("lobby", 1, 0, 0, 0, Position("lobby"), 0, stage.time())
    await stage.leave(plain, "lobby")
    with pytest.raises(NotFoundError) as caught:
        await stage.hub.get_room(RoomQuery("lobby"), ANONYMOUS)
    assert caught.value.reason == "ROOM_NOT_FOUND"


async def test_a_room_is_there_until_its_history_has_run_out() -> None:
    stage = Stage()
    client = await stage.settled("a", "", "chat-1")
    await stage.send("x", rooms=["chat-1"])
    await stage.leave(client, "chat-1")
    details = await stage.hub.get_room(RoomQuery("chat-1", 10), ANONYMOUS)
    assert (details.room.connections, details.room.history_length) == (0, 1)
    assert details.members == []
    stage.time.pass_seconds(60)
    with pytest.raises(NotFoundError):
        await stage.hub.get_room(RoomQuery("chat-1"), ANONYMOUS)
    assert stage.hub.stats().rooms == 0


async def test_members_are_listed_a_page_at_a_time() -> None:
    stage = Stage()
    for name in "cab":
        await stage.settled(name, name.upper(), "lobby")
    first = await stage.hub.get_room(RoomQuery("lobby", 2), ANONYMOUS)
    assert [(each.client_id, each.user) for each in first.members] == [("a", "A"), ("b", "B")]
    query = RoomQuery("lobby", 2, first.next_member_page_token)
    second = await stage.hub.get_room(query, ANONYMOUS)
    assert [each.client_id for each in second.members] == ["c"]
    assert second.next_member_page_token == ""


async def test_the_history_is_shown_from_its_end_or_after_a_place() -> None:
    stage = Stage()
    places = [(await stage.send(str(n), rooms=["chat-1"])).positions[0] for n in range(7)]

    async def shown(limit: int, after: Position | None = None) -> tuple[list[str], bool]:
        query = RoomQuery("chat-1", history_limit=limit, history_after=after)
        details = await stage.hub.get_room(query, ANONYMOUS)
        return [text(each) for each in details.history], details.history_contiguous

    assert await shown(2) == (["5", "6"], False)
    assert await shown(10) == (["2", "3", "4", "5", "6"], False)
    assert await shown(2, places[2]) == (["3", "4"], True)
    assert await shown(10, places[6]) == ([], True)
    assert await shown(0, places[5]) == ([], True)
    assert await shown(2, places[0]) == (["5", "6"], False), "the history begins after it"
    assert await shown(2, places[3]._replace(epoch="other")) == (["5", "6"], False)


async def test_a_page_of_the_history_has_a_largest_size() -> None:
    stage = Stage()
    place = (await stage.send("0", rooms=["chat-1"])).positions[0]
    for number in range(1, 5):
        await stage.send(str(number) * 200_000, rooms=["chat-1"])
    query = RoomQuery("chat-1", history_limit=10)
    details = await stage.hub.get_room(query, ANONYMOUS)
    assert [text(each)[0] for each in details.history] == ["3", "4"]
    query = RoomQuery("chat-1", history_limit=10, history_after=place)
    details = await stage.hub.get_room(query, ANONYMOUS)
    assert [text(each)[0] for each in details.history] == ["1", "2"]


async def test_presence_tells_who_is_online_since_when() -> None:
    stage = Stage()
    await stage.settled("tab", "ann")
    stage.time.pass_seconds(1)
    phone = await stage.settled("phone", "ann")
    stage.time.pass_seconds(1)
    await stage.join(phone, "lobby")
    await stage.settled("bob", "bob")
    await stage.settled("nobody")
    page = await stage.hub.get_presence(PresenceQuery(), ANONYMOUS)
    later = NOON_NS + 2 * SECOND_NS
    assert page.presences == [UserView("ann", 2, NOON_NS), UserView("bob", 1, later)]
    page = await stage.hub.get_presence(PresenceQuery(["eve", "ann"]), ANONYMOUS)
    assert page.presences == [UserView("eve", 0, 0), UserView("ann", 2, NOON_NS)]
    page = await stage.hub.get_presence(PresenceQuery(room="lobby"), ANONYMOUS)
    assert page.presences == [UserView("ann", 1, later)]
    page = await stage.hub.get_presence(PresenceQuery(["bob"], "lobby"), ANONYMOUS)
    assert page.presences == [UserView("bob", 0, 0)]
    page = await stage.hub.get_presence(PresenceQuery(["bob"], "nowhere"), ANONYMOUS)
    assert page.presences == [UserView("bob", 0, 0)]
    assert not (await stage.hub.get_presence(PresenceQuery(room="nowhere"), ANONYMOUS)).presences


async def test_presence_is_told_a_page_at_a_time() -> None:
    stage = Stage()
    for user in ("bob", "ann", "eve"):
        await stage.settled(user, user)
    first = await stage.hub.get_presence(PresenceQuery(page_size=2), ANONYMOUS)
    assert [each.user for each in first.presences] == ["ann", "bob"]
    query = PresenceQuery(page_size=2, page_token=first.next_page_token)
    second = await stage.hub.get_presence(query, ANONYMOUS)
    assert [each.user for each in second.presences] == ["eve"]


async def test_connections_are_listed_by_what_is_asked() -> None:
    stage = Stage()
    await stage.settled("tab-2", "ann", "lobby", "chat-1")
    await stage.connect("tab-1", "ann", transport=Transport.WEBSOCKET)
    await stage.settled("bob", "bob", "lobby")

    async def named(**query: Any) -> list[str]:
        page = await stage.hub.list_connections(ConnectionsQuery(**query), ANONYMOUS)
        assert page.total == len(page.connections)
        return [each.client_id for each in page.connections]

    assert await named() == ["bob", "tab-1", "tab-2"]
    assert await named(client_id_prefix="tab") == ["tab-1", "tab-2"]
    assert await named(user="ann") == ["tab-1", "tab-2"]
    assert await named(room="lobby") == ["bob", "tab-2"]
    assert await named(room="lobby", user="ann") == ["tab-2"]
    assert await named(transport=Transport.WEBSOCKET) == ["tab-1"]
    assert await named(room="nowhere") == []
    first = await stage.hub.list_connections(ConnectionsQuery(page_size=2), ANONYMOUS)
    assert (len(first.connections), first.total) == (2, 3)
    query = ConnectionsQuery(page_size=2, page_token=first.next_page_token)
    second = await stage.hub.list_connections(query, ANONYMOUS)
    assert second.connections == [
        ConnectionView(
            client_id="tab-2",
            user="ann",
            transport=Transport.GRPC,
            peer="10.0.0.7:51234",
            node="node-1",
            connect_time_ns=NOON_NS,
            rooms=["chat-1", "lobby"],
            pending_messages=0,
            dropped_messages=0,
        )
    ]


async def test_a_scope_shows_of_connections_what_is_within_it() -> None:
    stage = Stage()
    await stage.settled("a", "ann", "team-1", "lobby")
    page = await stage.hub.list_connections(ConnectionsQuery(room="team-1"), SCOPED)
    assert [each.rooms for each in page.connections] == [["team-1"]]


@pytest.mark.parametrize(
    "call",
    [
        lambda hub: hub.list_rooms(RoomsQuery(), Principal("ann", [])),
        lambda hub: hub.get_room(RoomQuery("lobby"), SCOPED),
        lambda hub: hub.get_presence(PresenceQuery(), SCOPED),
        lambda hub: hub.get_presence(PresenceQuery(room="lobby"), SCOPED),
        lambda hub: hub.list_connections(ConnectionsQuery(), SCOPED),
        lambda hub: hub.list_connections(ConnectionsQuery(room="lobby"), SCOPED),
    ],
)
async def test_who_may_not_view_sees_nothing(
    call: Callable[[RealtimeHub], Awaitable[object]],
) -> None:
    with pytest.raises(PermissionDeniedError):
        await call(Stage().hub)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda hub: hub.list_rooms(RoomsQuery(page_size=1001), ANONYMOUS), "page_size"),
        (lambda hub: hub.list_rooms(RoomsQuery(page_token="é"), ANONYMOUS), "page_token"),
        (lambda hub: hub.list_rooms(RoomsQuery(page_token="AAAA"), ANONYMOUS), "page_token"),
        (lambda hub: hub.get_room(RoomQuery(""), ANONYMOUS), "room"),
        (lambda hub: hub.get_room(RoomQuery("r", 1001), ANONYMOUS), "member_page_size"),
        (lambda hub: hub.get_room(RoomQuery("r", history_limit=-1), ANONYMOUS), "history_limit"),
        (
            lambda hub: hub.get_room(RoomQuery("lobby", 1, "AAAA"), ANONYMOUS),
            "member_page_token",
        ),
        (lambda hub: hub.get_presence(PresenceQuery(room="a*"), ANONYMOUS), "room"),
        (lambda hub: hub.get_presence(PresenceQuery(["a"] * 1001), ANONYMOUS), "users"),
        (lambda hub: hub.get_presence(PresenceQuery(page_size=-1), ANONYMOUS), "page_size"),
        (lambda hub: hub.list_connections(ConnectionsQuery(room="*"), ANONYMOUS), "room"),
        (lambda hub: hub.list_connections(ConnectionsQuery(page_size=-1), ANONYMOUS), "page_size"),
    ],
)
async def test_queries_are_checked(
    call: Callable[[RealtimeHub], Awaitable[object]], field: str
) -> None:
    stage = Stage()
    await stage.settled("a", "", "lobby")
    with pytest.raises(InvalidArgumentError) as caught:
        await call(stage.hub)
    assert caught.value.violations[0].field == field


async def test_a_token_is_good_for_its_own_query_only() -> None:
    stage = Stage()
    await stage.settled("a", "ann", "r1", "r2")
    token = (await stage.hub.list_rooms(RoomsQuery(page_size=1), ANONYMOUS)).next_page_token
    with pytest.raises(InvalidArgumentError) as caught:
        await stage.hub.list_rooms(RoomsQuery("r", page_token=token), ANONYMOUS)
    assert caught.value.reason == "INVALID_PAGE_TOKEN"

"""Connections, rooms and messages over several nodes."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from switchboard_server.core.errors import (
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.realtime.items import Left, PresenceNotice
from switchboard_server.core.realtime.views import ConnectionView
from switchboard_server.core.realtime.wishes import (
    BroadcastWish,
    ConnectionsQuery,
    ConnectWish,
    DisconnectWish,
    RoomJoin,
    RoomQuery,
    RoomsQuery,
    Transport,
)
from tests.support.brokers import RedisServer
from tests.support.realtime import CHAT
from tests.support.realtime_nodes import PATIENCE, Member, Node, eventually, nodes


async def test_a_message_reaches_each_connection_once_whatever_node_it_is_on(
    redis: RedisServer,
) -> None:
    async with nodes([redis.url]) as (one, two):
        ann1 = await one.connect("ann1", "ann", "hall", "den")
        ann2 = await two.connect("ann2", "ann", "hall")
        bob = await two.connect("bob", "bob", "den")
        eve = await two.connect("eve", "eve")
        members = (ann1, ann2, bob, eve)
        every = {"rooms": ["hall", "den", "hall"], "users": ["ann"], "clients": ["bob", "nobody"]}
        assert (await one.send("union", **every)).connections == 3
        assert (await two.send("room", rooms=["hall"])).connections == 2
        assert (await two.send("user", users=["ann", "bob", "ann"])).connections == 3
        assert (await one.send("client", clients=["eve", "ann1"])).connections == 2
        without = ["bob", "ann1", "nobody"]
        assert (await one.send("all but", to_all=True, exclude_clients=without)).connections == 2
        sent = await two.send("rest", rooms=["hall", "den"], exclude_clients=["ann1"])
        assert sent.connections == 2
        assert (
            await one.send("nobody", rooms=["void"], users=["x"], clients=["y"])
        ).connections == 0
        assert (await one.send("all", to_all=True)).connections == 4
        for member in members:
            await member.until(lambda member: "all" in member.texts)
        assert ann1.texts == ["union", "room", "user", "client", "all"]
        assert ann2.texts == ["union", "room", "user", "all but", "rest", "all"]
        assert bob.texts == ["union", "user", "rest", "all"]
        assert eve.texts == ["client", "all but", "all"]
        places = [[place.room for place in each.rooms] for each in ann2.messages]
        assert places == [["hall"], ["hall"], [], [], ["hall"], []]
        assert {each.message.sender_user for each in ann1.messages} == {""}


async def test_a_node_hears_only_what_it_has_somebody_for(redis: RedisServer) -> None:
    async with nodes([redis.url], 3) as (one, two, three):
        ann = await one.connect("ann", "ann", "hall")
        bob = await two.connect("bob", "bob")
        await two.send("x", rooms=["hall"])
        await three.send("y", users=["bob"])
        await ann.until_heard("x")
        await bob.until_heard("y")
        await one.send("z", to_all=True)
        await eventually(lambda: _received(three, 1))
        assert await _received(one, 2)
        assert await _received(two, 2)


async def _received(node: Node, count: int) -> bool:
    stats = node.hub.stats().neighbours
    return stats is not None and stats.received == count


async def test_a_room_has_one_order_on_all_nodes(redis: RedisServer) -> None:
    async with nodes([redis.url], 3) as made:
        members = [await node.connect(f"m{node.name}", "", "chat-1", "plain") for node in made]

        async def talk(node: Node) -> None:
            for number in range(40):
                await node.send(f"{node.name}/{number}", rooms=["chat-1", "plain"])

        await asyncio.gather(*map(talk, made))
        for member in members:
            await member.until(lambda member: len(member.texts) == 120)
            assert member.texts == members[0].texts
            assert member.offsets("chat-1") == list(range(1, 121))
        for node in made:
            own = [text for text in members[0].texts if text.startswith(f"{node.name}/")]
            assert own == [f"{node.name}/{number}" for number in range(40)]


async def test_who_comes_back_on_another_node_gets_exactly_what_was_missed(
    redis: RedisServer,
) -> None:
    async with nodes([redis.url]) as (one, two):
        await two.connect("other", "", "chat-1")
        away = await one.connect("ann", "ann", "chat-1")
        await one.send("1", rooms=["chat-1"])
        await away.until_heard("1")
        last = away.messages[-1].rooms[0]
        one.hub.close(away.connection)
        for number in range(2, 6):
            await two.send(str(number), rooms=["chat-1"])
        back = await two.connect("ann", "ann", RoomJoin("chat-1", last))
        await back.until_heard("2", "3", "4", "5")
        joined = back.joined("chat-1")
        assert (joined.recovered, joined.replayed, joined.connections) == (True, 4, 2)
        assert joined.position == last._replace(offset=5)
        await one.send("6", rooms=["chat-1"])
        await back.until_heard("2", "3", "4", "5", "6")
        # The history holds five, so that what followed the first place is gone.
        late = await one.connect("late", "", RoomJoin("chat-1", last._replace(offset=0)))
        assert not late.joined("chat-1").recovered
        other = await one.connect("odd", "", RoomJoin("chat-1", last._replace(epoch="x")))
        assert not other.joined("chat-1").recovered
        details = await one.hub.get_room(RoomQuery("chat-1", 0, "", 10, last), ANONYMOUS)
        assert [each.message.data["text"] for each in details.history] == list("23456")
        assert details.history_contiguous
        assert details.room.position == last._replace(offset=6)
        details = await two.hub.get_room(RoomQuery("chat-1", history_limit=2), ANONYMOUS)
        assert [each.message.data["text"] for each in details.history] == list("56")
        assert (details.room.history_size, details.room.history_length) == (CHAT.size, CHAT.size)


async def test_those_who_join_while_messages_come_miss_none_and_see_none_twice(
    redis: RedisServer,
) -> None:
    async with nodes([redis.url]) as (one, two):
        first = await one.connect("first", "", "chat-1")
        await one.send("0", rooms=["chat-1"])
        await first.until_heard("0")
        start = first.messages[0].rooms[0]
        joining: list[Member] = []

        async def talk() -> None:
            for number in range(1, 200):
                await one.send(str(number), rooms=["chat-1"])

        async def join() -> None:
            place = start
            for number in range(30):
                node = (one, two)[number % 2]
                member = await node.connect(f"j{number}", "", RoomJoin("chat-1", place))
                joining.append(member)
                place = member.joined("chat-1").position

        await asyncio.gather(talk(), join())
        for member in (first, *joining):
            await member.until(lambda member: member.texts and member.texts[-1] == "199")
            offsets = member.offsets("chat-1")
            assert offsets == list(range(offsets[0], 201))
            if member is not first:
                joined = member.joined("chat-1")
                if joined.recovered:
                    assert offsets[0] == joined.position.offset - joined.replayed + 1


async def test_all_nodes_tell_the_same_of_who_is_where(redis: RedisServer) -> None:
    async with nodes([redis.url], 3) as (one, two, three):
        await one.connect("ann1", "ann", "hall", "chat-1")
        await two.connect("ann2", "ann", "hall")
        bob = await two.connect("bob", "bob", "hall", transport=Transport.WEBSOCKET)
        await one.connect("anon")
        seen = [await node.sees("hall", "chat-1") for node in (one, two, three)]
        assert seen[0] == seen[1] == seen[2]
        assert seen[0]["connections"] == {
            "ann1": ("ann", "node-1", ("chat-1", "hall")),
            "ann2": ("ann", "node-2", ("hall",)),
            "bob": ("bob", "node-2", ("hall",)),
            "anon": ("", "node-1", ()),
        }
        assert seen[0]["users"] == {"ann": 2, "bob": 1}
        assert seen[0]["hall"] == (3, 2)
        assert seen[0]["members of hall"] == ["ann1", "ann2", "bob"]
        page = await three.hub.list_rooms(RoomsQuery(page_size=1), ANONYMOUS)
        assert [(each.name, each.connections, each.users) for each in page.rooms] == [
            ("chat-1", 1, 1)
        ]
        page = await three.hub.list_rooms(RoomsQuery(page_token=page.next_page_token), ANONYMOUS)
        assert [(each.name, each.connections, each.users) for each in page.rooms] == [
            ("hall", 3, 2)
        ]
        assert not page.next_page_token
        two.hub.close(bob.connection)
        await eventually(lambda: _lists(three, ["ann1", "ann2"], room="hall"))
        assert await _lists(one, ["ann1", "ann2"], user="ann")
        assert await _lists(one, ["ann1", "ann2", "anon"], transport=Transport.GRPC)
        assert await _lists(one, [], transport=Transport.WEBSOCKET)
        assert await _lists(two, ["ann1", "ann2", "anon"], client_id_prefix="an")
        assert await _lists(two, ["anon"], client_id_prefix="ano", room="")


async def _lists(node: Node, names: list[str], **wanted: object) -> bool:
    """Whether a node lists these connections, a page of one at a time."""
    found: list[ConnectionView] = []
    token = ""
    while True:
        query = ConnectionsQuery(page_size=1, page_token=token, **wanted)  # type: ignore[arg-type]
        page = await node.hub.list_connections(query, ANONYMOUS)
        found += page.connections
        token = page.next_page_token
        if not token:
            return [each.client_id for each in found] == names and page.total == len(names)


async def test_a_name_is_one_connections_over_all_nodes(redis: RedisServer) -> None:
    async with nodes([redis.url]) as (one, two):
        first = await one.connect("tab", "ann", "hall")
        second = await two.connect("tab", "ann")
        assert await first.until_ended() == "CONNECTION_REPLACED"
        assert await one.sees("hall") == await two.sees("hall")
        third = await one.connect("tab", "ann", "hall")
        assert await second.until_ended() == "CONNECTION_REPLACED"
        assert third.connection.ended is None
        assert (await two.sees("hall"))["members of hall"] == ["tab"]
        with pytest.raises(PermissionDeniedError, match="another user's"):
            await two.connect("tab", "bob")
        await two.send("hi", clients=["tab"])
        await third.until_heard("hi")


async def test_connections_of_another_node_are_joined_taken_out_and_ended(
    redis: RedisServer,
) -> None:
    async with nodes([redis.url]) as (one, two):
        ann = await two.connect("ann", "ann")
        await one.send("before", rooms=["chat-1"])
        result = await one.hub.join_room("ann", RoomJoin("chat-1"), ANONYMOUS)
        assert (result.already_joined, result.joined.position.offset) == (False, 1)
        assert result.joined.connections == 1
        await one.send("x", rooms=["chat-1"])
        await ann.until_heard("x")
        assert (await one.hub.join_room("ann", RoomJoin("chat-1"), ANONYMOUS)).already_joined
        assert await one.hub.leave_room("ann", "chat-1", ANONYMOUS)
        assert not await one.hub.leave_room("ann", "chat-1", ANONYMOUS)
        await ann.until(lambda ann: Left("chat-1", True) in ann.items)
        for number in range(128):
            await two.hub.join_room("ann", RoomJoin(f"room-{number}"), ANONYMOUS)
        with pytest.raises(ResourceExhaustedError) as caught:
            await one.hub.join_room("ann", RoomJoin("more"), ANONYMOUS)
        assert (caught.value.reason, caught.value.metadata) == ("LIMIT_REACHED", {"limit": "128"})
        with pytest.raises(NotFoundError):
            await one.hub.join_room("nobody", RoomJoin("hall"), ANONYMOUS)
        with pytest.raises(NotFoundError):
            await one.hub.leave_room("nobody", "hall", ANONYMOUS)
        bob = await one.connect("bob", "bob")
        ann2 = await two.connect("ann2", "ann")
        wish = DisconnectWish(clients=["ann", "bob", "nobody"], users=["ann"], reason="enough")
        assert await one.hub.disconnect(wish, ANONYMOUS) == 3
        for member in (ann, ann2, bob):
            assert await member.until_ended() == "CONNECTION_CLOSED"
        await eventually(lambda: _lists(one, []))


async def test_permissions_hold_for_connections_of_other_nodes(redis: RedisServer) -> None:
    async with nodes([redis.url]) as (one, two):
        await two.connect("ann", "ann")
        bob = Principal("bob", ["rooms.join", "messaging.broadcast", "connections.manage:bob"])
        for call in (
            one.hub.join_room("ann", RoomJoin("hall"), bob),
            one.hub.leave_room("ann", "hall", bob),
            one.hub.disconnect(DisconnectWish(clients=["ann"]), bob),
            one.hub.broadcast(BroadcastWish("chat", to_all=True, sender_client_id="ann"), bob),
        ):
            with pytest.raises(PermissionDeniedError):
                await call
        ann = Principal("ann", ["rooms.join", "messaging.broadcast"])
        await one.hub.join_room("ann", RoomJoin("hall"), ann)
        wish = BroadcastWish("chat", to_all=True, sender_client_id="ann")
        assert (await one.hub.broadcast(wish, ann)).connections == 1


async def test_watchers_hear_who_comes_and_goes_on_other_nodes(redis: RedisServer) -> None:
    async with nodes([redis.url]) as (one, two):
        watcher = await one.connect("watcher", "eve", RoomJoin("hall", None, True))
        bob = await two.connect("bob", "bob", "hall")
        await watcher.until(lambda watcher: _noticed(watcher) == (["bob"], []))
        assert _counts(watcher) == (2, 2)
        near = await one.connect("near", "bob", "hall")
        await watcher.until(lambda watcher: _noticed(watcher) == (["bob", "near"], []))
        assert _counts(watcher) == (3, 2)
        two.hub.close(bob.connection)
        await watcher.until(lambda watcher: _noticed(watcher) == (["bob", "near"], ["bob"]))
        assert _counts(watcher) == (2, 2)
        await one.hub.leave_room("near", "hall", ANONYMOUS)
        await watcher.until(lambda watcher: _noticed(watcher) == (["bob", "near"], ["bob", "near"]))
        assert _counts(watcher) == (1, 1)
        assert not [item for item in near.items if isinstance(item, PresenceNotice)]


@pytest.mark.parametrize("room", ["hall", "chat-1"])
@pytest.mark.parametrize("others", [[], [False], [True]], ids=["alone", "beside", "watched"])
async def test_who_comes_and_goes_before_a_watchers_own_entry_is_answered_is_noticed(
    redis: RedisServer, room: str, others: list[bool]
) -> None:
    async with nodes([redis.url]) as (one, two):
        ear = await one.connect("ear")
        near = [await one.connect("near", "", RoomJoin(room, None, watch)) for watch in others]
        with _answers_held(one) as (answered, release):
            joining = asyncio.create_task(one.connect("ann", "", RoomJoin(room, None, True)))
            async with asyncio.timeout(PATIENCE):
                await answered.wait()
            await two.connect("bob", "", room)
            eve = await two.connect("eve", "", room)
            two.hub.close(eve.connection)
            # What is sent later is heard later.
            await two.send("heard", clients=["ear"])
            await ear.until_heard("heard")
            release.set()
            ann = await joining
        await ann.until(lambda ann: _noticed(ann) == (["bob"], []))
        assert _counts(ann) == (2 + len(others), 0)
        await two.connect("late", "", room)
        await ann.until(lambda ann: _noticed(ann) == (["bob", "late"], []))
        for each, watches in zip(near, others, strict=True):
            await _until_came(each, *(["bob", "ann", "late"] if watches else []))


async def _until_came(member: Member, *names: str) -> None:
    """Waits until a watcher has heard who came. Of eve, who goes at once, it may have heard."""
    await member.until(
        lambda member: [name for name in _noticed(member)[0] if name != "eve"] == list(names)
    )


@contextmanager
def _answers_held(node: Node) -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Holds what Redis answers to those who enter rooms: it has come, and it is let go."""
    neighbours: Any = node.hub._neighbours
    membership = neighbours._membership
    answered, release, enter = asyncio.Event(), asyncio.Event(), membership.enter

    async def held(*args: Any) -> Any:
        found = await enter(*args)
        answered.set()
        await release.wait()
        return found

    membership.enter = held
    try:
        yield answered, release
    finally:
        membership.enter = enter


def _noticed(member: Member) -> tuple[list[str], list[str]]:
    notices = [item for item in member.items if isinstance(item, PresenceNotice)]
    joined = [each.client_id for notice in notices for each in notice.joined]
    return joined, [each.client_id for notice in notices for each in notice.left]


def _counts(member: Member) -> tuple[int, int]:
    notices = [item for item in member.items if isinstance(item, PresenceNotice)]
    return notices[-1].connections, notices[-1].users


async def test_clusters_share_a_redis_without_hearing_each_other(redis: RedisServer) -> None:
    async with nodes([redis.url], 1) as (mine,), nodes([redis.url], 1) as (yours,):
        member = await mine.connect("tab", "ann", "hall", "chat-1")
        other = await yours.connect("tab", "bob", "hall", "chat-1")
        await mine.send("x", rooms=["hall", "chat-1"], to_all=True)
        await yours.send("y", rooms=["hall", "chat-1"], to_all=True)
        await member.until_heard("x")
        await other.until_heard("y")


async def test_a_door_that_goes_while_its_connection_is_opened_leaves_nothing(
    redis: RedisServer,
) -> None:
    async with nodes([redis.url]) as (one, two):
        for ticks in range(12):
            wish = ConnectWish(Transport.GRPC, "peer", "tab", "ann", [RoomJoin("chat-1")])
            opening = asyncio.create_task(one.hub.connect(wish, ANONYMOUS, lambda: None))
            for _ in range(ticks):
                await asyncio.sleep(0)
            opening.cancel()
            done, _ = await asyncio.wait([opening])
            if not next(iter(done)).cancelled():
                one.hub.close(opening.result())
        await eventually(lambda: _lists(two, []))
        assert (await two.sees("chat-1"))["users"] == {}


async def test_a_join_that_is_given_up_leaves_nothing(redis: RedisServer) -> None:
    async with nodes([redis.url]) as (one, two):
        ann = await one.connect("ann", "ann")
        for ticks in range(10):
            for room in ("hall", "chat-1"):
                joining = asyncio.create_task(one.hub.join_room("ann", RoomJoin(room), ANONYMOUS))
                for _ in range(ticks):
                    await asyncio.sleep(0)
                joining.cancel()
                await asyncio.wait([joining])
                stands = room in ann.connection.rooms
                await one.link.call("PING")
                seen = await two.sees(room)
                assert (room in seen) == stands
                await one.hub.leave_room("ann", room, ANONYMOUS)

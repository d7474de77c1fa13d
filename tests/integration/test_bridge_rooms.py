"""Rooms and messages over the bridge."""

import pytest

from switchboard_server.core.realtime.history import HistoryPolicy
from switchboard_server.core.realtime.hub import RealtimeLimits
from tests.integration.bridge import bridge, principal

HISTORY = {"kept*": HistoryPolicy(100, 3600 * 10**9)}
CHAT = {"message": "Hello, world!", "room": "general"}


async def test_a_connection_is_told_its_name_and_what_it_may_send() -> None:
    async with bridge() as hub, hub.client("ann's phone", "?user=ann") as client:
        assert await client.read() == {
            "type": "system",
            "data": {
                "event": "started",
                "client_id": "ann's phone",
                "user": "ann",
                "node": "node1",
                "heartbeat_seconds": 30,
                "max_frame_bytes": 65536,
                "max_frames_per_second": 100,
            },
        }


@pytest.mark.parametrize("path", ["/ws", "/ws/"])
async def test_a_connection_without_a_name_gets_one(path: str) -> None:
    async with bridge() as hub, hub.client(path=path) as client:
        assert (await client.read())["data"]["client_id"]


async def test_the_first_snippet_chats_in_a_room_and_sees_its_own_words() -> None:
    async with bridge() as hub, hub.member("client123") as ann, hub.member("bob") as bob:
        await bob.done("join", {"room": "general"})
        await ann.send("chat", CHAT)
        joined = await ann.read()
        assert (joined["type"], joined["data"]["event"]) == ("system", "joined")
        for who in (ann, bob):
            heard = await who.read() if who is ann else await who.until_type("chat")
            assert heard["data"] == CHAT
            assert heard["sender_client_id"] == "client123"
            assert heard["rooms"] == [{"room": "general"}]
            assert heard["message_id"]
            assert heard["send_time"].endswith("Z")


async def test_what_a_frame_brings_about_comes_before_its_answer() -> None:
    async with bridge() as hub, hub.member() as client:
        await client.send("chat", CHAT, id="a")
        await client.send("leave", {"room": "general"}, id="b")
        frames = [await client.read() for _ in range(5)]
        assert [each["type"] for each in frames] == ["system", "chat", "ack", "system", "ack"]
        assert [each.get("id") for each in frames] == [None, None, "a", None, "b"]
        assert frames[2]["data"]["connections"] == 1
        assert frames[4]["data"] == {"left": True}


async def test_messages_go_to_whom_a_frame_names_and_the_sender_stands_nowhere() -> None:
    async with (
        bridge() as hub,
        hub.member("a", "?user=ann") as ann,
        hub.member("b", "?user=bob") as bob,
        hub.member("c", "?user=cid") as cid,
    ):
        sent = await ann.done("notification", {"n": 1}, to={"users": ["bob"], "clients": ["c"]})
        assert sent["connections"] == 2
        for who in (bob, cid):
            heard = await who.read()
            assert (heard["type"], heard["data"], heard["rooms"]) == ("notification", {"n": 1}, [])
        sent = await ann.done("status_update", {}, to={"all": True, "exclude_clients": ["a"]})
        assert sent["connections"] == 2
        assert not hub.realtime.stats().rooms


async def test_a_message_to_nobody_is_an_error() -> None:
    async with bridge() as hub, hub.member() as client:
        assert await client.refused("chat", {"message": "hi"}) == "FIELD_MISSING"
        assert await client.refused("chat", {"room": 5}) == "FIELD_MISSING"
        assert await client.refused("chat", {"room": "a"}, to={}) == "FIELD_MISSING"
        assert await client.refused("chat", {}, to={"room": "a"}) == "MALFORMED_REQUEST"
        assert await client.refused("chat", {}, to={"message_type": "x"}) == "INVALID_FIELD"


@pytest.mark.parametrize("kind", ["ack", "event", "error", "system", "presence "])
async def test_words_of_the_hub_cannot_be_sent(kind: str) -> None:
    async with bridge() as hub, hub.member() as client:
        if kind == "presence ":
            assert (await client.done(kind, CHAT))["connections"] == 1
        else:
            assert await client.refused(kind, CHAT) == "INVALID_FIELD"


async def test_who_sends_what_is_refused_does_not_stand_in_the_room() -> None:
    limits = RealtimeLimits(max_message_bytes=200)
    async with bridge(realtime=limits) as hub, hub.member("a") as client:
        assert await client.refused("a\0b", {"room": "r"}) == "INVALID_FIELD"
        assert await client.refused("presence_", {"room": "*"}) == "INVALID_FIELD"
        assert await client.refused("chat", {"room": "r", "text": "x" * 200}) == "TOO_LARGE"
        assert hub.realtime.stats().rooms == 0
        await client.done("chat", {"room": "r"})
        assert hub.realtime.stats().rooms == 1


async def test_after_a_break_exactly_what_was_missed_is_replayed() -> None:
    async with bridge(rules=HISTORY) as hub, hub.member("b") as bob:
        async with hub.member("a") as ann:
            await ann.done("join", {"room": "kept"})
            await bob.done("chat", {"room": "kept", "n": 1})
            place = (await ann.until_type("chat"))["rooms"][0]
            assert place["offset"] == 1
        for number in range(2, 5):
            await bob.done("chat", {"room": "kept", "n": number})
        async with hub.member("a") as ann:
            await ann.send("join", {"room": "kept", "recover_after": place}, id=1)
            joined = (await ann.read())["data"]
            assert (joined["recovered"], joined["replayed"]) == (True, 3)
            assert [(await ann.read())["data"]["n"] for _ in range(3)] == [2, 3, 4]
            assert (await ann.read())["type"] == "ack"


async def test_a_place_of_another_life_is_not_recovered() -> None:
    async with bridge(rules=HISTORY) as hub, hub.member() as client:
        wish = {"room": "kept", "recover_after": {"epoch": "other", "offset": 3}}
        answer = await client.done("join", wish)
        assert (answer["recovered"], answer["replayed"]) == (False, 0)


async def test_joins_and_leaves_are_told_to_those_who_want_to_hear() -> None:
    async with bridge() as hub, hub.member("a") as ann:
        await ann.done("join", {"room": "r", "presence_notices": True})
        async with hub.member("b", "?user=bob") as bob:
            await bob.done("join", {"room": "r"})
            notice = await ann.read()
            assert notice["type"] == "presence"
            assert [each["client_id"] for each in notice["data"]["joined"]] == ["b"]
            assert notice["data"]["connections"] == 2
        notice = await ann.read()
        assert [each["user"] for each in notice["data"]["left"]] == ["bob"]


async def test_a_second_connection_of_the_same_name_replaces_the_first() -> None:
    async with bridge() as hub, hub.member("a") as first, hub.member("a") as second:
        assert await first.closed() == (4500, "CONNECTION_REPLACED")
        await second.done("join", {"room": "r"})


async def test_the_name_of_another_users_connection_cannot_be_had() -> None:
    async with (
        bridge() as hub,
        hub.member("a", "?user=ann"),
        hub.client("a", "?user=bob") as other,
    ):
        assert await other.closed() == (4503, "PERMISSION_DENIED")


async def test_a_connection_stands_in_at_most_128_rooms() -> None:
    async with bridge(frames_per_second=1000) as hub, hub.member() as client:
        for number in range(128):
            await client.done("join", {"room": f"r{number}"})
        assert await client.refused("join", {"room": "more"}) == "LIMIT_REACHED"
        assert hub.metrics.errors["LIMIT_REACHED"] == 1
        assert (await client.done("join", {"room": "r0"}))["already_joined"]


async def test_disconnect_tells_whether_to_come_back() -> None:
    async with bridge() as hub:
        for reconnect, expected in ((True, (4003, "CONNECTION_CLOSED")), (False, (4501, "go"))):
            async with hub.member("a") as client:
                await hub.disconnect("a", reconnect=reconnect, reason=expected[1] * (not reconnect))
                assert await client.closed() == expected


async def test_a_scope_says_which_rooms_a_frame_may_name() -> None:
    tokens = {
        "t": principal("ann", "rooms.join:team-*", "messaging.broadcast:team-1"),
        "j": principal("bob", "rooms.join"),
        "s": principal("cid", "rooms.join:x", "messaging.broadcast"),
    }
    async with bridge(tokens=tokens) as hub:
        async with hub.member("a", "?token=t") as ann:
            await ann.done("join", {"room": "team-2"})
            assert await ann.refused("join", {"room": "other"}) == "PERMISSION_DENIED"
            assert (await ann.done("chat", {"room": "team-1"}))["connections"] == 1
            assert await ann.refused("chat", {"room": "team-2"}) == "PERMISSION_DENIED"
            assert await ann.refused("chat", {}, to={"all": True}) == "PERMISSION_DENIED"
        async with hub.member("b", "?token=j") as bob:
            assert await bob.refused("chat", {"room": "team-1"}) == "PERMISSION_DENIED"
            assert not hub.realtime.stats().rooms
        async with hub.member("c", "?token=s") as cid:
            # May send to the room, and not listen in it.
            assert (await cid.done("chat", {"room": "team-1"}))["connections"] == 0

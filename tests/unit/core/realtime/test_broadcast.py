"""Broadcast: who gets a message, how they see it, and what is refused."""

from typing import Any

import pytest

from switchboard_server.core.errors import (
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.realtime.hub import RealtimeLimits
from switchboard_server.core.realtime.messages import Delivered, Position
from switchboard_server.core.realtime.wishes import BroadcastWish
from tests.support.realtime import NOON_NS, Client, Stage


async def crowd(stage: Stage) -> dict[str, Client]:
    """Four clients: ann's tab in a and b, ann's phone in b, bob's in a, and nobody's in none."""
    return {
        "tab": await stage.settled("tab", "ann", "a", "b"),
        "phone": await stage.settled("phone", "ann", "b"),
        "bob": await stage.settled("bob", "bob", "a"),
        "none": await stage.settled("none"),
    }


@pytest.mark.parametrize(
    ("targets", "receivers"),
    [
        ({"to_all": True}, {"tab", "phone", "bob", "none"}),
        ({"to_all": True, "rooms": ["a"], "users": ["ann"]}, {"tab", "phone", "bob", "none"}),
        ({"rooms": ["a"]}, {"tab", "bob"}),
        ({"rooms": ["a", "b", "a"]}, {"tab", "bob", "phone"}),
        ({"rooms": ["a", "nowhere"]}, {"tab", "bob"}),
        ({"rooms": ["nowhere"]}, set()),
        ({"users": ["ann", "nobody"]}, {"tab", "phone"}),
        ({"clients": ["none", "nobody"]}, {"none"}),
        ({"rooms": ["a"], "users": ["ann"], "clients": ["none"]}, {"tab", "phone", "bob", "none"}),
        ({"to_all": True, "exclude_clients": ["tab", "nobody"]}, {"phone", "bob", "none"}),
        ({"rooms": ["b"], "exclude_clients": ["tab"]}, {"phone"}),
    ],
)
async def test_the_union_of_the_targets_less_the_excluded_gets_it_once(
    targets: dict[str, Any], receivers: set[str]
) -> None:
    stage = Stage()
    clients = await crowd(stage)
    outcome = await stage.send("hi", **targets)
    got = {name: client.texts() for name, client in clients.items()}
    assert got == {name: ["hi"] if name in receivers else [] for name in clients}
    assert outcome.connections == len(receivers)


async def test_a_receiver_sees_those_of_the_rooms_that_it_stands_in() -> None:
    stage = Stage()
    clients = await crowd(stage)
    await stage.send("hi", rooms=["a", "b"], clients=["none"])
    seen = {name: client.messages()[0].rooms for name, client in clients.items()}
    a, b = Position("a"), Position("b")
    assert seen == {"tab": (a, b), "phone": (b,), "bob": (a,), "none": ()}


async def test_receivers_who_see_the_same_share_what_a_door_encodes() -> None:
    stage = Stage()
    first, second = await stage.settled("1", "", "a"), await stage.settled("2", "", "a")
    await stage.send("hi", rooms=["a"])
    encoded: list[Delivered] = []

    def encode(delivered: Delivered) -> bytes:
        encoded.append(delivered)
        return b"bytes"

    for client in (first, second):
        (delivered,) = client.messages()
        assert delivered.rendered("json", encode) == b"bytes"
    assert len(encoded) == 1
    assert encoded[0].rendered("other", lambda _: b"more") == b"more"


async def test_a_message_tells_what_it_is_and_whose() -> None:
    stage = Stage()
    client = await stage.settled("tab", "ann")
    principal = Principal("ann", ["messaging.broadcast"])
    wish = BroadcastWish(
        "chat", {"n": 1, "é": [None, 2.5]}, clients=["tab"], sender_client_id="tab"
    )
    outcome = await stage.hub.broadcast(wish, principal)
    message = client.messages()[0].message
    assert message.message_id == outcome.message_id
    assert (message.message_type, message.data) == ("chat", wish.data)
    assert message.json == '{"n":1,"é":[null,2.5]}'.encode()
    assert (message.sender_client_id, message.sender_user) == ("tab", "ann")
    assert message.time_ns == NOON_NS
    assert (await stage.hub.broadcast(wish, principal)).message_id != outcome.message_id


async def test_without_a_token_the_user_is_the_connections() -> None:
    stage = Stage()
    client = await stage.settled("tab", "ann")
    await stage.send("a", clients=["tab"], sender_client_id="tab")
    await stage.send("b", clients=["tab"])
    assert [each.message.sender_user for each in client.messages()] == ["ann", ""]


async def test_nobody_sends_in_the_name_of_anothers_connection() -> None:
    stage = Stage()
    await stage.connect("tab", "ann")
    eve = Principal("eve", ["messaging.broadcast"])
    with pytest.raises(PermissionDeniedError):
        await stage.send("x", eve, to_all=True, sender_client_id="tab")
    with pytest.raises(NotFoundError):
        await stage.send("x", eve, to_all=True, sender_client_id="nobody")


@pytest.mark.parametrize(
    "targets", [{"to_all": True}, {"users": ["ann"]}, {"clients": ["tab"]}, {"rooms": ["lobby"]}]
)
async def test_a_scope_permits_rooms_within_it_only(targets: dict[str, Any]) -> None:
    stage = Stage()
    scoped = Principal("ann", ["messaging.broadcast:team-*"])
    await stage.send("x", scoped, rooms=["team-1"])
    with pytest.raises(PermissionDeniedError):
        await stage.send("x", scoped, **{"rooms": ["team-1"], **targets})
    with pytest.raises(PermissionDeniedError):
        await stage.send("x", Principal("ann", []), **targets)


@pytest.mark.parametrize(
    ("kind", "targets", "field", "reason"),
    [
        ("", {"to_all": True}, "message_type", "FIELD_MISSING"),
        ("x" * 256, {"to_all": True}, "message_type", "TOO_LARGE"),
        ("a\tb", {"to_all": True}, "message_type", "INVALID_FIELD"),
        ("presence", {"to_all": True}, "message_type", "INVALID_FIELD"),
        ("chat", {}, "all", "FIELD_MISSING"),
        ("chat", {"exclude_clients": ["a"]}, "all", "FIELD_MISSING"),
        ("chat", {"rooms": ["a", "b*"]}, "rooms[1]", "INVALID_FIELD"),
        ("chat", {"users": ["a"] * 5001, "clients": ["b"] * 5000}, "rooms", "TOO_LARGE"),
    ],
)
async def test_a_message_is_checked(
    kind: str, targets: dict[str, Any], field: str, reason: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await Stage().hub.broadcast(BroadcastWish(kind, {}, **targets), ANONYMOUS)
    assert (caught.value.violations[0].field, caught.value.reason) == (field, reason)


def nested(depth: int, *, lists: bool = False) -> dict[str, Any]:
    value: Any = 1
    for _ in range(depth - 1):
        value = [value] if lists else {"a": value}
    return {"a": value}


@pytest.mark.parametrize(
    "data",
    [
        {"a": float("nan")},
        {"a": [float("inf")]},
        {"a": "\ud800"},
        {"a": {"b": 10**309}},
        nested(33),
        nested(33, lists=True),
        nested(100_000),
    ],
)
async def test_content_that_not_every_door_can_carry_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await Stage().hub.broadcast(BroadcastWish("chat", data, to_all=True), ANONYMOUS)
    assert caught.value.violations[0].field == "data"


@pytest.mark.parametrize(
    "data", [nested(32), nested(32, lists=True), {"a": "9" * 400}, {"a": [{}] * 100, "b": 10**308}]
)
async def test_content_up_to_the_limits_is_taken(data: dict[str, Any]) -> None:
    stage = Stage()
    client = await stage.settled("a")
    await stage.hub.broadcast(BroadcastWish("chat", data, to_all=True), ANONYMOUS)
    assert client.messages()[0].message.data == data


async def test_content_has_a_largest_size() -> None:
    stage = Stage(RealtimeLimits(max_message_bytes=20))
    await stage.send("123456789", to_all=True)
    with pytest.raises(InvalidArgumentError) as caught:
        await stage.send("1234567890", to_all=True)
    assert caught.value.metadata == {"limit": "20", "actual": "21"}


async def test_messages_are_counted() -> None:
    stage = Stage()
    await crowd(stage)
    await stage.send("x", to_all=True)
    await stage.send("y", rooms=["nowhere"])
    stats = stage.hub.stats()
    assert (stats.received, stats.delivered, stats.pending) == (2, 4, 4)
    assert (stats.connections, stats.users, stats.rooms) == ({"grpc": 4}, 2, 2)

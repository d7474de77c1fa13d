"""Who may open a WebSocket, and for how long."""

import asyncio
import json
import time
from contextlib import closing
from http.client import HTTPConnection

import pytest
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from switchboard_server.bridge import session
from tests.integration.bridge import Running, bridge, principal

ANN = principal("ann", "rooms.join", "messaging.broadcast")
TOKENS = {"good": ANN, "other": principal("bob", "rooms.join"), "none": principal("cid")}


async def test_a_browser_names_its_token_as_a_subprotocol() -> None:
    async with bridge(tokens=TOKENS) as hub:
        offered = [Subprotocol("bearer"), Subprotocol("good")]
        async with hub.client("a", subprotocols=offered) as client:
            assert (await client.read())["data"]["user"] == "ann"
            assert client.socket.subprotocol == "bearer"


async def test_a_subprotocol_that_is_none_of_ours_is_not_chosen() -> None:
    async with bridge() as hub, hub.member(subprotocols=[Subprotocol("chat")]) as client:
        assert client.socket.subprotocol is None


async def test_a_program_sends_its_token_in_the_header() -> None:
    headers = {"Authorization": "Bearer good"}
    async with bridge(tokens=TOKENS) as hub, hub.client(additional_headers=headers) as client:
        assert (await client.read())["data"]["user"] == "ann"


async def test_a_token_may_stand_in_the_address() -> None:
    async with bridge(tokens=TOKENS) as hub, hub.client(query="?token=good") as client:
        assert (await client.read())["data"]["user"] == "ann"


@pytest.mark.parametrize("identity", [None, 7])
async def test_a_token_may_come_in_the_first_frame(identity: int | None) -> None:
    async with bridge(tokens=TOKENS) as hub, hub.client() as client:
        frame = {"type": "auth", "id": identity, "data": {"token": "good"}}
        await client.raw(json.dumps(frame))
        started = await client.read()
        assert (started["data"]["event"], started["data"]["user"]) == ("started", "ann")
        if identity:
            assert await client.read() == {"type": "ack", "id": 7, "data": {}}
        await client.done("join", {"room": "r"})


@pytest.mark.parametrize(
    ("token", "code", "reason"),
    [
        ("wrong", 4502, "TOKEN_INVALID"),
        ("expired", 4002, "TOKEN_EXPIRED"),
        ("none", 4503, "PERMISSION_DENIED"),
    ],
)
async def test_a_token_that_is_no_good_ends_the_connection_with_the_reason(
    token: str, code: int, reason: str
) -> None:
    async with bridge(tokens=TOKENS) as hub:
        async with hub.client(query=f"?token={token}") as client:
            error = await client.read()
            assert (error["type"], error["reason"]) == ("error", reason)
            assert await client.closed() == (code, reason)
        async with hub.client() as client:
            await client.send("auth", {"token": token})
            assert await client.closed() == (code, reason)
        assert not hub.realtime.stats().connections


@pytest.mark.parametrize(
    "message",
    ['{"type": "chat"}', '{"type": "auth"}', "hello", b"\x00", '{"type": "auth", "id": []}'],
)
async def test_another_first_frame_is_no_token(message: str | bytes) -> None:
    async with bridge(tokens=TOKENS) as hub, hub.client() as client:
        await client.raw(message)
        assert await client.closed() == (4502, "TOKEN_MISSING")


async def test_who_sends_no_token_in_time_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "AUTH_SECONDS", 0.05)
    async with bridge(tokens=TOKENS) as hub, hub.client() as client:
        assert await client.closed() == (4502, "TOKEN_MISSING")


async def test_a_user_is_named_in_the_address_only_where_no_token_is_asked_for() -> None:
    async with bridge(tokens=TOKENS) as hub, hub.client(query="?user=bob&token=good") as client:
        assert await client.closed() == (4503, "PERMISSION_DENIED")


async def test_a_token_that_expires_ends_the_connection_after_a_warning() -> None:
    tokens = {"short": principal("ann", "rooms.join", expires_at=time.time() + 0.3)}
    async with bridge(tokens=tokens) as hub, hub.member(query="?token=short") as client:
        warning = await client.read()
        assert warning["data"]["event"] == "token_expiring"
        assert 0 <= warning["data"]["seconds"] <= 1
        assert await client.closed() == (4002, "TOKEN_EXPIRED")


async def test_tokens_that_live_no_longer_than_the_warning_are_not_asked_for_without_end() -> None:
    tokens = {
        name: principal("ann", "rooms.join", expires_at=time.time() + 30) for name in ("one", "two")
    }
    async with bridge(tokens=tokens) as hub, hub.member(query="?token=one") as client:
        for _ in range(2):
            await client.send("refresh", {"token": "two"}, id="new")
            assert (await client.read())["type"] == "ack"
            await client.send("heartbeat")
            assert (await client.read())["type"] == "heartbeat"


async def test_a_new_token_keeps_the_connection_and_changes_what_it_may() -> None:
    tokens = {
        "short": principal("ann", "rooms.join", expires_at=time.time() + 0.4),
        "long": principal(
            "ann", "rooms.join", "messaging.broadcast", expires_at=time.time() + 3600
        ),
        "bob": principal("bob", "rooms.join"),
        "mute": principal("ann", "messaging.broadcast"),
    }
    async with bridge(tokens=tokens) as hub, hub.member(query="?token=short") as client:
        assert await client.refused("chat", {"room": "r"}) == "PERMISSION_DENIED"
        assert await client.refused("refresh", {"token": "wrong"}) == "TOKEN_INVALID"
        assert await client.refused("refresh", {"token": "bob"}) == "PERMISSION_DENIED"
        assert await client.refused("refresh", {"token": "mute"}) == "PERMISSION_DENIED"
        assert await client.refused("refresh", {"token": 5}) == "FIELD_MISSING"
        renewed = await client.done("refresh", {"token": "long"})
        assert renewed["expire_time"].endswith("Z")
        await asyncio.sleep(max(0.0, (tokens["short"].expires_at or 0) - time.time() + 0.1))
        await client.done("chat", {"room": "r"})


async def test_a_hub_that_asks_for_no_token_takes_a_new_one_calmly() -> None:
    async with bridge() as hub, hub.member() as client:
        assert await client.done("refresh", {"token": "any"}) == {}
        assert await client.done("auth", {"token": "any"}) == {}


async def status_of(hub: Running, path: str, headers: dict[str, str]) -> int:
    """Asks for a page, or for a WebSocket where the headers do."""

    def request() -> int:
        with closing(HTTPConnection("127.0.0.1", hub.server.port, timeout=10)) as client:
            client.request("GET", path, headers=headers)
            return client.getresponse().status

    return await asyncio.to_thread(request)


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
}


async def test_a_page_whose_own_name_leads_to_a_hub_without_tokens_gets_nothing() -> None:
    evil = {"Host": "evil.example:8008"}
    page = HANDSHAKE | evil | {"Origin": "http://evil.example:8008"}
    async with bridge() as hub:
        assert await status_of(hub, "/ws/a", page) == 403
        assert hub.metrics.refused == {403: 1}
        for path in ("/ws/info", "/", "/switchboard.js"):
            assert await status_of(hub, path, evil) == 403
            for host in ("localhost:8008", "[::1]:8008", "192.0.2.7"):
                assert await status_of(hub, path, {"Host": host}) == 200
        for path in ("/health", "/livez", "/readyz", "/metrics"):
            assert await status_of(hub, path, evil) == 200
        assert await status_of(hub, "/ws/a", HANDSHAKE | evil) == 101
    async with bridge(origins={"http://evil.example:8008"}) as hub:
        assert await status_of(hub, "/ws/info", evil) == 200
        assert await status_of(hub, "/ws/a", page) == 101
    async with bridge(tokens=TOKENS) as hub:
        assert await status_of(hub, "/ws/info", evil) == 401
        assert await status_of(hub, "/", evil) == 200
        assert await status_of(hub, "/ws/a", page) == 101


async def test_pages_of_other_hosts_may_not_connect() -> None:
    async with bridge(origins={"https://app.example"}) as hub:
        same = Origin(f"http://127.0.0.1:{hub.server.port}")
        for origin in (same, Origin("https://app.example")):
            async with hub.member(origin=origin):
                pass
        with pytest.raises(InvalidStatus) as refused:
            async with hub.client(origin=Origin("https://evil.example")):
                pass
        assert refused.value.response.status_code == 403
        assert hub.metrics.refused == {403: 1}


async def test_beyond_the_limit_clients_are_told_when_to_try_again() -> None:
    async with bridge(max_connections=2) as hub, hub.member(), hub.member() as second:
        with pytest.raises(InvalidStatus) as refused:
            async with hub.client():
                pass
        response = refused.value.response
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0
        await second.socket.close()
        async with hub.member():
            pass


@pytest.mark.parametrize(
    "path",
    ["/ws/a/b", "/ws/%ff", "/ws/a*", "/ws/%0a", "/ws/.", "/ws/%2e%2E", "/ws/" + "x" * 256],
)
async def test_a_name_that_is_not_allowed_is_a_bad_request(path: str) -> None:
    async with bridge() as hub:
        with pytest.raises(InvalidStatus) as refused:
            async with hub.client(path=path):
                pass
        assert refused.value.response.status_code == 400


async def test_a_name_may_be_that_of_a_page() -> None:
    async with bridge() as hub, hub.client("info") as client:
        assert (await client.read())["data"]["client_id"] == "info"

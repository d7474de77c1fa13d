"""How connections are kept alive and how they end, and what is told of them."""

import asyncio
import json
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

import pytest

from switchboard_server.bridge import http, session
from switchboard_server.core.principal import ANONYMOUS
from switchboard_server.core.realtime.history import HistoryPolicy
from switchboard_server.core.realtime.hub import RealtimeLimits
from switchboard_server.core.realtime.outbox import OutboxLimits
from switchboard_server.core.realtime.wishes import BroadcastWish
from switchboard_server.telemetry.bridge_metrics import BridgeMetrics
from switchboard_server.telemetry.metrics import Metrics
from tests.integration.bridge import (
    BridgeClient,
    Running,
    bridge,
    narrow,
    principal,
    settled,
)

KEPT = {"kept": HistoryPolicy(1000, 3600 * 10**9)}
SMALL = RealtimeLimits(outbox=OutboxLimits(messages=20, bytes=100_000))


async def flood(hub: Running, room: str, count: int) -> None:
    """Sends so many messages to a room, a turn of the loop each."""
    for number in range(count):
        wish = BroadcastWish("note", {"n": number, "padding": "x" * 4000}, rooms=[room])
        await hub.realtime.broadcast(wish, ANONYMOUS)
        await asyncio.sleep(0)


async def test_a_heartbeat_goes_with_every_ping_and_a_client_that_answers_stays() -> None:
    async with bridge(ping_interval=0.1, ping_timeout=0.1) as hub, hub.member() as client:
        beats = [await client.until_type("heartbeat") for _ in range(5)]
        assert all(each["data"]["time"].endswith("Z") for each in beats)
        await client.done("join", {"room": "r"})


async def test_a_client_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CLOSE_SECONDS", 0.05)
    async with bridge(ping_interval=0.1, ping_timeout=0.1) as hub, hub.member() as client:
        client.socket.transport.pause_reading()
        await settled(lambda: not hub.realtime.stats().connections)
        client.socket.transport.resume_reading()
        assert await client.closed() == (4004, "PING_TIMEOUT")
        await settled(lambda: hub.metrics.closed == {"4004": 1})


async def test_a_heartbeat_that_is_asked_for_comes_at_once_by_its_id() -> None:
    async with bridge() as hub, hub.member() as client:
        await client.send("heartbeat", id="now")
        beat = await client.read()
        assert (beat["type"], beat["id"]) == ("heartbeat", "now")
        await client.send("heartbeat")
        assert "id" not in await client.read()


async def test_a_page_that_reads_too_slowly_is_told_how_many_messages_are_missing() -> None:
    async with bridge(realtime=SMALL) as hub, hub.member() as slow, hub.member() as quick:
        for client in (slow, quick):
            await client.done("join", {"room": "r"})
        slow.socket.transport.pause_reading()
        reading = asyncio.create_task(notes(quick, 3000))
        await flood(hub, "r", 3000)
        assert await reading == list(range(3000))
        slow.socket.transport.resume_reading()
        found: list[int] = []
        missing = 0
        while not found or found[-1] < 2999:
            frame = await slow.read()
            if frame["type"] == "system":
                assert frame["data"]["event"] == "dropped"
                missing += frame["data"]["count"]
            else:
                found.append(frame["data"]["n"])
        assert missing > 0
        assert len(found) + missing == 3000
        assert hub.realtime.stats().dropped == missing


async def notes(client: BridgeClient, count: int) -> list[int]:
    return [(await client.until_type("note"))["data"]["n"] for _ in range(count)]


async def test_where_a_history_has_the_rest_a_slow_page_is_sent_away_to_recover_it() -> None:
    async with bridge(realtime=SMALL, rules=KEPT) as hub:
        async with hub.member("slow", sock=narrow(hub.server.port)) as slow:
            joined = await slow.done("join", {"room": "kept"})
            slow.socket.transport.pause_reading()
            await flood(hub, "kept", 1000)
            assert not hub.realtime.stats().connections
            slow.socket.transport.resume_reading()
            frames, closed = await slow.rest()
            assert closed == (4001, "SLOW_CONSUMER")
            heard = [each for each in frames if each["type"] == "note"]
            found = [each["data"]["n"] for each in heard]
            place = heard[-1]["rooms"][0] if heard else joined["position"]
        async with hub.member("slow") as again:
            await again.send("join", {"room": "kept", "recover_after": place})
            assert (await again.read())["data"]["recovered"]
            found += await notes(again, 1000 - len(found))
        assert found == list(range(1000))


async def test_a_hub_that_stops_tells_everybody_to_come_back() -> None:
    tokens = {"t": principal("ann", "rooms.join", "events.subscribe")}
    async with bridge(tokens=tokens) as hub:
        async with hub.member(query="?token=t") as ready, hub.client() as early:
            await ready.done("subscribe", {"subscription": "s"})
            stopping = asyncio.create_task(hub.server.stop(grace=10))
            assert await ready.closed() == (4000, "SHUTTING_DOWN")
            assert await early.closed() == (4000, "SHUTTING_DOWN")
            await stopping
        assert not hub.realtime.stats().connections


async def test_the_hub_can_end_a_subscription_and_says_where_it_stood() -> None:
    async with bridge() as hub, hub.member() as client:
        await client.done("subscribe", {"subscription": "s"})
        hub.events.begin_shutdown()
        ended = (await client.read())["data"]
        assert (ended["event"], ended["subscription"]) == ("subscription_ended", "s")
        assert (ended["position"], ended["reason"]) == ("0", "SHUTTING_DOWN")


async def test_a_defect_is_told_by_its_incident_and_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bridge() as hub, hub.member() as client:

        async def broken(*_arguments: object) -> None:
            raise RuntimeError("broken on purpose")

        monkeypatch.setattr(hub.realtime, "join_room", broken)
        error = await client.ask("join", {"room": "r"})
        assert (error["code"], error["reason"]) == ("INTERNAL", "INTERNAL")
        assert error["metadata"]["incident"] in caplog.text
        assert "broken on purpose" not in error["message"]
        monkeypatch.undo()
        await client.done("join", {"room": "r"})


async def get(hub: Running, path: str, token: str | None = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:{hub.server.port}{path}", headers=headers)

    def ask() -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    status, body = await asyncio.to_thread(ask)
    return status, json.loads(body) if status == 200 else body


async def test_info_counts_connections_users_and_rooms_and_tells_the_limits() -> None:
    async with bridge(max_connections=7) as hub, hub.member("a", "?user=ann") as client:
        await client.done("join", {"room": "r"})
        async with hub.member("b", "?user=ann"):
            status, info = await get(hub, "/ws/info")
        assert status == 200
        assert info == {
            "connections": 2,
            "transports": {"websocket": 2},
            "users": 1,
            "rooms": 1,
            "limits": {
                "max_connections": 7,
                "max_frame_bytes": 65536,
                "frames_per_second": 100,
                "ping_interval_seconds": 30,
                "ping_timeout_seconds": 20,
            },
        }


async def test_info_needs_a_token_where_the_hub_has_a_key() -> None:
    tokens = {"view": principal("ann", "messaging.view"), "other": principal("bob", "rooms.join")}
    async with bridge(tokens=tokens) as hub:
        assert (await get(hub, "/ws/info"))[0] == 401
        assert (await get(hub, "/ws/info", "wrong"))[0] == 401
        assert (await get(hub, "/ws/info", "other"))[0] == 403
        assert (await get(hub, "/ws/info", "view"))[0] == 200


async def test_metrics_count_connections_frames_errors_and_ends() -> None:
    async with bridge() as hub:
        async with hub.member() as client:
            await client.done("join", {"room": "r"})
            await client.done("chat", {"room": "r"})
            await client.refused("join", {})
            await client.raw("hello")
            await client.until_type("error")
            assert hub.metrics.connections == 1
        await settled(lambda: not hub.metrics.connections)
        assert hub.metrics.frames_in == {"join": 2, "message": 1, "": 1}
        assert hub.metrics.errors == {"FIELD_MISSING": 1, "MALFORMED_REQUEST": 1}
        assert hub.metrics.closed == {"1000": 1}
        assert hub.metrics.frames_out == 7


async def test_a_handshake_that_is_never_finished_is_cut_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "OPEN_SECONDS", 0.1)
    async with bridge() as hub:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.server.port)
        writer.write(b"GET /ws/a HTTP/1.1\r\nHost: localhost\r\n")
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        await settled(lambda: hub.metrics.timed_out == 1)
        async with hub.member():
            pass
        await settled(lambda: not hub.server.connections)
        assert hub.metrics.timed_out == 1


async def test_a_close_code_that_a_client_made_up_is_no_label() -> None:
    async with bridge() as hub:
        async with hub.member() as client:
            await client.socket.close(4321, "mine")
        await settled(lambda: hub.metrics.closed == {"client": 1})


def test_metrics_are_rendered_for_prometheus() -> None:
    metrics = Metrics("1.0")
    assert isinstance(metrics.bridge, BridgeMetrics)
    metrics.bridge.connections = 3
    metrics.bridge.frames_in["join"] = 2
    metrics.bridge.closed["4001"] = 1
    text = metrics.render().decode()
    for line in (
        "switchboard_websockets_open 3.0",
        'switchboard_websocket_frames_received_total{type="join"} 2.0',
        'switchboard_websockets_closed_total{code="4001"} 1.0',
        "switchboard_websocket_frames_sent_total 0.0",
    ):
        assert line in text


async def test_a_client_that_asks_for_much_and_reads_nothing_costs_bounded_memory() -> None:
    async with bridge() as hub, hub.member("a") as client:
        padding = "x" * 20_000
        for number in range(50):
            event = {"type": "t", "source_service": "s", "data": {"n": number, "padding": padding}}
            await client.done("publish", event)
        (connection,) = hub.server.connections
        client.socket.transport.pause_reading()
        for number in range(40):
            await client.send("list", {"what": "events", "page_size": 50}, id=f"l{number}")
        await settled(connection.behind)
        for _ in range(1000):
            await asyncio.sleep(0)
        # One answer is more than the buffer is to hold, and no second one was made meanwhile.
        assert connection.transport.get_write_buffer_size() < 3_000_000
        client.socket.transport.resume_reading()
        for number in range(40):
            answer = await client.until(lambda frame: "id" in frame)
            assert answer["id"] == f"l{number}"
            assert len(answer["data"]["events"]) == 50

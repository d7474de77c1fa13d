"""What clients should not send: each gets its error or its close code, and nobody else notices."""

import asyncio
import json
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from switchboard_server.bridge import http
from switchboard_server.bridge.commands import COMMANDS
from tests.integration.bridge import BridgeClient, Running, bridge, settled

Run = Callable[[Coroutine[Any, Any, None]], None]

HANDSHAKE = (
    b"GET /ws/flood HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.fixture
async def hub(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Running]:
    """A bridge on which a bystander chats before and after, and that logs nothing alarming."""
    caplog.set_level(logging.WARNING)
    async with bridge() as running, running.member("bystander") as bystander:
        await bystander.done("chat", {"room": "calm"})
        yield running
        await bystander.done("chat", {"room": "calm"})
    assert not caplog.records


async def assert_served(client: BridgeClient) -> None:
    assert (await client.done("join", {"room": "r"}))["room"] == "r"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("", "MALFORMED_REQUEST"),
        ("hello", "MALFORMED_REQUEST"),
        ("[]", "MALFORMED_REQUEST"),
        (b'{"type":"join"}', "MALFORMED_REQUEST"),
        ('{"type": NaN}', "MALFORMED_REQUEST"),
        ("[" * 60_000, "MALFORMED_REQUEST"),
        ('{"type":"x","data":{"a":' + "[" * 900 + "]" * 900 + "}}", "TOO_LARGE"),
        ("{}", "FIELD_MISSING"),
        ('{"type": 5}', "INVALID_FIELD"),
        ('{"type": "chat", "data": "hi"}', "INVALID_FIELD"),
        ('{"type": "unknown", "data": {}}', "FIELD_MISSING"),
        ('{"type": "join", "data": {}}', "FIELD_MISSING"),
        ('{"type": "join", "data": {"room": 5}}', "MALFORMED_REQUEST"),
        ('{"type": "join", "data": {"room": "a*"}}', "INVALID_FIELD"),
        ('{"type": "join", "data": {"room": "a", "colour": 1}}', "MALFORMED_REQUEST"),
        ('{"type": "publish", "data": {"type": "x"}}', "FIELD_MISSING"),
        ('{"type": "subscribe", "data": {"after_time": "yesterday"}}', "MALFORMED_REQUEST"),
        ('{"type": "' + "x" * 300 + '", "data": {"room": "r"}}', "TOO_LARGE"),
        ('{"type": "a\\u0000", "data": {"room": "r"}}', "INVALID_FIELD"),
        ('{"type": "call", "data": {}}', "FIELD_MISSING"),
        ('{"type": "call", "data": {"timeout_seconds": "x"}}', "INVALID_FIELD"),
        ('{"type": "call", "data": {"timeout_seconds": 0}}', "INVALID_FIELD"),
        ('{"type": "acknowledge", "data": {}}', "FIELD_MISSING"),
        ('{"type": "reject", "data": {"group": "g", "ack_ids": ["1"]}}', "GROUP_NOT_FOUND"),
        ('{"type": "extend", "data": {"ack_ids": ["1"]}}', "FIELD_MISSING"),
    ],
)
async def test_a_bad_frame_is_answered_and_counted_and_the_connection_goes_on(
    hub: Running, message: str | bytes, reason: str
) -> None:
    async with hub.member() as client:
        await client.raw(message)
        error = await client.read()
        assert (error["type"], error["reason"]) == ("error", reason)
        assert error["message"]
        assert "id" not in error
        assert hub.metrics.errors == {reason: 1}
        await assert_served(client)


async def test_ten_messages_that_are_no_frames_end_the_connection(hub: Running) -> None:
    async with hub.member() as client:
        for number in range(10):
            await client.raw("hello" if number % 2 else b"\x00")
        # The last one says that it is the last.
        told = [(await client.until_type("error")).get("close") for _ in range(10)]
        assert told == [None] * 9 + [4504]
        assert await client.closed() == (4504, "MALFORMED_FRAME")
    assert hub.metrics.errors == {"MALFORMED_REQUEST": 10}


async def test_bad_frames_that_are_objects_do_not(hub: Running) -> None:
    async with hub.member() as client:
        for _ in range(20):
            await client.raw("{}")
            await client.read()
        await assert_served(client)


async def test_text_that_is_not_utf8_ends_the_connection(hub: Running) -> None:
    async with hub.member() as client:
        await client.socket.send(b'{"type": "chat\xff"}', text=True)
        assert (await client.closed())[0] == 1007
    await settled(lambda: hub.metrics.closed == {"1007": 1})


async def test_a_frame_that_is_too_large_ends_the_connection(hub: Running) -> None:
    async with hub.member() as client:
        await client.raw(json.dumps({"type": "x", "data": {"room": "r", "t": "x" * 65_000}}))
        await client.until_type("x")
        await client.raw("x" * 65_537)
        assert (await client.closed())[0] == 1009
    await settled(lambda: hub.metrics.closed == {"1009": 1})


async def test_a_message_in_many_fragments_is_bounded_like_any_other(hub: Running) -> None:
    async with hub.member() as client:
        await client.socket.send(["x" * 10_000] * 7)
        assert (await client.closed())[0] == 1009
    await settled(lambda: hub.metrics.closed == {"1009": 1})


async def test_a_frame_in_fragments_is_a_frame(hub: Running) -> None:
    async with hub.member() as client:
        await client.socket.send(['{"type":', '"chat","data":', '{"room":"r"}}'])
        await client.until_type("chat")


async def test_a_protocol_violation_ends_the_connection(hub: Running) -> None:
    async with hub.member() as client:
        client.socket.transport.write(b"\x83\x80\x00\x00\x00\x00")
        assert (await client.closed())[0] == 1002
    await settled(lambda: hub.metrics.closed == {"1002": 1})


async def test_frames_beyond_the_rate_are_refused_and_then_the_connection_ends() -> None:
    async with bridge(frames_per_second=10) as hub:
        async with hub.member() as client:
            for number in range(12):
                await client.send("heartbeat", id=number)
            kinds = [(await client.read()) for _ in range(12)]
            assert [each["type"] for each in kinds] == ["heartbeat"] * 10 + ["error"] * 2
            assert kinds[-1]["reason"] == "RATE_LIMITED"
            assert kinds[-1]["metadata"] == {"limit": "10", "retry_after_ms": "100"}
            for number in range(10):
                await client.send("heartbeat", id=number)
            assert await client.closed() == (4505, "RATE_LIMITED")
        async with hub.member() as client:
            await assert_served(client)
        assert hub.metrics.errors["RATE_LIMITED"] >= 10


async def test_a_handshake_that_is_never_finished_is_cut_off(
    hub: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "OPEN_SECONDS", 0.05)
    async with bridge() as other:
        for start in (b"", b"GET /ws/a HTTP/1.1\r\nHost: x\r\nUpgrade: webs"):
            reader, writer = await asyncio.open_connection("127.0.0.1", other.server.port)
            writer.write(start)
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            writer.close()
        async with other.member() as client:
            await assert_served(client)


async def test_a_handshake_without_a_proper_key_is_a_bad_request(hub: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.server.port)
    writer.write(
        b"GET /ws/a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n"
    )
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    async with hub.member() as client:
        await assert_served(client)


def reset(port: int) -> None:
    """Asks for a WebSocket and is gone at once, by a reset."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(HANDSHAKE)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_clients_that_are_gone_before_they_are_let_in_take_no_place(run: Run) -> None:
    async def scenario() -> None:
        async with bridge(max_connections=4) as hub:
            for _ in range(20):
                # The loop stands still meanwhile, and finds the request and the end together.
                reset(hub.server.port)
                async with hub.member() as client:
                    await assert_served(client)
            await settled(lambda: not hub.server.connections)

    run(scenario())


async def test_a_client_that_vanishes_leaves_nothing_behind(hub: Running) -> None:
    async with hub.member("gone") as client:
        await client.done("join", {"room": "r"})
        await client.done("subscribe", {})
        client.socket.transport.abort()
    await settled(lambda: hub.metrics.connections == 1 and not hub.events.stats().subscribers)
    assert sum(hub.realtime.stats().connections.values()) == 1
    assert hub.metrics.closed == {"1006": 1}


@pytest.mark.parametrize("frame", [b"\x89\x80\x00\x00\x00\x00", b"\x8a\x80\x00\x00\x00\x00"])
async def test_pings_and_pongs_beyond_the_rate_end_the_connection_and_are_not_looked_at(
    hub: Running, frame: bytes
) -> None:
    async with hub.member() as client:
        client.socket.transport.write(frame * 20_000)
        answers = 0

        def count(_data: bytes) -> None:
            nonlocal answers
            answers += 1

        client.socket.acknowledge_pings = count  # type: ignore[method-assign,assignment]
        sent, end = await client.rest()
        assert [each["reason"] for each in sent] == ["RATE_LIMITED"]
        assert end == (4505, "RATE_LIMITED")
        assert answers < 1000
    await settled(lambda: hub.metrics.closed == {"4505": 1})
    assert hub.metrics.errors == {"RATE_LIMITED": 1}


async def test_pings_with_the_handshake_are_not_looked_at_either() -> None:
    async with bridge() as hub, hub.member() as other:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.server.port)
        writer.write(HANDSHAKE + b"\x89\x80\x00\x00\x00\x00" * 20_000)
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                while await reader.read(65_536):
                    pass
        await settled(lambda: len(hub.server.connections) == 1)
        assert (await other.ask("heartbeat"))["type"] == "heartbeat"
        writer.close()


async def test_pings_whose_answers_are_not_read_fill_no_memory() -> None:
    ping = b"\x89\xfd\x00\x00\x00\x00" + b"x" * 125
    async with bridge(frames_per_second=1_000_000) as hub, hub.member() as other:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.server.port, limit=1024)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")

        async def flood() -> None:
            while True:
                writer.write(ping * 512)
                await writer.drain()

        # It is not read any more, so that it cannot send: what the kernel holds is a few megabytes.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await flood()
        held = [each.transport.get_write_buffer_size() for each in hub.server.connections]
        assert max(held) < 1_000_000
        assert (await other.ask("heartbeat"))["type"] == "heartbeat"
        writer.close()


async def test_receivers_beside_a_command_are_refused_and_it_is_not_obeyed(hub: Running) -> None:
    async with hub.member() as client:
        for kind in COMMANDS:
            answer = await client.ask(kind, {"room": "r"}, to={"users": ["ben"]})
            assert answer["violations"][0]["field"] == "to", kind
        found = await client.done("list", {"what": "rooms"}, to=None)
        assert [each["name"] for each in found["rooms"]] == ["calm"]


@pytest.mark.parametrize(
    ("data", "violation"),
    [
        ({}, "room: is required"),
        ({"room": 5}, "room: must be a string"),
        ({"room": "a", "recover_after": {"offset": "x"}}, "recover_after.offset: must be a whole"),
        ({"room": "a", "colour": 1}, "colour: there is no such field; there are room, recover_"),
    ],
)
async def test_the_error_names_the_field_of_the_frames_data(
    hub: Running, data: dict[str, object], violation: str
) -> None:
    async with hub.member() as client:
        answer = await client.ask("join", data)
        (found,) = answer["violations"]
        assert f"{found['field']}: {found['description']}".startswith(violation)
        assert answer["message"].startswith(violation)

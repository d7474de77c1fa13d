"""Frames that are written past the websockets library, beside those that it writes itself."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from switchboard_server.core.principal import ANONYMOUS
from switchboard_server.core.realtime import floor, rounds
from switchboard_server.core.realtime.wishes import BroadcastWish
from tests.integration.bridge import BridgeClient, Running, bridge, settled

Run = Callable[[Coroutine[Any, Any, None]], None]

LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
"""The loop of the tests and the loop of the hub: their transports are different ones."""


async def broadcast(hub: Running, **data: object) -> None:
    await hub.realtime.broadcast(BroadcastWish("note", data, to_all=True), ANONYMOUS)


async def notes(client: BridgeClient, count: int) -> list[dict[str, Any]]:
    return [(await client.until_type("note"))["data"] for _ in range(count)]


@LOOPS
def test_messages_of_every_size_arrive_whole_among_pongs_and_answers(run: Run) -> None:
    sizes = [0, 1, 100, 126, 1000, 65_535, 65_536, 200_000] * 25

    async def ping(client: BridgeClient) -> None:
        for number in range(200):
            await (await client.socket.ping(b"%d" % number))

    async def scenario() -> None:
        async with bridge(frames_per_second=10_000) as hub, hub.member() as client:
            reading = asyncio.create_task(notes(client, len(sizes)))
            pinging = asyncio.create_task(ping(client))
            for number, size in enumerate(sizes):
                await broadcast(hub, n=number, padding="x" * size)
                await client.send("heartbeat")
                await asyncio.sleep(0)
            found = await reading
            await pinging
            assert [each["n"] for each in found] == list(range(len(sizes)))
            assert [len(each["padding"]) for each in found] == sizes

    run(scenario())


@LOOPS
def test_messages_of_one_turn_are_one_write(run: Run) -> None:
    async def scenario() -> None:
        async with bridge() as hub, hub.member("a") as client:
            (connection,) = hub.server.connections
            writes: list[bytes] = []
            write = connection.write

            def watched(frames: bytes) -> None:
                writes.append(frames)
                write(frames)

            connection.write = watched  # type: ignore[method-assign]
            for number in range(50):
                await broadcast(hub, n=number)
            assert [each["n"] for each in await notes(client, 50)] == list(range(50))
            assert len(writes) == 1

    run(scenario())


def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a message to a single client go out as one to thousands does."""
    monkeypatch.setattr(rounds, "MANY", 1)
    monkeypatch.setattr(floor, "MANY", 1)


@LOOPS
def test_what_goes_to_many_is_written_past_the_transports_in_order_with_all_else(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _few_are_many(monkeypatch)
    sizes = [1, 100, 1000, 65_536, 200_000] * 20

    async def talk(client: BridgeClient) -> None:
        for number in range(50):
            await client.send("chat", {"n": number}, to={"clients": ["a", "b"]})
            await (await client.socket.ping(b"%d" % number))

    async def listen(client: BridgeClient) -> list[int]:
        found: dict[str, list[int]] = {"note": [], "chat": []}
        while len(found["note"]) < len(sizes) or len(found["chat"]) < 100:
            frame = await client.read()
            found[frame["type"]].append(frame["data"]["n"])
        assert sorted(found["chat"]) == sorted([*range(50), *range(50)])
        return found["note"]

    async def scenario() -> None:
        async with (
            bridge(frames_per_second=10_000) as hub,
            hub.member("a") as one,
            hub.member("b") as two,
        ):
            listening = [asyncio.create_task(listen(client)) for client in (one, two)]
            talking = [asyncio.create_task(talk(client)) for client in (one, two)]
            for number, size in enumerate(sizes):
                await broadcast(hub, n=number, padding="x" * size)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            await asyncio.gather(*talking)
            for found in await asyncio.gather(*listening):
                assert found == list(range(len(sizes)))
            assert not hub.realtime.stats().dropped

    run(scenario())


@LOOPS
def test_a_message_to_many_takes_one_write_to_the_socket_and_none_of_the_transport(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _few_are_many(monkeypatch)

    async def scenario() -> None:
        async with bridge() as hub, hub.member("a") as client:
            (connection,) = hub.server.connections
            assert await client.done("join", {"room": "r"})
            writes: list[bytes] = []
            monkeypatch.setattr(connection, "write", writes.append)
            for number in range(3):
                await broadcast(hub, n=number)
                assert (await notes(client, 1))[0]["n"] == number
            assert not writes

    run(scenario())


@LOOPS
def test_a_name_taken_over_gets_nothing_that_was_for_the_one_before(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _few_are_many(monkeypatch)

    async def scenario() -> None:
        async with bridge() as hub, hub.member("b") as other:
            for number in range(20):
                async with hub.member(f"a{number}") as client:
                    (await client.done("join", {"room": "r"}))
                    wish = BroadcastWish("note", {"n": number}, rooms=["r"])
                    await hub.realtime.broadcast(wish, ANONYMOUS)
                    client.socket.transport.abort()
                    # The next one gets the outlet of the one that is gone.
                async with hub.member(f"b{number}") as next_one:
                    await broadcast(hub, n=1000 + number)
                    assert (await next_one.read())["data"]["n"] == 1000 + number
            assert [each["n"] for each in await notes(other, 20)] == [*range(1000, 1020)]

    run(scenario())


@LOOPS
def test_nothing_follows_a_close_frame(run: Run) -> None:
    async def scenario() -> None:
        async with bridge() as hub, hub.member("a") as client:
            (connection,) = hub.server.connections
            await hub.disconnect("a", reconnect=False)
            await broadcast(hub, n=1)
            await settled(lambda: not connection.open)
            # The close frame is on its way, and the client has not answered it yet.
            connection.write(b"\x81\x01x")
            connection.write(b"\x81\x01x")
            with pytest.raises(ConnectionClosed) as end:
                await client.socket.recv()
            assert end.value.rcvd is not None
            assert end.value.rcvd.code == 4501

    run(scenario())


@LOOPS
def test_writing_to_a_connection_that_was_just_cut_is_no_error(run: Run) -> None:
    async def scenario() -> None:
        async with bridge() as hub, hub.member("a") as client:
            (connection,) = hub.server.connections
            connection.transport.abort()
            assert connection.protocol.state is State.OPEN
            assert not connection.open
            connection.write(b"\x81\x01x")
            connection.begin_close(4000, "", 1.0)
            await broadcast(hub, n=1)
            await client.socket.wait_closed()
            await settled(lambda: not hub.realtime.stats().connections)

    run(scenario())


@LOOPS
@pytest.mark.parametrize("many", [False, True])
def test_what_is_written_waits_where_it_is_bounded_while_the_client_does_not_read(
    run: Run, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if many:
        _few_are_many(monkeypatch)

    async def scenario() -> None:
        async with bridge() as hub, hub.member("a") as client:
            (connection,) = hub.server.connections
            client.socket.transport.pause_reading()
            sent = 0
            while not connection.behind():
                await broadcast(hub, n=sent, padding="x" * 5000)
                await asyncio.sleep(0)
                sent += 1
            held = connection.transport.get_write_buffer_size()
            for _ in range(3000):
                await broadcast(hub, n=sent, padding="x" * 5000)
                await asyncio.sleep(0)
                sent += 1
            assert connection.transport.get_write_buffer_size() == held
            assert held < 300_000
            client.socket.transport.resume_reading()
            missing = 0
            found: list[int] = []
            while not found or found[-1] < sent - 1:
                frame = json.loads(await client.socket.recv())
                if frame["type"] == "system":
                    missing += frame["data"]["count"]
                else:
                    found.append(frame["data"]["n"])
            assert missing > 0
            assert len(found) + missing == sent
            assert found == sorted(found)

    run(scenario())

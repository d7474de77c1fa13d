"""Thousands of calls at once, as when all clients come back after a restart: none is refused.

gRPC drops calls at random where more than about a thousand wait to be accepted, and those that have
waited for 30 seconds, unless it is told otherwise by arguments that are not in its public header
(`switchboard_server.rpc.server`). These tests tell when a new version does not know them any more.
"""

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from switchboard.v1 import event_pb2, event_service_pb2, subscription_pb2
from switchboard_server.rpc.server import OPTIONS
from tests.e2e.load import PATIENCE, metrics, numbered, read, running, stub, until

CHANNELS = 20
SUBSCRIBERS = 2000
CALLS = 5000
OVER = "storm.over"
LONGEST_WAIT = "grpc.server_max_unrequested_time_in_server"


async def subscribe_once(channel: grpc.aio.Channel) -> str:
    """Opens a subscription, and waits until the event comes that ends the storm."""
    request = subscription_pb2.SubscribeRequest(filter=event_pb2.Filter(types=[OVER]))
    call = stub(channel).Subscribe(request)
    try:
        while not (response := await read(call)).deliveries:
            assert response.HasField("started"), response
    except grpc.aio.AioRpcError as error:
        return error.code().name
    finally:
        call.cancel()
    return ",".join(each.event.type for each in response.deliveries)


async def publish(channel: grpc.aio.Channel, event: event_pb2.Event) -> str:
    try:
        await stub(channel).Publish(event_service_pb2.PublishRequest(event=event))
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_two_thousand_subscribers_and_five_thousand_calls_at_once_are_all_served(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as hub:
        channels = [hub.channel() for _ in range(CHANNELS)]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        # Stopped until all calls are made, so that they all wait when it goes on.
        os.kill(hub.process.pid, signal.SIGSTOP)
        try:
            subscribers = [
                asyncio.create_task(subscribe_once(channels[number % CHANNELS]))
                for number in range(SUBSCRIBERS)
            ]
            calls = [
                asyncio.create_task(publish(channels[number % CHANNELS], numbered("storm", number)))
                for number in range(CALLS)
            ]
            # In one turn of the loop every task begins, and hands its call to gRPC's own threads.
            await asyncio.sleep(0)
        finally:
            os.kill(hub.process.pid, signal.SIGCONT)
        async with asyncio.timeout(PATIENCE):
            assert Counter(await asyncio.gather(*calls)) == {"OK": CALLS}

            async def subscribed() -> bool:
                return (await metrics(hub))["switchboard_subscribers"] == SUBSCRIBERS

            await until(subscribed, "every subscription stands")
            end = event_pb2.Event(type=OVER, source_service="storm")
            assert await publish(channels[0], end) == "OK"
            assert Counter(await asyncio.gather(*subscribers)) == {OVER: SUBSCRIBERS}
        await asyncio.gather(*(channel.close() for channel in channels))


@pytest.mark.parametrize(
    ("longest_wait", "code"),
    [(1, "CANCELLED"), (OPTIONS[LONGEST_WAIT], "OK")],
    ids=["known", "as set"],
)
async def test_the_argument_for_the_longest_wait_still_means_what_it_did(
    longest_wait: int, code: str
) -> None:
    """A call that comes while the server's event loop is busy for two seconds."""
    assert OPTIONS[LONGEST_WAIT] > 30, "the default"
    busy = threading.Event()

    async def echo(request: bytes, _context: Any) -> bytes:
        if request == b"busy":
            busy.set()
            time.sleep(2.0)  # noqa: ASYNC251, what a loop with too much to do looks like
        return request

    handler = grpc.method_handlers_generic_handler(
        "test.Echo", {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    )
    server = grpc.aio.server(options=[(LONGEST_WAIT, longest_wait)])
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def call() -> list[str]:
        # From a thread, with gRPC's synchronous client: the event loop is the server's, and busy.
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_unary("/test.Echo/Echo")
            first = method.future(b"busy")
            assert busy.wait(PATIENCE)
            calls = [method.future(b"next") for _ in range(20)]
            return [first.code().name, *(each.code().name for each in calls)]

    try:
        outcomes = await asyncio.to_thread(call)
    finally:
        await server.stop(None)
    # One call is taken before the loop is busy, by the acceptance that was asked for already.
    assert outcomes[:2] == ["OK", "OK"]
    assert set(outcomes[2:]) == {code}

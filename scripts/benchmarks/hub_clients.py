"""Workers that load the hub; see `scripts.benchmarks.worker`."""

import asyncio
import time
from typing import Any

from google.protobuf.duration_pb2 import Duration
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from scripts.benchmarks.grpc_client import (
    Publisher,
    Subscriber,
    check_log,
    connect,
    subscribers,
)
from scripts.benchmarks.load import CYCLE, TYPE, CheckError, event, prebuilt_requests
from scripts.benchmarks.worker import Link
from switchboard.v1.event_pb2 import Filter
from switchboard.v1.event_service_pb2 import PublishStreamRequest
from switchboard.v1.subscription_pb2 import SubscribeRequest

WINDOW = 16
"""Requests of a PublishStream that may be unanswered."""

_HEALTH = "/grpc.health.v1.Health/"
_IDLE_CHANNELS = 20
_IDLE_OPENING = 500
_LOOK_SECONDS = 0.005


async def publish(link: Link, port: int, events: int, warm: int, batch: int) -> None:
    """Publishes events that are encoded beforehand.

    Args:
        link: The program that measures.
        port: The hub's.
        events: How many, at every "go".
        warm: How many before the first one.
        batch: Events of a request.
    """
    requests = prebuilt_requests(batch)
    sent = 0
    async with connect(port) as channel:
        publisher = Publisher(channel, WINDOW)

        async def send(count: int) -> float:
            nonlocal sent
            began = time.monotonic()
            for number in range(sent, sent + count, batch):
                await publisher.send(requests[number % CYCLE // batch])
            await publisher.drain()
            sent += count
            return time.monotonic() - began

        await send(warm)
        link.report("ready")
        while await link.go():
            link.report("done", seconds=await send(events))


async def build_and_publish(link: Link, port: int, events: int, batch: int) -> None:
    """Builds events one by one with the generated code, and publishes them in batches."""
    async with connect(port) as channel:
        publisher = Publisher(channel, WINDOW)
        link.report("ready")
        await link.go()
        began = time.monotonic()
        for first in range(0, events, batch):
            request = PublishStreamRequest(
                events=[event(number) for number in range(first, min(first + batch, events))]
            )
            await publisher.send(request.SerializeToString())
        await publisher.drain()
        link.report("done", began=began)


async def subscribe(link: Link, port: int, subscriptions: int, events: int, warm: int) -> None:
    """Receives events on several subscriptions, each of which gets every event."""
    request = SubscribeRequest(filter=Filter(types=[TYPE]))
    async with subscribers(port, [request] * subscriptions) as opened:
        link.report("ready")
        await _receive_all(opened, warm)
        link.report("warm")
        await _receive_all(opened, warm + events)
        link.report("done", ended=time.monotonic())
        await link.go()


async def _receive_all(opened: list[Subscriber], count: int) -> None:
    await asyncio.gather(*(each.receive(count) for each in opened))


async def idle(link: Link, port: int, subscriptions: int) -> None:
    """Holds subscriptions with a filter each that nothing matches.

    They ask for the longest time between heartbeats, for these are a cost of being subscribed, by
    the clock, and not one of publishing.
    """
    channels = [connect(port) for _ in range(_IDLE_CHANNELS)]
    opening = asyncio.Semaphore(_IDLE_OPENING)

    async def hold(number: int) -> None:
        async with opening:
            subscriber = Subscriber(
                channels[number % _IDLE_CHANNELS],
                SubscribeRequest(
                    filter=Filter(types=[f"idle.{number}"]),
                    heartbeat_interval=Duration(seconds=3600),
                ),
            )
            await subscriber.started()
        standing.release()
        await subscriber.receive(1)

    standing = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as tasks:
        held = [tasks.create_task(hold(number)) for number in range(subscriptions)]
        for _ in range(subscriptions):
            await standing.acquire()
        link.report("ready")
        await link.go()
        if any(each.done() for each in held):
            raise CheckError("a subscription got an event that it did not ask for")
        for each in held:
            each.cancel()
    link.report("checked")


async def read_log(link: Link, port: int, events: int) -> None:
    """Checks that the log holds so many events, each once and in order."""
    await check_log(port, events)
    link.report("checked")


async def probe(link: Link, port: int) -> None:
    """Waits until a health check says SERVING; to be started before the hub is."""
    request = HealthCheckRequest().SerializeToString()
    link.report("ready")
    await link.go()
    await _listening(port)
    async with connect(port) as channel:
        watch: Any = channel.unary_stream(f"{_HEALTH}Watch")
        check: Any = channel.unary_unary(f"{_HEALTH}Check")
        async for _change in watch(request):
            answer = HealthCheckResponse.FromString(await check(request))
            if answer.status == HealthCheckResponse.SERVING:
                break
        link.report("done", ended=time.monotonic())


async def _listening(port: int) -> None:
    """Waits for the port, for gRPC itself lets a tenth of a second and more pass between tries."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(_LOOK_SECONDS)
        else:
            writer.close()
            return

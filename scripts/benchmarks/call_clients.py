"""Workers that send one event a message: to the hub, and the same bytes to an empty echo server."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

from scripts.benchmarks.echo import STREAM, UNARY
from scripts.benchmarks.grpc_client import EVENTS, check_log, connect
from scripts.benchmarks.load import CYCLE, PAYLOADS, TYPE, CheckError, Expected, event
from scripts.benchmarks.worker import Link
from switchboard.v1.event_pb2 import Filter
from switchboard.v1.event_service_pb2 import (
    PublishRequest,
    PublishResponse,
    PublishStreamRequest,
    PublishStreamResponse,
)
from switchboard.v1.subscription_pb2 import SubscribeRequest, SubscribeResponse

IN_FLIGHT = 64
"""Unary calls that wait for an answer at a time."""

_WARM = 200


async def hub_latency(link: Link, port: int, events: int, deliver_port: int = 0) -> None:
    """Publishes one event, waits until it is delivered, publishes the next.

    Publisher and subscriber are two connections in one process, so that one clock times both. They
    are to two hubs where `deliver_port` names another.
    """
    requests = [
        PublishStreamRequest(events=[event(number)]).SerializeToString() for number in range(CYCLE)
    ]
    async with connect(port) as publishing, connect(deliver_port or port) as subscribing:
        wish = SubscribeRequest(filter=Filter(types=[TYPE])).SerializeToString()
        subscribe: Any = subscribing.unary_stream(f"{EVENTS}Subscribe")
        deliveries = subscribe(wish, wait_for_ready=True)
        started = SubscribeResponse.FromString(await deliveries.read()).started
        expected = Expected(started.position + 1)
        calls: Any = publishing.stream_stream(f"{EVENTS}PublishStream")()

        async def once() -> float:
            request = requests[expected.received % CYCLE]
            began = time.perf_counter()
            await calls.write(request)
            raw = await deliveries.read()
            seconds = time.perf_counter() - began
            received = [each.event for each in SubscribeResponse.FromString(raw).deliveries]
            expected.take([each.binary for each in received], [each.sequence for each in received])
            if len(PublishStreamResponse.FromString(await calls.read()).acks) != 1:
                raise CheckError("a request has not exactly one acknowledgement")
            return seconds

        await _time_each(link, once, events)


async def echo_latency(link: Link, port: int, events: int) -> None:
    """Sends one message on a stream, waits until it comes back, sends the next."""
    request = PublishStreamRequest(events=[event(0)]).SerializeToString()
    async with connect(port) as channel:
        calls: Any = channel.stream_stream(STREAM)(wait_for_ready=True)

        async def once() -> float:
            began = time.perf_counter()
            await calls.write(request)
            answer = await calls.read()
            seconds = time.perf_counter() - began
            if answer != request:
                raise CheckError("the echo is another message")
            return seconds

        await _time_each(link, once, events)


async def hub_unary(link: Link, port: int, events: int) -> None:
    """Publishes events by unary calls, many at a time, and reads the log in the end."""
    requests = [PublishRequest(event=event(number)).SerializeToString() for number in range(CYCLE)]
    # Which event got which sequence is only known from the answers: calls overtake each other.
    numbers: dict[int, int] = {}
    async with connect(port) as channel:
        call: Any = channel.unary_unary(f"{EVENTS}Publish")

        def check(first: int, answers: list[bytes]) -> None:
            for number, raw in enumerate(answers, first):
                numbers[PublishResponse.FromString(raw).sequence] = number % CYCLE

        await time_all(link, call, requests, check, events)
    payloads = [PAYLOADS[numbers[sequence]] for sequence in sorted(numbers)]
    if sorted(numbers) != list(range(1, len(payloads) + 1)):
        raise CheckError("the sequences in the answers are not 1 and up, each once")
    await check_log(port, len(payloads), payloads)
    link.report("checked")


async def echo_unary(link: Link, port: int, events: int) -> None:
    """Sends the same requests to the echo server."""
    requests = [PublishRequest(event=event(number)).SerializeToString() for number in range(CYCLE)]
    async with connect(port) as channel:
        call: Any = channel.unary_unary(UNARY)

        def check(first: int, answers: list[bytes]) -> None:
            for number, raw in enumerate(answers, first):
                if raw != requests[number % CYCLE]:
                    raise CheckError("the echo is another message")

        await time_all(link, call, requests, check, events)
    link.report("checked")


async def _time_each(link: Link, once: Callable[[], Awaitable[float]], events: int) -> None:
    """Reports the median time of so many round trips, at every "go"."""
    for _ in range(_WARM):
        await once()
    link.report("ready")
    while await link.go():
        times = [await once() for _ in range(events)]
        link.report("done", seconds=median(times))


async def time_all(
    link: Link,
    call: Any,
    requests: list[bytes],
    check: Callable[[int, list[bytes]], None],
    events: int,
) -> None:
    """Reports the time that so many calls take together, at every "go"; until told to stop.

    Args:
        link: Where to.
        call: Makes one call.
        requests: What is asked, in turn, from the first one on.
        check: Is given the number of the first call and the answers, and raises where one is wrong.
        events: How many calls.
    """
    sent = 0

    async def run(count: int) -> float:
        nonlocal sent
        first, sent = sent, sent + count
        answers = [b""] * count
        numbers = iter(range(count))

        async def lane() -> None:
            for number in numbers:
                request = requests[(first + number) % len(requests)]
                answers[number] = await call(request, wait_for_ready=True)

        began = time.perf_counter()
        await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
        seconds = time.perf_counter() - began
        check(first, answers)
        return seconds

    await run(_WARM)
    link.report("ready")
    while await link.go():
        link.report("done", seconds=await run(events))

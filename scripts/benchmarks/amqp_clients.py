"""Workers that use RabbitMQ by aio-pika, one event a message; see `scripts.benchmarks.worker`."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from scripts.benchmarks.load import CYCLE, PAYLOADS, TYPE, CheckError, Expected
from scripts.benchmarks.worker import Link

EXCHANGE = "bench"
IN_FLIGHT = 256
"""Messages that wait for their confirm at a time."""
_PREFETCH = 1000
_WARM = 200


@asynccontextmanager
async def _channel(url: str) -> AsyncIterator[AbstractChannel]:
    """A channel whose publishes are confirmed, and raise when nothing takes them."""
    connection = await aio_pika.connect(url)
    async with connection:
        yield await connection.channel(publisher_confirms=True, on_return_raises=True)


async def _stream(channel: AbstractChannel) -> AbstractQueue:
    """A stream that is bound to a topic exchange, as the hub's is: both promise the same."""
    await channel.set_qos(_PREFETCH)
    exchange = await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue(
        f"{EXCHANGE}.log", durable=True, arguments={"x-queue-type": "stream"}
    )
    await queue.bind(exchange, "#")
    return queue


def _message(number: int) -> aio_pika.Message:
    mode = aio_pika.DeliveryMode.PERSISTENT
    return aio_pika.Message(PAYLOADS[number % CYCLE], delivery_mode=mode)


async def publish(link: Link, url: str, events: int) -> None:
    """Publishes events with confirms, many at a time."""
    async with _channel(url) as channel:
        exchange = await channel.get_exchange(EXCHANGE)
        link.report("ready")
        await link.go()
        began = time.monotonic()
        waiting: list[asyncio.Task[object]] = []
        for number in range(events):
            waiting.append(asyncio.create_task(exchange.publish(_message(number), TYPE)))
            if len(waiting) == IN_FLIGHT:
                await waiting.pop(0)
        await asyncio.gather(*waiting)
        link.report("done", began=began)


async def consume(link: Link, url: str, events: int) -> None:
    """Receives events."""
    async with _channel(url) as channel:
        queue = await _stream(channel)
        expected, complete = Expected(), asyncio.Event()

        async def take(message: AbstractIncomingMessage) -> None:
            expected.take([message.body])
            await message.ack()
            if expected.received == events:
                complete.set()

        await queue.consume(take, arguments={"x-stream-offset": "next"})
        link.report("ready")
        await complete.wait()
        link.report("done", ended=time.monotonic())
        await link.go()


async def latency(link: Link, url: str, events: int) -> None:
    """Publishes one event, waits until it comes, publishes the next.

    Publisher and consumer are two connections in one process, so that one clock times both.
    """
    async with _channel(url) as publishing, _channel(url) as consuming:
        queue = await _stream(consuming)
        exchange = await publishing.get_exchange(EXCHANGE)
        arrived: asyncio.Queue[bytes] = asyncio.Queue()

        async def take(message: AbstractIncomingMessage) -> None:
            arrived.put_nowait(message.body)
            await message.ack()

        await queue.consume(take, arguments={"x-stream-offset": "next"})
        expected = Expected()

        async def once() -> float:
            began = time.perf_counter()
            confirm = asyncio.create_task(exchange.publish(_message(expected.received), TYPE))
            body = await arrived.get()
            seconds = time.perf_counter() - began
            await confirm
            expected.take([body])
            if not arrived.empty():
                raise CheckError("an event came twice")
            return seconds

        for _ in range(_WARM):
            await once()
        link.report("ready")
        while await link.go():
            link.report("done", seconds=median([await once() for _ in range(events)]))

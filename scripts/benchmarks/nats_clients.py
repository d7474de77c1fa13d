"""Workers that use nats-py as an application would; see `scripts.benchmarks.worker`."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, StorageType, StreamConfig

from scripts.benchmarks.group_clients import report_settled
from scripts.benchmarks.load import CYCLE, PAYLOADS, TYPE, CheckError, Expected
from scripts.benchmarks.worker import Link

_STREAM = "bench"
_CONSUMER = "bench"
_UNLIMITED = 0
_FETCH_SECONDS = 1.0
_LOOK_SECONDS = 0.05


async def publish_core(link: Link, port: int, events: int) -> None:
    """Publishes one message an event; nothing is stored or confirmed."""
    client = await _connect(port)
    link.report("ready")
    await link.go()
    began = time.monotonic()
    for number in range(events):
        await client.publish(TYPE, PAYLOADS[number % CYCLE])
    await client.flush(timeout=60)
    link.report("done", began=began)
    await client.close()


async def subscribe_core(link: Link, port: int, events: int) -> None:
    """Receives messages in a callback, the fastest of nats-py's ways."""
    client = await _connect(port)
    expected = Expected()
    done = asyncio.get_running_loop().create_future()

    async def take(message: Msg) -> None:
        expected.take([message.data])
        if expected.received == events:
            done.set_result(None)

    await client.subscribe(
        TYPE,
        cb=_failing(take, done),
        pending_msgs_limit=_UNLIMITED,
        pending_bytes_limit=_UNLIMITED,
    )
    await client.flush()
    link.report("ready")
    await done
    link.report("done", ended=time.monotonic())
    await client.close()


async def publish_jetstream(link: Link, port: int, events: int) -> None:
    """Publishes into a stream on files, with nats-py's default of 4000 unconfirmed messages."""
    client = await _connect(port)
    stream = client.jetstream()
    link.report("ready")
    await link.go()
    began = time.monotonic()
    confirmed = [
        await stream.publish_async(TYPE, PAYLOADS[number % CYCLE]) for number in range(events)
    ]
    acks = await asyncio.gather(*confirmed)
    if [ack.seq for ack in acks] != list(range(1, events + 1)):
        raise CheckError("JetStream confirmed other sequences than 1 and up")
    link.report("done", began=began)
    await client.close()


async def subscribe_jetstream(link: Link, port: int, events: int) -> None:
    """Makes the stream and receives from it with an ordered consumer."""
    client = await _connect(port)
    context = client.jetstream()
    await context.add_stream(StreamConfig(name=_STREAM, subjects=[TYPE], storage=StorageType.FILE))
    expected = Expected(first_sequence=1)
    done = asyncio.get_running_loop().create_future()

    async def take(message: Msg) -> None:
        expected.take([message.data], [message.metadata.sequence.stream])
        if expected.received == events:
            done.set_result(None)

    await context.subscribe(
        TYPE,
        cb=_failing(take, done),
        ordered_consumer=True,
        pending_msgs_limit=_UNLIMITED,
        pending_bytes_limit=_UNLIMITED,
    )
    link.report("ready")
    await done
    link.report("done", ended=time.monotonic())
    await client.close()


async def pull(link: Link, port: int, members: int, credit: int) -> None:
    """Fetches from a durable pull consumer, made if need be, and acknowledges each message.

    Args:
        link: The program that measures.
        port: The server's.
        members: How many fetch, each on a connection of its own.
        credit: How many messages each asks for at once.
    """
    clients = [await _connect(port) for _ in range(members)]
    await (
        clients[0]
        .jetstream()
        .add_stream(StreamConfig(name=_STREAM, subjects=[TYPE], storage=StorageType.FILE))
    )
    config = ConsumerConfig(
        ack_policy=AckPolicy.EXPLICIT, ack_wait=120, max_ack_pending=2 * 8 * credit
    )
    settled: list[int] = []
    ended = 0.0

    async def work(client: Client) -> None:
        nonlocal ended
        subscription = await client.jetstream().pull_subscribe(
            TYPE, durable=_CONSUMER, stream=_STREAM, config=config
        )
        joined.release()
        while True:
            try:
                messages = await subscription.fetch(credit, timeout=_FETCH_SECONDS)
            except TimeoutError:
                continue
            for message in messages:
                sequence = message.metadata.sequence.stream
                if message.data != PAYLOADS[(sequence - 1) % CYCLE]:
                    raise CheckError(f"message {sequence} is another than the one sent")
                await message.ack()
                settled.append(sequence)
            ended = time.monotonic()

    joined = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(work(client)) for client in clients]
    for _ in clients:
        await joined.acquire()
    link.report("ready")
    stop = asyncio.create_task(link.go())
    await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    report_settled(link, settled, ended)


async def watch_pulled(link: Link, port: int, events: int) -> None:
    """Waits until so many messages have been acknowledged."""
    client = await _connect(port)
    context = client.jetstream()
    while True:
        told = await context.consumer_info(_STREAM, _CONSUMER)
        if told.ack_floor is not None and told.ack_floor.stream_seq == events:
            break
        await asyncio.sleep(_LOOK_SECONDS)
    link.report("done")
    await client.close()


async def _connect(port: int) -> Client:
    return await nats.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False)


def _failing(
    take: Callable[[Msg], Awaitable[None]], done: asyncio.Future[None]
) -> Callable[[Msg], Awaitable[None]]:
    """Hands a callback's failure to who waits, for nats-py only logs it."""

    async def guarded(message: Msg) -> None:
        try:
            await take(message)
        except Exception as error:
            if not done.done():
                done.set_exception(error)

    return guarded

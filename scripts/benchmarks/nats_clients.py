"""Workers that use nats-py as an application would; see `scripts.benchmarks.worker`."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import StorageType, StreamConfig

from scripts.benchmarks.load import CYCLE, PAYLOADS, TYPE, CheckError, Expected
from scripts.benchmarks.worker import Link

_STREAM = "bench"
_UNLIMITED = 0


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

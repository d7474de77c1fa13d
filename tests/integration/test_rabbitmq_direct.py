"""Publishing and consuming past the driver."""

import asyncio

import pytest
import uvloop

from switchboard_server.backends.rabbitmq.channel import Channel
from switchboard_server.backends.rabbitmq.encoding import OFFSET
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.topology import STREAM
from switchboard_server.backends.rabbitmq.waiting import UnroutableError
from switchboard_server.core.errors import UnavailableError
from tests.support.brokers import RabbitServer
from tests.support.cluster_logs import a_prefix
from tests.support.rabbit import PATIENCE_SECONDS, until


async def a_channel(rabbit: RabbitServer) -> tuple[Link, Channel, str]:
    link, queue = Link(rabbit.url, "direct"), a_prefix()
    await link.start()
    await link.wait_connected(10)
    channel = await link.channel(confirms=True)
    await channel.declare_queue(queue, {}, exclusive=True, durable=False)
    return link, channel, queue


async def test_messages_come_in_the_order_of_the_calls_whole_and_confirmed(
    rabbit: RabbitServer,
) -> None:
    link, channel, queue = await a_channel(rabbit)
    bodies = [b"%d " % number + b"x" * (number * 3000) for number in range(200)]
    outcomes = [channel.publish("", queue, body, mandatory=True) for body in bodies]
    await asyncio.gather(*outcomes)
    await channel.publish("", queue, b"", mandatory=True)
    arrived: asyncio.Queue[bytes] = asyncio.Queue()
    await channel.consume(queue, lambda message: arrived.put_nowait(message.body), no_ack=True)
    assert [await arrived.get() for _ in range(201)] == [*bodies, b""]
    assert not channel._direct.waiting
    assert not channel._direct._names
    await link.close()


async def test_what_comes_back_is_told_among_what_does_not(rabbit: RabbitServer) -> None:
    link, channel, queue = await a_channel(rabbit)
    outcomes = [
        channel.publish("", queue if number % 2 else "nobody", b"x", mandatory=True)
        for number in range(6)
    ]
    for number, each in enumerate(await asyncio.gather(*outcomes, return_exceptions=True)):
        assert (each is None) if number % 2 else isinstance(each, UnroutableError)
    await link.close()


async def test_what_waits_fails_when_the_channel_ends_and_later_ones_at_once(
    rabbit: RabbitServer,
) -> None:
    link, channel, _ = await a_channel(rabbit)
    waiting = channel.publish("no such exchange", "x", b"x")
    with pytest.raises(UnavailableError):
        await waiting
    await channel.ended.wait()
    with pytest.raises(UnavailableError, match="has ended"):
        await channel.publish("", "x", b"x")
    other = await link.channel(confirms=True)
    waiting = other.publish("", "nobody", b"x" * 10_000_000)
    link.reset("the test says so")
    with pytest.raises(UnavailableError, match="a publish failed"):
        await waiting
    await link.close()


async def test_a_consumer_that_nobody_waits_for_any_more_keeps_nobody_else_from_being_answered(
    rabbit: RabbitServer,
) -> None:
    link, channel, _ = await a_channel(rabbit)
    stream = a_prefix()
    await channel.declare_queue(stream, STREAM)
    await asyncio.gather(*[channel.publish("", stream, b"x") for _ in range(100)])
    for turns in range(12):  # From before it is asked for to after.
        reading = await link.channel(prefetch=100)
        consuming = asyncio.ensure_future(
            reading.consume(stream, lambda _: None, arguments={OFFSET: "first"})
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        consuming.cancel()
        await asyncio.wait([consuming])
        await reading.close()
        await (await link.channel()).close()
    # Each was told that it is closed.
    await until(lambda: list(link._transport.frames.takers) == [channel.raw.number])
    await channel.delete_queue(stream)
    await link.close()


def test_what_is_published_before_the_end_of_the_connection_is_noticed_fails_with_it(
    rabbit: RabbitServer,
) -> None:
    async def scenario() -> None:
        link, channel, queue = await a_channel(rabbit)
        link._transport.abort()
        outcomes = []
        while not channel.ended.is_set():
            outcomes.append(channel.publish("", queue, b"x"))
            await asyncio.sleep(0)
        for each in await asyncio.gather(*outcomes, return_exceptions=True):
            assert isinstance(each, UnavailableError)
        await link.close()

    uvloop.run(scenario())  # As a hub: asyncio's own transports take what they cannot send.


async def test_a_connection_over_which_nothing_but_messages_comes_is_not_given_up(
    rabbit: RabbitServer,
) -> None:
    # While messages flow RabbitMQ sends no heartbeats, and the driver sees neither.
    link, queue = Link(rabbit.url, "busy", heartbeat=1), a_prefix()
    await link.start()
    await link.wait_connected(10)
    channel = await link.channel(confirms=True)
    await channel.declare_queue(queue, {}, exclusive=True, durable=False)
    arrived: asyncio.Queue[bytes] = asyncio.Queue()
    await channel.consume(queue, lambda message: arrived.put_nowait(message.body), no_ack=True)
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < 4:  # One that is silent is given up after 3 s.
        await channel.publish("", queue, b"x", mandatory=True)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await arrived.get()
    assert not channel.ended.is_set()
    await link.close()

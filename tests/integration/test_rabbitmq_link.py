"""A link to RabbitMQ is there again after every outage, and says what is wrong meanwhile."""

import asyncio
import ssl
from pathlib import Path

import pytest

from switchboard_server.backends.rabbitmq import credit
from switchboard_server.backends.rabbitmq.channel import Channel
from switchboard_server.backends.rabbitmq.encoding import Delivery
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.topology import QUORUM, STREAM
from switchboard_server.backends.rabbitmq.waiting import UnroutableError, unavailable
from switchboard_server.core.errors import UnavailableError
from tests.integration.credentials import certify
from tests.support.brokers import RabbitServer
from tests.support.proxy import TcpProxy
from tests.support.rabbit import PATIENCE_SECONDS, Told, fresh_topology, linked, until
from tests.support.servers import free_port


async def a_queue(channel: Channel) -> str:
    """Declares a queue that goes with its connection."""
    name = fresh_topology().log
    await channel.declare_queue(name, {}, durable=False, exclusive=True)
    return name


async def test_a_link_is_up_and_its_channels_carry_messages_in_order(
    rabbit: RabbitServer,
) -> None:
    async with linked(rabbit.url) as link:
        assert (link.connected, link.blocked, link.problem) == (True, False, None)
        channel = await link.channel(confirms=True)
        queue = await a_queue(channel)
        got: list[bytes] = []
        await channel.consume(queue, lambda message: got.append(message.body), no_ack=True)
        bodies = [b"%d" % number for number in range(1000)]
        await asyncio.gather(*[channel.publish("", queue, body) for body in bodies])
        await until(lambda: len(got) == len(bodies))
        assert got == bodies


async def test_what_was_published_can_be_waited_for(rabbit: RabbitServer) -> None:
    async with linked(rabbit.url) as link:
        channel = await link.channel(confirms=True)
        queue = await a_queue(channel)
        for count in (1, 300):  # Few go another way than many.
            outcomes = [channel.publish("", queue, b"x" * 1000) for _ in range(count)]
            await channel.drain(PATIENCE_SECONDS)
            assert all(each.done() and each.exception() is None for each in outcomes)
        await channel.drain(PATIENCE_SECONDS)


async def test_a_message_that_no_queue_takes_comes_back(rabbit: RabbitServer) -> None:
    async with linked(rabbit.url) as link:
        channel = await link.channel(confirms=True)
        queue = await a_queue(channel)
        outcomes = await asyncio.gather(
            *[
                channel.publish("", name, b"x", mandatory=True)
                for name in (queue, "nobody", queue, "nobody either")
            ],
            return_exceptions=True,
        )
        assert [type(each) for each in outcomes] == [
            type(None),
            UnroutableError,
            type(None),
            UnroutableError,
        ]


async def test_a_message_that_a_full_queue_refuses_is_not_confirmed(rabbit: RabbitServer) -> None:
    async with linked(rabbit.url) as link:
        channel = await link.channel(confirms=True)
        queue = fresh_topology().log
        limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
        await channel.declare_queue(queue, limits, durable=False, exclusive=True)
        await channel.publish("", queue, b"x")
        with pytest.raises(UnavailableError, match="refused"):
            await channel.publish("", queue, b"y")


async def test_a_channel_that_the_broker_ends_says_why_and_fails_what_follows(
    rabbit: RabbitServer,
) -> None:
    async with linked(rabbit.url) as link:
        channel = await link.channel(confirms=True)
        heard = asyncio.Event()
        channel.on_end(heard.set)
        with pytest.raises(UnavailableError, match="NOT_FOUND"):
            await channel.declare_queue("nowhere", {}, passive=True)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await heard.wait()
        assert "NOT_FOUND" in channel.reason
        with pytest.raises(UnavailableError, match="NOT_FOUND"):
            await channel.publish("", "anywhere", b"x")
        other = await link.channel(confirms=True)
        await a_queue(other)


async def test_a_consumer_whose_queue_is_deleted_ends_its_channel(rabbit: RabbitServer) -> None:
    async with linked(rabbit.url) as link:
        reading, other = await link.channel(prefetch=1), await link.channel()
        queue = fresh_topology().log
        await other.declare_queue(queue, QUORUM)
        await reading.consume(queue, lambda _: None)
        await other.delete_queue(queue)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await reading.ended.wait()
        assert "consumer" in reading.reason
        await other.delete_queue(queue)


async def test_what_came_from_a_stream_is_acknowledged_soon_though_little_comes(
    rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credit, "ACKNOWLEDGE_SECONDS", 0.1)
    async with linked(rabbit.url) as link:
        channel = await link.channel(prefetch=10, confirms=True)
        queue = fresh_topology().log
        await channel.declare_queue(queue, STREAM)
        got: list[bytes] = []
        acknowledged: list[int] = []
        making_room = credit.Credit(channel, 5)
        acknowledge = channel.acknowledge

        async def note(tag: int, *, multiple: bool = False) -> None:
            acknowledged.append(tag)
            await acknowledge(tag, multiple=multiple)

        monkeypatch.setattr(channel, "acknowledge", note)

        def receive(message: Delivery) -> None:
            got.append(message.body)
            making_room.took(message.tag)

        await channel.consume(queue, receive, arguments={"x-stream-offset": "first"})
        # More than the prefetch, so that room has to be made.
        await asyncio.gather(*[channel.publish("", queue, b"%d" % n) for n in range(23)])
        await until(lambda: len(got) == 23 and acknowledged[-1:] == [23])
        assert acknowledged == [5, 10, 15, 20, 23]
        assert not channel.ended.is_set()
        await channel.delete_queue(queue)


async def test_a_link_that_is_cut_and_one_that_goes_dead_are_made_anew(
    rabbit: RabbitServer,
) -> None:
    async with TcpProxy(rabbit.port) as proxy, linked(rabbit.url_at(proxy.port)) as link:
        told = Told(link)
        await proxy.cut()
        await told.until(True, False)
        await proxy.restore()
        await told.until(True, False, True)
        channel = await link.channel(confirms=True)
        queue = await a_queue(channel)
        began = asyncio.get_running_loop().time()
        proxy.blackhole()
        with pytest.raises(UnavailableError):
            await channel.publish("", queue, b"x")
        await told.until(True, False, True, False)
        # Two heartbeats of five seconds, and not the three of the driver.
        assert asyncio.get_running_loop().time() - began < 15
        await proxy.restore()
        await told.until(True, False, True, False, True)


async def test_the_next_host_is_tried_and_a_link_may_be_closed_while_nobody_answers(
    rabbit: RabbitServer,
) -> None:
    dead = f"amqp://guest:guest@127.0.0.1:{free_port()}/"
    async with linked(f"{dead},{rabbit.url}") as link:
        assert link.connected
    alone = Link(dead, "test")
    await alone.start()
    with pytest.raises(UnavailableError, match="connecting to"):
        await alone.wait_connected(0.5)
    assert "guest" not in str(alone.problem)
    await alone.close()


async def test_wrong_credentials_are_told_and_no_password_is(rabbit: RabbitServer) -> None:
    link = Link(f"amqp://guest:sesame@127.0.0.1:{rabbit.port}/", "test")
    await link.start()
    with pytest.raises(UnavailableError, match="ACCESS_REFUSED") as caught:
        await link.wait_connected(1.0)
    assert "sesame" not in caught.value.message
    await link.close()


async def test_a_virtual_host_that_is_not_there_is_told(rabbit: RabbitServer) -> None:
    link = Link(f"{rabbit.url}nowhere", "test")
    await link.start()
    with pytest.raises(UnavailableError, match="NOT_ALLOWED - vhost nowhere not found") as caught:
        await link.wait_connected(1.0)
    assert caught.value.message.count("RabbitMQ") == 1
    await link.close()


async def test_work_is_done_again_whenever_there_is_a_connection(rabbit: RabbitServer) -> None:
    async with linked(rabbit.url) as link:
        began: asyncio.Queue[Channel] = asyncio.Queue()

        async def work() -> None:
            channel = await link.channel()
            began.put_nowait(channel)
            await channel.ended.wait()
            raise unavailable(channel.reason)

        task = asyncio.create_task(link.keep("a test", work))
        async with asyncio.timeout(PATIENCE_SECONDS):
            first = await began.get()
            await first.close()
            second = await began.get()
            link.reset("the test wants it")
            await second.ended.wait()
            third = await began.get()
        assert not third.ended.is_set()
        task.cancel()
        await asyncio.wait([task])


async def test_a_link_may_be_encrypted_and_trusts_only_who_it_is_told_to(
    rabbit: RabbitServer, tmp_path: Path
) -> None:
    authority = certify(tmp_path, "authority")
    own = certify(tmp_path, "localhost", authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.cert_file, own.key_file)
    passing: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", rabbit.port)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            passing.add(asyncio.create_task(copy(source, target)))

    async with await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"amqps://guest:guest@localhost:{port}/"
        async with linked(f"{url}?cafile={authority.cert_file}") as link:
            channel = await link.channel(confirms=True)
            queue = await a_queue(channel)
            await channel.publish("", queue, b"x", mandatory=True)
        stranger = Link(url, "test")
        await stranger.start()
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.wait_connected(1.0)
        await stranger.close()
    await asyncio.wait(passing)


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Passes bytes on until there are no more."""
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    target.close()

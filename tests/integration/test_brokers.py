"""The servers and the link that the tests of the cluster stand on do what those tests rely on."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import aio_pika
import psutil
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.support.brokers import RabbitServer, RedisServer
from tests.support.proxy import TcpProxy


async def test_a_killed_rabbitmq_comes_back_with_what_it_confirmed(tmp_path: Path) -> None:
    with RabbitServer(tmp_path) as rabbit:
        async with await aio_pika.connect(rabbit.url) as connection:
            channel = await connection.channel()
            await channel.declare_queue("kept", durable=True)
            message = aio_pika.Message(b"hello", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, "kept")
            rabbit.kill()
        assert not processes_of(tmp_path)
        await asyncio.to_thread(rabbit.restart)
        async with await aio_pika.connect(rabbit.url) as connection:
            channel = await connection.channel()
            queue = await channel.get_queue("kept")
            found = await queue.get()
            assert found is not None
            assert found.body == b"hello"
        rabbit.stop()
    assert not processes_of(tmp_path)


def processes_of(folder: Path) -> list[psutil.Process]:
    """The processes that were told of a folder, as all of a server's were."""
    found = []
    for process in psutil.process_iter():
        try:
            # Redis writes its title over its environment, Erlang's helpers work in /.
            if str(folder) in " ".join((process.cwd(), *process.environ().values())):
                found.append(process)
        except psutil.Error:
            continue  # Gone meanwhile, or another user's.
    return found


_STARTER = """
import sys
from pathlib import Path
from tests.support.brokers import RabbitServer, RedisServer

folder = Path(sys.argv[1])
RabbitServer(folder / "rabbitmq").start()
RedisServer(folder / "redis").start()
print("started", flush=True)
sys.stdin.read()
"""


def test_the_servers_die_with_a_process_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _STARTER, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "started\n"
        started = [each for each in processes_of(tmp_path) if each.pid != starter.pid]
        assert {"beam.smp", "epmd", "redis-server"} <= {each.name() for each in started}
        starter.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive


async def test_a_redis_without_a_file_comes_back_empty(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with Redis.from_url(server.url) as client:
            await client.set("key", "value")
        server.restart()
        async with Redis.from_url(server.url) as client:
            assert await client.get("key") is None


async def test_a_redis_with_a_file_comes_back_with_it_unless_told_otherwise(tmp_path: Path) -> None:
    with RedisServer(tmp_path, append_only=True) as server:
        async with Redis.from_url(server.url) as client:
            await client.set("key", "value")
        server.restart()
        async with Redis.from_url(server.url) as client:
            assert await client.get("key") == b"value"
        server.restart(empty=True)
        async with Redis.from_url(server.url) as client:
            assert await client.get("key") is None


async def test_a_frozen_redis_answers_when_it_is_thawed(redis: RedisServer) -> None:
    async with Redis.from_url(redis.url) as client:
        await client.ping()
        redis.freeze()
        asking = asyncio.ensure_future(client.ping())
        await asyncio.wait([asking], timeout=0.1)
        assert not asking.done()
        redis.thaw()
        assert await asking


async def test_a_proxy_cuts_and_restores_a_link(redis: RedisServer) -> None:
    async with (
        TcpProxy(redis.port) as proxy,
        Redis.from_url(redis.url_at(proxy.port), retry=Retry(NoBackoff(), 0)) as client,
    ):
        assert await client.ping()
        await proxy.cut()
        with pytest.raises(RedisConnectionError):
            await client.ping()
        await proxy.restore()
        assert await client.ping()
        assert proxy.connections == 2


async def test_a_proxy_holds_up_what_comes_into_its_black_hole(redis: RedisServer) -> None:
    async with TcpProxy(redis.port) as proxy, Redis.from_url(redis.url_at(proxy.port)) as client:
        assert await client.ping()
        proxy.blackhole()
        asking = asyncio.ensure_future(client.ping())
        await asyncio.wait([asking], timeout=0.1)
        assert not asking.done()
        await proxy.restore()
        assert await asking
        assert proxy.connections == 1


async def test_a_proxy_delays_both_ways(redis: RedisServer) -> None:
    loop = asyncio.get_running_loop()
    async with TcpProxy(redis.port) as proxy, Redis.from_url(redis.url_at(proxy.port)) as client:
        assert await client.ping()
        proxy.delay(0.05)
        before = loop.time()
        assert await client.ping()
        assert loop.time() - before >= 0.1

"""Hubs, the servers behind them, and what can befall each."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.e2e.load import assert_clean
from tests.support.brokers import RabbitServer, RedisServer
from tests.support.hub import HubProcess
from tests.support.proxy import TcpProxy
from tests.support.servers import free_port

LOOK_SECONDS = 0.05
LAST_LINES = 60
"""How much of what each hub has printed is shown where something was found."""
KEEPALIVE = (
    # A frozen hub closes no connection, so its clients ask whether it is there, as often as a hub
    # lets them. Without the last, gRPC waits for a minute: https://github.com/grpc/grpc/pull/32400
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.ping_timeout_ms", 3000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # What was refused is tried again soon, and not after up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Node:
    """A hub that keeps its ports over restarts.

    Args:
        name: What it is called in the table.
        folder: Where it works.
        settings: Its settings, beside its ports.
    """

    def __init__(self, name: str, folder: Path, settings: dict[str, str]) -> None:
        self.name = name
        own = {"GRPC_PORT": str(free_port()), "PORT": str(free_port())}
        self.hub = HubProcess(folder, {**settings, **own})
        self._said: list[str] = []
        self.address = f"127.0.0.1:{own['GRPC_PORT']}"

    async def start(self) -> None:
        """Starts it, and waits until it listens."""
        await asyncio.to_thread(self.hub.start)

    async def kill(self) -> None:
        """Kills it with SIGKILL."""
        await asyncio.to_thread(self.hub.kill)
        self._said += self.hub.output

    def freeze(self) -> None:
        """Stops it in its tracks."""
        self.hub.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        self.hub.process.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """Has it stop, and checks that it does and that it never told of a defect."""
        code = await asyncio.to_thread(self.hub.terminate)
        text = "".join(self._said + self.hub.output)
        assert code == 0, f"{self.name} ended with {code}:\n{text}"
        assert_clean(text)

    @property
    def text(self) -> str:
        """What it has printed, over all its lives."""
        return "".join(self._said + self.hub.output)

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return hasattr(self.hub, "process") and self.hub.process.poll() is None


class Hubs:
    """The hubs, and connections to them.

    Args:
        nodes: The hubs.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes

    def channel(self, number: int) -> grpc.aio.Channel:
        """The connection to a node; numbers go round."""
        return self._channels[number % len(self.nodes)]

    async def serves(self, number: int, service: str) -> bool:
        """Whether a service of a node can be used now, by what the node says of its health."""
        stub = health_pb2_grpc.HealthStub(self.channel(number))
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def until_health(self, service: str, *, serving: bool) -> None:
        """Waits until every node says of a service that it serves, or that it does not."""
        for number in range(len(self.nodes)):
            while await self.serves(number, service) is not serving:  # noqa: ASYNC110 - afar
                await asyncio.sleep(LOOK_SECONDS)

    async def __aenter__(self) -> Self:
        self._channels = [grpc.aio.insecure_channel(each.address, KEEPALIVE) for each in self.nodes]
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))


class Cluster(Hubs):
    """Three hubs over RabbitMQ and Redis; the last one's ways there lead through proxies.

    Args:
        rabbit: The RabbitMQ.
        redis: The Redis.
        rabbit_link: The way of the last hub to RabbitMQ.
        redis_link: Its way to Redis.
        nodes: The hubs.
    """

    def __init__(
        self,
        rabbit: RabbitServer,
        redis: RedisServer,
        rabbit_link: TcpProxy,
        redis_link: TcpProxy,
        nodes: Sequence[Node],
    ) -> None:
        super().__init__(nodes)
        self.rabbit, self.redis = rabbit, redis
        self.rabbit_link, self.redis_link = rabbit_link, redis_link


@asynccontextmanager
async def cluster(folder: Path, settings: dict[str, str] | None = None) -> AsyncIterator[Cluster]:
    """Starts a cluster, and stops it in the end; each hub has to stop when it is asked to."""
    async with AsyncExitStack() as stack:
        rabbit, redis = RabbitServer(folder / "rabbitmq"), RedisServer(folder / "redis")
        for server in (rabbit, redis):
            stack.push_async_callback(asyncio.to_thread, server.kill)
        await asyncio.gather(*(asyncio.to_thread(each.start) for each in (rabbit, redis)))
        rabbit_link = await stack.enter_async_context(TcpProxy(rabbit.port))
        redis_link = await stack.enter_async_context(TcpProxy(redis.port))
        nodes = []
        for number in (1, 2, 3):
            direct = number < 3
            own = {
                "SWITCHBOARD_BACKEND": "cluster",
                "SWITCHBOARD_DATA_DIR": "",  # which counts as none: it keeps nothing
                "RABBITMQ_URL": rabbit.url if direct else rabbit.url_at(rabbit_link.port),
                "REDIS_URL": redis.url if direct else redis.url_at(redis_link.port),
                "SWITCHBOARD_SHUTDOWN_SECONDS": "2",
                **(settings or {}),
            }
            nodes.append(Node(f"hub {number}", folder / f"hub-{number}", own))
        async with (
            running(nodes),
            Cluster(rabbit, redis, rabbit_link, redis_link, nodes) as whole,
        ):
            yield whole


@asynccontextmanager
async def alone(folder: Path, settings: dict[str, str] | None = None) -> AsyncIterator[Hubs]:
    """Starts an embedded hub, and stops it in the end."""
    node = Node("hub", folder, {"SWITCHBOARD_SHUTDOWN_SECONDS": "2", **(settings or {})})
    async with running([node]), Hubs([node]) as whole:
        yield whole


@asynccontextmanager
async def running(nodes: Sequence[Node]) -> AsyncIterator[None]:
    """Starts hubs; in the end they have to stop when they are asked to, if all went well so far."""
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        yield
        for node in nodes:
            await node.stop()
    except BaseException:
        for node in nodes:
            lines = node.text.splitlines()[-LAST_LINES:]
            print(f"--- {node.name}:", *lines, sep="\n  ")
        raise
    finally:
        for node in nodes:
            if node.running:
                await node.kill()

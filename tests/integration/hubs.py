"""Hubs for tests that need one of their own."""

import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc

from tests.integration.client import Client, an_event, texts
from tests.support.brokers import RabbitServer, RedisServer
from tests.support.hub import HubProcess

MEMORY = {"SWITCHBOARD_LOG": "memory"}
"""Settings of a hub whose durability is not the point."""
_DEFECTS = ("Traceback", "never retrieved", "never awaited", "Exception in callback", "incident")


def assert_no_defect(text: str) -> None:
    """Checks that the output of a hub tells of none."""
    assert not [line for line in text.splitlines() if any(word in line for word in _DEFECTS)], text


def connect(
    hub: HubProcess, token: str | None = None, options: Sequence[tuple[str, int]] = ()
) -> Client:
    """A client on a connection of its own, with gRPC's defaults, such as 4 MiB for a response.

    Args:
        hub: Where to.
        token: Sent with every call.
        options: Options of the channel.
    """
    own = ("grpc.use_local_subchannel_pool", 1)
    return Client(grpc.aio.insecure_channel(hub.address, options=[own, *options]), token)


@asynccontextmanager
async def suspected(hub: HubProcess, kind: str) -> AsyncIterator[Client]:
    """A client that may misbehave: another one must be served during and after it.

    Args:
        hub: Where both are connected.
        kind: An event type that nobody else uses.
    """
    bystander = f"{kind}.bystander"
    async with connect(hub) as other, other.subscribe(bystander) as subscriber:
        async with connect(hub) as client:
            yield client
        await other.publish(an_event(bystander, text="all is well"))
        assert texts(await subscriber.events(1)) == ["all is well"]


def cluster_settings(rabbit: RabbitServer, redis: RedisServer) -> dict[str, str]:
    """Settings of the hubs of a cluster that no other test has."""
    return {
        "SWITCHBOARD_BACKEND": "cluster",
        "RABBITMQ_URL": rabbit.url,
        "REDIS_URL": redis.url,
        "MESSAGE_QUEUE_EXCHANGE": f"t{secrets.token_hex(6)}",
    }


@contextmanager
def running(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[HubProcess]:
    """A hub that is killed in the end where it still runs, and that must not show a defect.

    Args:
        folder: Its data folder; another one over the same folder is its restart.
        settings: Its settings.
    """
    with HubProcess(folder, settings) as hub:
        yield hub
    assert_no_defect(hub.text)

"""Hubs for tests that need one of their own."""

import re
import secrets
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import grpc

from switchboard_server.backends.rabbitmq.balance import assign
from switchboard_server.backends.rabbitmq.forwarding import SEAT
from switchboard_server.core.cluster.seats import all_seats
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


@contextmanager
def running_two(folder: Path, settings: Mapping[str, str]) -> Iterator[list[HubProcess]]:
    """Two hubs of a cluster that have their shares of the groups: none moves while both run.

    A group that moves brings what is in flight again, and what is settled then has expired. So a
    hub that has all groups when others come would disturb a test when it makes way, which it does
    after ten seconds, for no better reason than that the machine is slow. One that ends leaves its
    groups at once to those that should have them.

    Args:
        folder: For their data folders.
        settings: Their settings.
    """
    hubs: dict[str, HubProcess] = {}
    with ExitStack() as stack:
        for name in ("first", "a", "b"):
            hub = stack.enter_context(running(folder / name, settings))
            hubs[_name(hub, hubs)] = hub
        hubs.pop(next(iter(hubs))).terminate()
        shares = assign({seat: hubs.keys() for seat in (*all_seats(), SEAT)})
        for node, hub in hubs.items():
            share = {seat for seat, holder in shares.items() if holder == node}
            hub.wait_printed(partial(_holds, share))
        yield list(hubs.values())


def seats_held(text: str) -> set[str]:
    """The seats that a hub holds, by what it has printed."""
    held: set[str] = set()
    for seat, lost in re.findall(r": (\S+) is (?:held here|(not) held here any more)", text):
        (held.discard if lost else held.add)(seat)
    return held


def _holds(share: set[str], text: str) -> bool:
    return seats_held(text) == share


def _name(hub: HubProcess, others: Collection[str]) -> str:
    """The name of the newest node, by what it has printed."""
    found: set[str] = set()

    def named(text: str) -> bool:
        found.update(re.findall(r": node (\S+)\.\w+ is there", text))
        return not found <= set(others)

    hub.wait_printed(named)
    return (found - set(others)).pop()

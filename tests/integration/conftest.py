"""Hubs for the tests of a module, and connections to them for each test."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from itertools import count

import pytest

from tests.integration.client import Client
from tests.integration.hubs import MEMORY, connect, running
from tests.support.brokers import RedisServer
from tests.support.hub import HubProcess

_numbers = count(1)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub that keeps its log in memory, shared by a module; some modules have their own."""
    with running(tmp_path_factory.mktemp("hub"), MEMORY) as hub:
        yield hub


@pytest.fixture
async def client(hub: HubProcess) -> AsyncIterator[Client]:
    """A client of the shared hub."""
    async with connect(hub) as client:
        yield client


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of the module's own, which its tests may kill."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as made:
        yield made


@pytest.fixture
async def clients(hubs: list[HubProcess]) -> AsyncIterator[list[Client]]:
    """A client of each of a module's hubs that runs."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(connect(hub))
            for hub in hubs
            if hub.process.poll() is None
        ]


@pytest.fixture
def kind() -> str:
    """An event type that no other test uses, since the log of the shared hub holds their events."""
    return f"kind{next(_numbers)}"

"""What the conformance tests have in common: time passes when a test says so."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from tests.conformance.backends import BACKENDS, Bench, OpenLog
from tests.support.loop import ManualLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Runs coroutine tests in a loop whose time stands still."""
    return {"manual": ManualLoop}


@pytest.fixture(params=sorted(BACKENDS))
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """A backend."""
    made = Bench(request.param, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def held(bench: Bench) -> OpenLog:
    """A log of it, open and empty."""
    return await bench.open()

"""What the conformance tests have in common: time passes when a test says so."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from tests.conformance.backends import BACKENDS, LOGS, RABBITMQ, Bench, OpenLog
from tests.conformance.group_backends import GROUP_BACKENDS, JOURNAL, JournalBench
from tests.support.loop import ManualLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Runs coroutine tests in a loop whose time stands still."""
    return {"manual": ManualLoop}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs tests of the log over more backends than those of what embedded ones have besides."""
    # A module may have a bench of its own.
    if "bench" in metafunc.fixturenames and not hasattr(metafunc.module, "bench"):
        name = str(metafunc.module.__name__)
        backends = LOGS if ".test_event_log" in name else BACKENDS
        backends = GROUP_BACKENDS if ".test_group_store" in name else backends
        metafunc.parametrize("bench", sorted(backends), indirect=True)


@pytest.fixture
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """A backend."""
    far = request.param in (RABBITMQ, JOURNAL)
    url = request.getfixturevalue("rabbit").url if far else ""
    kind = JournalBench if request.param == JOURNAL else Bench
    made = kind(request.param, tmp_path, url)
    yield made
    await made.close()


@pytest.fixture
async def held(bench: Bench) -> OpenLog:
    """A log of it, open and empty."""
    return await bench.open()

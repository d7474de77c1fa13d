"""What the tests of the core have in common: time passes when a test says so."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.support.loop import ManualLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Runs coroutine tests in a loop whose time stands still."""
    return {"manual": ManualLoop}

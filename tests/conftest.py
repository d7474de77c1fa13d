"""Fixtures that every test may use."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.support.brokers import RabbitServer, RedisServer

# The same examples in every run, so that a failure is the change's and not the day's. Look for new
# ones with: pytest --hypothesis-profile=explore
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    # Without the phase that explains failures, which traces every line and takes minutes for it.
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore",
    settings.get_profile("repeatable"),
    derandomize=False,
    max_examples=2000,
    print_blob=True,
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A RabbitMQ that all tests share; each takes names of its own in it, and leaves it alive."""
    with RabbitServer(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that all tests share; each takes names of its own in it, and leaves it alive."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server

"""What a registry promises whoever asks it, wherever it is kept.

Of one that nodes share, what is asked goes to one node after the other.
"""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from switchboard_server.backends.embedded.registry import MemoryRegistryStore, SqliteRegistryStore
from switchboard_server.backends.redis.registry import RedisRegistry
from switchboard_server.core.errors import AbortedError, AlreadyExistsError, NotFoundError
from switchboard_server.core.registry.model import HealthCheck, RemovalCause, Status
from switchboard_server.core.registry.watching import (
    Compacted,
    Resumed,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPart,
)
from tests.support.brokers import RedisServer
from tests.support.registries import FAILED, OWN_WORD, PASSED, TCP
from tests.support.registry_nodes import REAP, Cluster, Host, LocalHost, a_key, a_prefix, until

SHORT = 1_000_000_000
"""The shortest lease, in nanoseconds."""


class Registries:
    """All ways to one registry.

    Args:
        name: Where it is kept.
        folder: For what is kept in a file.
        url: Where Redis is; empty: not needed.
    """

    def __init__(self, name: str, folder: Path, url: str) -> None:
        self.name = name
        self.hosts: list[Host] = []
        self._folder = folder
        self._cluster = Cluster(url, a_prefix()) if url else None
        self._turn = 0

    async def open(self) -> None:
        if self._cluster is not None:
            await self._cluster.__aenter__()
            self.hosts = [*self._cluster.nodes]
            return
        store = (
            MemoryRegistryStore() if self.name == "memory" else SqliteRegistryStore(self._folder)
        )
        self.hosts = [await LocalHost(store).start()]

    async def close(self) -> None:
        for host in self.hosts:
            await host.stop()

    @property
    def any(self) -> Host:
        """The next one that is asked."""
        self._turn += 1
        return self.hosts[self._turn % len(self.hosts)]

    async def known(self, there: dict[str, Status]) -> None:
        """Waits until it is known everywhere who is there."""
        await until(lambda: all(host.there == there for host in self.hosts))


@pytest.fixture(params=["memory", "redis", "sqlite"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registries]:
    url = ""
    if request.param == RedisRegistry.capabilities.name:
        server: RedisServer = request.getfixturevalue("redis")
        url = server.url
    made = Registries(request.param, tmp_path, url)
    await made.open()
    yield made
    await made.close()


async def test_registering_again_renews_and_replaces(registry: Registries) -> None:
    assert await registry.any.register(1, version="1.0.0")
    await registry.known({"i1": Status.SERVING})
    first = registry.any.entry().instance
    assert not await registry.any.register(1, version="1.0.0")
    # Nothing has changed, so there is no change.
    assert registry.any.entry().instance.revision == first.revision
    assert not await registry.any.register(1, version="1.1.0", zone="z")
    await until(lambda: all(host.entry().instance.spec.zone == "z" for host in registry.hosts))
    again = registry.any.entry().instance
    assert again.revision == first.revision + 1
    assert again.register_time_ns == first.register_time_ns
    assert again.status_time_ns == first.status_time_ns


async def test_an_id_belongs_to_an_address_as_long_as_that_stands(registry: Registries) -> None:
    await registry.any.register(1)
    with pytest.raises(AlreadyExistsError) as caught:
        await registry.any.register(1, host="10.0.0.9")
    assert caught.value.reason == "INSTANCE_CONFLICT"
    assert caught.value.metadata == {"address": "10.0.0.1:1001"}
    await registry.any.deregister()
    assert await registry.any.register(1, host="10.0.0.9")


async def test_a_lease_runs_out_unless_it_is_renewed(registry: Registries) -> None:
    await registry.any.register(1, lease_ns=SHORT)
    began = time.monotonic()
    await registry.any.register(2, lease_ns=60 * SHORT)
    await until(lambda: time.monotonic() > began + 0.6)
    await registry.any.register(1, lease_ns=SHORT)
    await until(lambda: any("i1" not in host.there for host in registry.hosts))
    assert 1.5 < time.monotonic() - began < 4
    await registry.known({"i2": Status.SERVING})
    assert registry.any.changes[-1].cause is RemovalCause.LEASE_EXPIRED


async def test_an_instance_with_a_check_serves_fails_and_is_reaped(
    registry: Registries,
) -> None:
    for host in registry.hosts:
        host.prober.verdict = FAILED
    await registry.any.register(1, check=HealthCheck(TCP.probe, unhealthy_threshold=1))
    await registry.known({"i1": Status.UNHEALTHY})
    for host in registry.hosts:
        host.prober.verdict = PASSED
    await registry.known({"i1": Status.SERVING})
    for host in registry.hosts:
        host.prober.verdict = FAILED
    await registry.known({"i1": Status.UNHEALTHY})
    failed = time.monotonic()
    await registry.known({})
    assert time.monotonic() - failed > REAP - 0.2
    causes = [change.cause for change in registry.any.changes]
    assert causes == [None] * 4 + [RemovalCause.UNHEALTHY]


async def test_what_set_status_says_outweighs_the_check_and_stays(registry: Registries) -> None:
    await registry.any.register(1, check=TCP)
    await registry.known({"i1": Status.SERVING})
    await registry.any.set_status(Status.DRAINING)
    await registry.known({"i1": Status.DRAINING})
    for host in registry.hosts:
        host.prober.verdict = OWN_WORD
        assert host.registry.draining("users/i1")
    await registry.any.register(1, check=TCP, zone="z")
    await until(lambda: all(host.entry().instance.spec.zone == "z" for host in registry.hosts))
    assert registry.any.entry().instance.status is Status.DRAINING
    assert registry.any.entry().instance.status_reason == "so it is"
    await until(lambda: any(host.entry().checked == OWN_WORD for host in registry.hosts))
    await registry.any.set_status(None)
    await registry.known({"i1": Status.NOT_SERVING})
    for host in registry.hosts:
        await until(lambda host=host: host.drains[-1] == ("users/i1", False))  # type: ignore[misc]
        assert host.drains == [("users/i1", True), ("users/i1", False)]


async def test_a_stream_holds_the_lease_and_is_told_the_status(registry: Registries) -> None:
    await registry.any.register(1, lease_ns=2 * SHORT)
    host = registry.any
    lease = await host.hold(1, 1.5)
    standing = await host.run(lease.next())
    assert standing is not None
    assert standing.instance.status is Status.SERVING
    began = time.monotonic()
    for step in range(1, 8):
        await until(lambda step=step: time.monotonic() > began + 0.3 * step)  # type: ignore[misc]
        await host.call(lambda: lease.renew(None))
        assert (await host.run(lease.next())) is not None
    await registry.any.set_status(Status.DRAINING)
    standing = await host.run(lease.next())
    assert standing is not None
    assert standing.instance.status is Status.DRAINING
    await registry.known({"i1": Status.DRAINING})
    broke = time.monotonic()
    await host.let_go(lease, broken=True)
    await registry.known({})
    assert time.monotonic() - broke < 1.0


async def test_another_stream_takes_the_lease_over(registry: Registries) -> None:
    await registry.any.register(1)
    one, other = registry.any, registry.any
    first = await one.hold()
    second = await other.hold()
    with pytest.raises(AbortedError) as caught:
        await one.last_word(first)
    assert caught.value.reason == "LEASE_TAKEN_OVER"
    await one.let_go(first, broken=True)
    await registry.any.deregister()
    with pytest.raises(NotFoundError):
        await other.last_word(second)
    await other.let_go(second)
    with pytest.raises(NotFoundError):
        await registry.any.hold()


async def test_a_watcher_is_shown_what_is_there_and_goes_on_by_revision(
    registry: Registries,
) -> None:
    await registry.any.register(1)
    await registry.known({"i1": Status.SERVING})
    host = registry.any
    revision = host.registry.revision
    watcher = await host.watch()
    assert await host.next(watcher) == SnapshotBegin()
    part = await host.next(watcher)
    assert isinstance(part, SnapshotPart)
    assert [entry.instance.key for entry in part.entries] == [a_key()]
    assert await host.next(watcher) == SnapshotEnd(revision)
    removed = await registry.any.deregister()
    delta = await host.told(watcher)
    assert [(each.revision, each.cause) for each in delta.changes] == [
        (removed, RemovalCause.DEREGISTERED)
    ]
    assert (delta.revision, removed) == (removed, revision + 1)
    await registry.known({})
    resuming = registry.any
    again = await resuming.watch(revision)
    assert await resuming.next(again) == Resumed(revision)
    assert [each.revision for each in (await resuming.told(again)).changes] == [removed]
    future = await resuming.watch(removed + 5)
    assert isinstance(await resuming.next(future), Compacted)
    await host.call(watcher.close)
    for each in (again, future):
        await resuming.call(each.close)


async def test_when_too_many_run_out_at_once_they_stay(registry: Registries) -> None:
    for number in range(1, 11):
        await registry.any.register(number)
    for number in (1, 2, 3):
        host = registry.any
        await host.let_go(await host.hold(number), broken=True)
    # One of ten may go, where it runs out before the others do.
    await until(lambda: all(host.registry.preservation()[1] >= 2 for host in registry.hosts))
    left = len(registry.any.there)
    assert left >= 9
    await until(
        lambda: all(host.registry.stats().unconfirmed == left - 7 for host in registry.hosts)
    )
    assert len(registry.any.serving) == left
    # When enough of them are heard of, the last may go.
    for number in [each for each in (1, 2, 3) if f"i{each}" in registry.any.there][1:]:
        await registry.any.register(number)
    await until(lambda: all(len(host.there) == left - 1 for host in registry.hosts))
    await until(lambda: all(host.registry.preservation()[0] == 0 for host in registry.hosts))
    assert not registry.any.registry.stats().unconfirmed

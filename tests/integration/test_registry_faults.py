"""What a registry over several nodes does when Redis or a node fails: it heals by itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from switchboard_server.core.errors import AbortedError, NotFoundError, UnavailableError
from switchboard_server.core.registry.leases import Lease
from switchboard_server.core.registry.model import HealthCheck, RemovalCause, Status
from switchboard_server.core.registry.watching import Compacted, Resumed
from tests.support.brokers import RedisServer
from tests.support.proxy import TcpProxy
from tests.support.registries import FAILED, OWN_WORD, TCP
from tests.support.registry_nodes import LEASE, Cluster, Node, frozen, until

pytestmark = pytest.mark.faults

FEW = 5
"""Fewer instances than self-preservation concludes anything from."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as made:
        yield made


@pytest.fixture
async def cluster(server: RedisServer) -> AsyncIterator[Cluster]:
    made = Cluster(server.url)
    async with made:
        yield made


async def populate(cluster: Cluster, count: int = FEW) -> dict[int, tuple[Node, Lease]]:
    """Registers instances: the odd ones checked, the even ones held, by node in turn."""
    leases = {}
    for number in range(1, count + 1):
        node = cluster.nodes[number % 3]
        if number % 2:
            await node.register(number, check=TCP)
        else:
            await node.register(number, lease_ns=2_000_000_000)
            leases[number] = node, await node.hold(number)
    await until(lambda: all(len(node.serving) == count for node in cluster.living))
    await cluster.agreed()
    return leases


async def keep(leases: dict[int, tuple[Node, Lease]]) -> None:
    """Sends requests on all streams, until cancelled."""
    while True:
        for node, lease in leases.values():
            if not node.gone and node._thaw is None:
                await node.call(lambda lease=lease: lease.renew(None))  # type: ignore[misc]
        await asyncio.sleep(0.3)


async def without(cluster: Cluster) -> None:
    """Waits until no node can use Redis."""
    await until(lambda: all(node.registry.outage for node in cluster.living))


def told_of(cluster: Cluster) -> list[int]:
    return [len(node.changes) for node in cluster.nodes]


async def test_without_redis_what_is_known_is_told_and_nobody_is_evicted(
    tmp_path: Path,
) -> None:
    with RedisServer(tmp_path / "redis", append_only=True) as server:
        cluster = Cluster(server.url)
        async with cluster as (a, b, c):
            leases = await populate(cluster)
            await c.register(9, lease_ns=2_000_000_000)  # Nothing but the clock keeps it.
            await cluster.agreed()
            known, revision = told_of(cluster), a.registry.revision
            watcher = await b.watch(revision)
            server.kill()
            await without(cluster)
            keeping = asyncio.create_task(keep(leases))
            for node in cluster.nodes:
                with pytest.raises(UnavailableError, match="takes nothing now") as caught:
                    await node.register(10)
                assert caught.value.reason == "REGISTRY_UNAVAILABLE"
                # What it is asked, it answers: it serves.
                assert node.registry.problem is None
            await asyncio.sleep(2.5)  # Longer than any lease.
            assert all(len(node.serving) == FEW + 1 for node in cluster.nodes)
            server.restart()
            healed = await cluster.settled()
            assert healed < 5
            assert all(len(node.there) == FEW + 1 for node in cluster.nodes)
            # Redis had it all on its disk: it goes on with the next revision.
            await a.register(10, lease_ns=60_000_000_000)
            assert a.registry.revision == revision + 1
            assert await b.next(watcher) == Resumed(revision)
            assert [each.key.id for each in (await b.told(watcher)).changes] == ["i10"]
            # And the clock runs on.
            await until(lambda: all("i9" not in node.there for node in cluster.nodes))
            await cluster.agreed()
            assert told_of(cluster) == [count + 2 for count in known]
            keeping.cancel()
            await b.call(watcher.close)


@pytest.mark.parametrize("how", ["killed", "flushed"])
async def test_a_redis_that_comes_back_empty_is_filled_again(
    server: RedisServer, cluster: Cluster, how: str
) -> None:
    a, b, c = cluster.nodes
    leases = await populate(cluster)
    keeping = asyncio.create_task(keep(leases))
    known, revision = told_of(cluster), a.registry.revision
    watcher = await b.watch(revision)
    assert await b.next(watcher) == Resumed(revision)
    if how == "killed":
        server.kill()
        await without(cluster)
        server.restart(empty=True)
    else:
        await a.run(a.link.call("FLUSHALL"))
    await until(lambda: all(node.registry.revision > revision for node in cluster.nodes))
    await cluster.settled()
    await cluster.agreed()
    # Nobody was told of anything: no instance went, or came.
    assert told_of(cluster) == known
    assert all(len(node.serving) == FEW for node in cluster.nodes)
    assert a.registry.revision >= revision + 1_000_000
    # Who resumes from before is told that this is not possible.
    assert isinstance(await b.next(watcher), Compacted)
    resuming = await c.watch(revision)
    assert isinstance(await c.next(resuming), Compacted)
    # Streams hold on, longer than their leases last, and end as before.
    await asyncio.sleep(2.5)
    assert all(len(node.serving) == FEW for node in cluster.nodes)
    keeping.cancel()
    node, lease = leases.pop(2)
    await node.let_go(lease)
    await until(lambda: all("i2" not in each.there for each in cluster.nodes))
    assert await c.register(20)
    await until(lambda: all("i20" in each.serving for each in cluster.nodes))
    await b.call(watcher.close)
    await c.call(resuming.close)


async def test_a_redis_that_comes_back_as_it_was_before_is_put_right(
    server: RedisServer, cluster: Cluster
) -> None:
    a, b, c = cluster.nodes
    for number in (1, 2, 3):
        await a.register(number, check=TCP)
    await until(lambda: all(len(node.serving) == 3 for node in cluster.nodes))
    await a.run(a.link.call("SAVE"))
    # What it has not saved: one is gone, one is new, one drains.
    await b.deregister(1)
    await c.register(4, check=TCP)
    await a.set_status(Status.DRAINING, 2)
    await until(lambda: all(len(node.serving) == 2 for node in cluster.nodes))
    known, revision = told_of(cluster), a.registry.revision
    server.kill()
    await without(cluster)
    server.restart()
    await until(lambda: all(node.registry.revision > revision for node in cluster.nodes))
    await cluster.settled()
    await cluster.agreed()
    assert told_of(cluster) == known
    expected = {"i2": Status.DRAINING, "i3": Status.SERVING, "i4": Status.SERVING}
    assert [node.there for node in cluster.nodes] == [expected] * 3
    late = await cluster.add("late")
    assert late.there == expected


async def test_a_frozen_redis_evicts_nobody_when_it_goes_on(
    server: RedisServer, cluster: Cluster
) -> None:
    leases = await populate(cluster)
    keeping = asyncio.create_task(keep(leases))
    known = told_of(cluster)
    server.freeze()
    await without(cluster)
    await asyncio.sleep(1.5)
    server.thaw()
    await cluster.settled()
    await asyncio.sleep(LEASE)
    await cluster.agreed()
    assert told_of(cluster) == known
    assert all(len(node.serving) == FEW for node in cluster.nodes)
    keeping.cancel()


async def test_what_a_dead_node_held_goes_within_its_lease_unless_it_is_held_elsewhere(
    cluster: Cluster,
) -> None:
    a, b, c = cluster.nodes
    kept, *lost = cluster.checked_by(c, 3)
    for number in (kept, *lost):
        await a.register(number, check=TCP)
        await c.hold(number)
    await cluster.agreed(lambda node: len(node.serving) == 3)
    assert c.owned == c.there.keys()
    began = time.monotonic()
    await c.die()
    moved = await b.hold(kept)
    await until(lambda: all(node.there == {f"i{kept}": Status.SERVING} for node in (a, b)))
    assert time.monotonic() - began < 2 * LEASE + 0.5
    # And what it checked others check.
    await until(lambda: a.owned | b.owned == {f"i{kept}"})
    for node in (a, b):
        node.prober.verdict = OWN_WORD
    await until(lambda: not a.serving and not b.serving)
    await cluster.agreed()
    await b.let_go(moved)
    await until(lambda: not a.there)


async def test_a_node_that_was_frozen_does_no_harm_when_it_wakes(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    check = HealthCheck(TCP.probe, interval_ns=1_000_000_000, unhealthy_threshold=1)
    numbers = [
        number
        for node, count in ((c, 5), (a, 2), (b, 2))
        for number in cluster.checked_by(node, count)
    ]
    for number in numbers:
        await a.register(number, check=check)
    held = numbers[:3]
    taken, left, renewed = [await c.hold(number) for number in held]
    await until(lambda: len(c.owned) == 5 and len(a.serving) == 9)
    await cluster.agreed()
    # Its checks are under way, and will say when it wakes that all of them have failed.
    c.prober.held = True
    probed = len(c.prober.probed)
    await until(lambda: len(c.prober.probed) == probed + 5)
    with frozen(c):
        moved = await b.hold(held[0])
        await until(lambda: len(a.there) == 7)
        await until(lambda: len(a.owned | b.owned) == 7)
        await a.register(held[2], host="10.0.0.9", check=check)
        await until(lambda: len(a.serving) == len(b.serving) == 8)
        before, revision = [len(node.changes) for node in (a, b)], a.registry.revision
        # What it checks anew when it is back passes, which may be at once.
        c.prober.release(FAILED)
    for lease, error in ((taken, AbortedError), (left, NotFoundError), (renewed, NotFoundError)):
        with pytest.raises(error):
            await asyncio.wait_for(c.last_word(lease), 5)
        await c.let_go(lease, broken=True)
    await cluster.settled()
    await cluster.agreed()
    await asyncio.sleep(LEASE)
    await cluster.agreed(lambda node: len(node.serving) == 8)
    # The others were told of nothing that it did.
    assert [len(node.changes) for node in (a, b)] == before
    assert a.registry.revision == revision
    await b.let_go(moved, broken=False)


@pytest.mark.parametrize("how", ["cut", "clogged"])
async def test_a_node_that_cannot_reach_redis_comes_back_to_what_the_others_know(
    server: RedisServer, cluster: Cluster, how: str
) -> None:
    a, b, _ = cluster.nodes
    async with TcpProxy(server.port) as proxy:
        far = await cluster.add("far", server.url_at(proxy.port))
        await cluster.settled()
        await a.register(1)
        lease = await far.hold(1)
        await a.register(2)
        await cluster.agreed()
        if how == "cut":
            await proxy.cut()
        else:
            proxy.blackhole()
        await until(lambda: far.registry.outage is not None)
        # The others cannot tell it from a dead one; it goes on telling what it knows.
        await until(lambda: "i1" not in a.there)
        await b.register(3)
        assert far.serving == ["i1", "i2"]
        with pytest.raises(UnavailableError):
            await far.register(4)
        await proxy.restore()
        await cluster.settled()
        await cluster.agreed()
        assert far.serving == ["i2", "i3"]
        with pytest.raises(NotFoundError):
            await far.last_word(lease)
        await far.let_go(lease)
        await far.stop()


async def test_a_redis_that_takes_no_writes_is_an_outage_for_as_long(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    await a.register(1)
    await cluster.agreed()
    await a.run(a.link.call("CONFIG", "SET", "maxmemory", "1"))
    await without(cluster)
    assert b.serving == ["i1"]
    with pytest.raises(UnavailableError, match="takes nothing now"):
        await b.register(2)
    await a.run(a.link.call("CONFIG", "SET", "maxmemory", "0"))
    await until(lambda: all(node.registry.outage is None for node in cluster.living))
    await b.register(2)
    await cluster.agreed()


async def test_a_node_that_was_cut_off_brings_nothing_back_that_was_removed(
    server: RedisServer, cluster: Cluster
) -> None:
    a = cluster.nodes[0]
    async with TcpProxy(server.port) as proxy:
        far = await cluster.add("far", server.url_at(proxy.port))
        for number in (1, 2):
            await a.register(number, check=TCP)
        await until(lambda: far.serving == ["i1", "i2"])
        await proxy.cut()
        await until(lambda: far.registry.outage is not None)
        revision = await a.deregister(1)
        await until(lambda: all(not {"i1"} & node.there.keys() for node in cluster.nodes[:3]))
        server.restart(empty=True)
        await until(lambda: all(node.registry.revision > revision for node in cluster.nodes[:3]))
        await proxy.restore()
        await cluster.settled()
        await cluster.agreed(lambda node: list(node.there) == ["i2"])
        causes = [change.cause for change in a.changes]
        assert causes.count(RemovalCause.DEREGISTERED) == 1
        await far.stop()


async def test_a_node_that_knows_nothing_is_told_by_one_that_was_cut_off(
    server: RedisServer,
) -> None:
    cluster = Cluster(server.url)
    async with TcpProxy(server.port) as proxy:
        far = await cluster.add("far", server.url_at(proxy.port))
        for number in (1, 2, 3):
            await far.register(number, check=TCP)
        await until(lambda: len(far.serving) == 3)
        known, revision = len(far.changes), far.registry.revision
        await proxy.cut()
        server.restart(empty=True)
        fresh = await cluster.add("fresh")
        assert fresh.there == {}
        await fresh.register(9, check=TCP)
        watcher, early = await fresh.watch(), fresh.registry.revision
        await proxy.restore()
        await cluster.settled()
        await cluster.agreed(lambda node: node.serving == ["i1", "i2", "i3", "i9"])
        assert [change.key.id for change in far.changes[known:]] == ["i9"]
        assert fresh.registry.revision > revision + 1_000_000
        # Who watched all the time knows all in the end, and who comes back begins anew or goes on.
        shown: set[str] = set()
        while shown != {"i1", "i2", "i3", "i9"}:
            item = await fresh.next(watcher)
            shown |= {entry.instance.spec.id for entry in getattr(item, "entries", ())}
            shown |= {change.key.id for change in getattr(item, "changes", ())}
        last = fresh.registry.revision
        for after, kind in ((revision, Compacted), (early, Compacted), (last - 1, Resumed)):
            resuming = await fresh.watch(after)
            assert isinstance(await fresh.next(resuming), kind)
            await fresh.call(resuming.close)
        await fresh.call(watcher.close)
        await far.stop()
        await fresh.stop()


async def test_a_node_whose_link_flickers_is_there_again_each_time(
    server: RedisServer, cluster: Cluster
) -> None:
    a = cluster.nodes[0]
    async with TcpProxy(server.port) as proxy:
        far = await cluster.add("far", server.url_at(proxy.port))
        for number in range(1, 6):
            losses = far.link.losses
            await proxy.cut()
            await proxy.restore()
            await until(lambda losses=losses: far.link.losses > losses)  # type: ignore[misc]
            await cluster.settled()
            await a.register(number, check=TCP)
            await cluster.agreed(lambda node, number=number: f"i{number}" in node.there)  # type: ignore[misc]
        await far.stop()


async def test_a_node_that_starts_without_redis_serves_when_it_comes(
    server: RedisServer, cluster: Cluster
) -> None:
    await cluster.nodes[0].register(1)
    await cluster.agreed()
    server.kill()
    await without(cluster)
    late = await cluster.add("late")
    assert late.registry.problem is not None
    for asking in (lambda: late.serving, late.registry.admit_readers):
        with pytest.raises(UnavailableError, match="does not know the registry yet"):
            asking()
    server.restart(empty=True)
    await until(lambda: late.registry.problem is None)
    await cluster.settled()
    await cluster.agreed(lambda node: node.serving == ["i1"])

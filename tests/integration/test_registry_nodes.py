"""Three nodes with one registry: what is done on one is so on all."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from switchboard_server.core.errors import (
    AbortedError,
    AlreadyExistsError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from switchboard_server.core.registry.entries import Entry
from switchboard_server.core.registry.model import Key, RemovalCause, Status
from switchboard_server.core.registry.sharing import Hold, Judgement, Record
from switchboard_server.core.registry.watching import Compacted, Resumed
from tests.support.brokers import RedisServer
from tests.support.registries import FAILED, OWN_WORD, TCP
from tests.support.registry_nodes import Cluster, Node, until

SOON = 0.25
"""Within so many seconds all nodes know of a change, on a busy machine; alone it takes a few
milliseconds."""


@pytest.fixture
async def cluster(redis: RedisServer) -> AsyncIterator[Cluster]:
    made = Cluster(redis.url)
    async with made:
        yield made


def status(node: Node, number: int = 1) -> Status | None:
    return node.there.get(f"i{number}")


async def test_a_change_on_one_node_is_on_all(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    assert await a.register(1, version="1.2.3", zone="z", metadata={"k": "v"}, weight=3)
    assert await until(lambda: all(node.serving == ["i1"] for node in (a, b, c))) < SOON
    assert b.entry().instance.spec == a.entry().instance.spec
    assert not await b.register(1, version="1.2.4")
    await cluster.agreed()
    await b.run(b.registry.set_status(Key("users", "i1"), Status.DRAINING, "soon"))
    assert await until(lambda: all(status(node) is Status.DRAINING for node in (a, b, c))) < SOON
    assert [node.registry.draining("users/i1") for node in (a, b, c)] == [True] * 3
    assert [node.drains for node in (a, b, c)] == [[("users/i1", True)]] * 3
    await c.set_status(None, 1)
    await c.deregister(1)
    assert await until(lambda: not any(node.there for node in (a, b, c))) < SOON
    await cluster.agreed()
    with pytest.raises(NotFoundError):
        await a.deregister(1)
    changes = [
        [(each.revision, each.previous, each.cause) for each in node.changes]
        for node in a_b_c(cluster)
    ]
    assert changes[0] == changes[1] == changes[2]
    assert len(changes[0]) == 5


def a_b_c(cluster: Cluster) -> list[Node]:
    return cluster.nodes[:3]


async def test_one_of_several_addresses_gets_the_id(cluster: Cluster) -> None:
    outcomes = await asyncio.gather(
        *(
            node.register(1, host=f"10.0.0.{number}", port=number + 1)
            for number in range(9)
            for node in [cluster.nodes[number % 3]]
        ),
        return_exceptions=True,
    )
    assert outcomes.count(True) == 1
    conflicts = [each for each in outcomes if isinstance(each, AlreadyExistsError)]
    assert len(conflicts) == 8
    assert len({each.metadata["address"] for each in conflicts}) == 1


async def test_one_that_is_gone_gives_its_id_to_another_address(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    for node in cluster.nodes:
        node.prober.verdict = FAILED
    await a.register(1, check=TCP)
    lease = await a.hold(1)
    await until(lambda: status(b) is Status.UNHEALTHY)
    assert not await b.register(1, host="10.0.0.9")
    with pytest.raises(AbortedError) as caught:
        await asyncio.wait_for(a.last_word(lease), 5)
    assert caught.value.reason == "LEASE_TAKEN_OVER"


async def test_there_are_no_more_instances_than_may_be(redis: RedisServer) -> None:
    cluster = Cluster(redis.url)
    try:
        a, b = [await cluster.add(name, max_instances=2) for name in "ab"]
        await a.register(1)
        await b.register(2)
        with pytest.raises(ResourceExhaustedError):
            await a.register(3)
        assert not await b.register(1)
    finally:
        for node in cluster.nodes:
            await node.stop()


async def test_a_stream_on_any_node_holds_the_lease(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    await a.register(1, lease_ns=2_000_000_000)
    lease = await b.hold(1, 2.5)
    assert (await b.run(lease.next())) is not None
    await until(lambda: [node.entry().load for node in (a, c)] == [2.5] * 2)
    # It is held for longer than it lasts, and its holder is heard of.
    for _ in range(5):
        await asyncio.sleep(0.5)
        await b.call(lambda: lease.renew(None))
    assert [node.serving for node in (a, b, c)] == [["i1"]] * 3
    assert [node.entry().vital.lease_expire_ns for node in (a, b, c)] == [None] * 3
    began = time.monotonic()
    await b.let_go(lease, broken=True)
    await until(lambda: not any(node.there for node in (a, b, c)))
    assert time.monotonic() - began < 1.0
    assert a.changes[-1].cause is RemovalCause.LEASE_EXPIRED


async def test_a_silent_stream_and_one_that_ends_well_leave_the_lease_to_run_out(
    cluster: Cluster,
) -> None:
    a, b, _ = cluster.nodes
    for number in (1, 2):
        await a.register(number, lease_ns=1_000_000_000)
    silent, ended = await b.hold(1), await b.hold(2)
    began = time.monotonic()
    await b.let_go(ended, broken=False)
    await until(lambda: "i2" not in a.there)
    assert time.monotonic() - began > 0.5
    await until(lambda: not a.there)
    assert time.monotonic() - began < 4
    with pytest.raises(NotFoundError):
        await b.last_word(silent)
    await b.let_go(silent)


async def test_another_stream_takes_the_lease_over_and_the_first_means_nothing_then(
    cluster: Cluster,
) -> None:
    a, b, c = cluster.nodes
    await a.register(1)
    first = await a.hold(1)
    second = await b.hold(1)
    with pytest.raises(AbortedError):
        await a.last_word(first)
    third = await b.hold(1)
    with pytest.raises(AbortedError):
        await b.last_word(second)
    await a.let_go(first, broken=True)
    await b.let_go(second, broken=True)
    await asyncio.sleep(1.2)
    assert [node.serving for node in (a, b, c)] == [["i1"]] * 3
    await c.deregister(1)
    with pytest.raises(NotFoundError):
        await b.last_word(third)
    await b.let_go(third)


async def test_a_watcher_goes_on_at_another_node(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    await a.register(1)
    await cluster.agreed()
    revision = a.registry.revision
    await b.register(2)
    await c.register(3)
    await cluster.agreed()
    late = await cluster.add("late")
    for node in (*a_b_c(cluster), late):
        watcher = await node.watch(revision)
        assert await node.next(watcher) == Resumed(revision)
        delta = await node.told(watcher)
        assert [each.key.id for each in delta.changes] == ["i2", "i3"]
        assert delta.revision == node.registry.revision == revision + 2
        foreign = await node.watch(7)
        item = await node.next(foreign)
        assert isinstance(item, Compacted)
        assert item.oldest <= revision
        await node.call(watcher.close)
        await node.call(foreign.close)


async def test_one_node_checks_an_instance_and_others_take_over(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    numbers = {node: cluster.checked_by(node, 10) for node in (a, b, c)}
    everyone = {f"i{number}" for each in numbers.values() for number in each}
    for number in itertools.chain(*numbers.values()):
        await a.register(number, check=TCP)

    def parted() -> bool:
        sets = [node.owned for node in cluster.living]
        return set().union(*sets) == everyone and sum(map(len, sets)) == 30

    await until(parted)
    await until(lambda: all(len(node.serving) == 30 for node in (a, b, c)))
    before = {node: node.owned for node in (a, b, c)}
    assert before == {node: {f"i{number}" for number in numbers[node]} for node in (a, b, c)}
    await c.stop()
    await until(parted)
    assert all(before[node] <= node.owned for node in (a, b))
    # What they find from now on counts, also of those that were the other's.
    for node in (a, b):
        node.prober.verdict = OWN_WORD
    await until(
        lambda: not any(node.there[each] is Status.SERVING for node in (a, b) for each in everyone)
    )


async def test_who_is_not_in_charge_any_more_is_not_heard(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    await a.register(1, check=TCP)
    await until(lambda: status(a) is Status.SERVING)
    entry: Entry = a.entry()
    birth = next(each.record.birth for each in a.shared())
    judgement = Judgement(Key("users", "i1"), birth, FAILED)
    assert not await a.run(a.store.judge(0, [judgement]))
    unborn = Judgement(Key("users", "i1"), birth - 1, FAILED)
    number = a.registry._inspector._view.number
    assert await a.run(a.store.judge(number, [unborn]))
    assert entry.instance.status is Status.SERVING
    # So that the last line would show it if it had been taken.
    await b.register(2)
    await cluster.agreed()
    assert status(a) is Status.SERVING


async def test_a_stream_holds_on_to_what_it_held_and_to_nothing_else(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    await a.register(1, lease_ns=60_000_000_000)
    await a.hold(1)
    record = a.shared()[0].record

    async def again(tokens: list[str], birth: int) -> Record | None:
        hold = Hold(tokens, birth)
        return await a.run(a.store.hold(record.instance.key, a.store.token(), hold))

    assert await again(["other"], record.birth) is None
    held = await again(["other", record.holder], record.birth)
    assert held is not None
    assert held.holder not in {"", record.holder}
    # Whoever stands under the id now, nobody holds it yet.
    await b.deregister(1)
    await b.register(1, lease_ns=60_000_000_000)
    assert await again([held.holder], record.birth) is None
    await cluster.agreed()
    assert await again([], a.shared()[0].record.birth) is not None


async def test_what_arrives_when_it_was_given_up_is_not_done(cluster: Cluster) -> None:
    a, b, _ = cluster.nodes
    await a.register(1, check=TCP)
    await until(lambda: a.serving == ["i1"])
    # As where a network holds it up for longer than anybody waits.
    patience, a.store._timeout = a.store._timeout, -1.0
    for refused in (a.deregister(1), a.set_status(Status.DRAINING), a.hold(1), a.register(2)):
        with pytest.raises(UnavailableError, match="too late"):
            await refused
    a.store._timeout = patience
    await b.register(3, check=TCP)
    await cluster.agreed(lambda node: node.serving == ["i1", "i3"])
    await a.deregister(1)


async def test_unhealthy_instances_are_reaped_once(cluster: Cluster) -> None:
    a, _, _ = cluster.nodes
    for number in range(1, 5):
        await a.register(number, check=TCP)
    await until(lambda: all(len(node.serving) == 4 for node in cluster.nodes))
    for node in cluster.nodes:
        node.prober.verdicts[1001] = FAILED
        # One that says so itself is not reaped.
        node.prober.verdicts[1002] = OWN_WORD
    await until(lambda: all(sorted(node.there) == ["i2", "i3", "i4"] for node in cluster.nodes))
    await cluster.agreed()
    assert [status(node, 2) for node in cluster.nodes] == [Status.NOT_SERVING] * 3
    for node in cluster.nodes:
        causes = [change.cause for change in node.changes if change.key.id == "i1"]
        assert causes.count(RemovalCause.UNHEALTHY) == 1
    await until(lambda: any(what == "UNHEALTHY" for _, what, _ in cluster.paper.events))


async def test_self_preservation_is_judged_over_all_nodes(cluster: Cluster) -> None:
    leases = {}
    for number in range(1, 21):
        node = cluster.nodes[number % 3]
        await node.register(number)
        leases[number] = node, await node.hold(number)
    await cluster.agreed()
    # Two on each node, which is few there, and too many of all.
    for number in range(1, 7):
        node, lease = leases.pop(number)
        await node.let_go(lease)
    # Three of twenty may go, where they run out before the others do.
    await until(lambda: all(node.registry.preservation()[1] >= 3 for node in cluster.nodes))
    left = sorted(cluster.nodes[0].there)
    assert len(left) >= 17
    await until(
        lambda: all(node.registry.stats().unconfirmed == len(left) - 14 for node in cluster.nodes)
    )
    assert all(node.serving == left for node in cluster.nodes)
    # All but one are heard of again, on other nodes: then that may go.
    lost = [number for number in range(1, 7) if f"i{number}" in left]
    for number in lost[1:]:
        node = cluster.nodes[(number + 1) % 3]
        leases[number] = node, await node.hold(number)
    await until(lambda: all(len(node.there) == len(left) - 1 for node in cluster.nodes))
    await until(lambda: all(node.registry.preservation()[0] == 0 for node in cluster.nodes))
    assert all(not node.registry.stats().unconfirmed for node in cluster.nodes)
    for node, lease in leases.values():
        await node.let_go(lease, broken=False)


async def test_each_change_is_announced_once_and_in_order(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    first = a.registry.revision + 1
    for number in range(1, 11):
        await cluster.nodes[number % 3].register(number)
    await c.stop()
    await cluster.settled()
    for number in range(11, 21):
        await cluster.nodes[number % 2].register(number)
    await b.stop()
    await cluster.settled()
    for number in range(1, 21):
        await a.deregister(number)
    await until(lambda: len(cluster.paper.events) == 40)
    revisions = [revision for revision, _, _ in cluster.paper.events]
    assert revisions == list(range(first, first + 40))
    assert all(one <= other for one, other in pairwise(revisions))

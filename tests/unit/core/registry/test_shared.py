"""The registry that nodes share: what each of them knows, and what becomes of a write."""

import asyncio

import pytest

from switchboard_server.core.errors import (
    AlreadyExistsError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from switchboard_server.core.registry.discovery import Selection
from switchboard_server.core.registry.limits import RegistryLimits
from switchboard_server.core.registry.model import Change, RemovalCause, Status
from switchboard_server.core.registry.overview import ServicesQuery
from switchboard_server.core.registry.ownership import in_charge
from switchboard_server.core.registry.reaching import REACH_SECONDS
from switchboard_server.core.registry.shared import ANNOUNCING
from switchboard_server.core.registry.sharing import SharedStore
from switchboard_server.core.registry.watching import (
    Compacted,
    Delta,
    Item,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPart,
    Watcher,
)
from tests.support.loop import passing, turns
from tests.support.registries import PASSED, TCP, a_registration
from tests.support.shared_registry import MemoryStore, Place, SharingNode, a_key, sharing


def problem_of(node: SharingNode) -> str | None:
    return node.registry.problem


async def told(watcher: Watcher) -> Item:
    """What a watcher is told next, without time passing."""
    telling = asyncio.ensure_future(watcher.next())
    await turns()
    assert telling.done()
    return telling.result()


async def begun(node: SharingNode) -> Watcher:
    """A watcher that has had its snapshot."""
    watcher = node.registry.watch([], all_statuses=True)
    while not isinstance(await told(watcher), SnapshotEnd):
        pass
    return watcher


async def test_what_is_written_through_one_node_is_known_to_all() -> None:
    async with sharing(3) as nodes:
        one, two, three = nodes.nodes
        await one.register(1)
        # Whoever wrote knows it when the write is answered.
        assert one.there == {"i1": Status.SERVING}
        await turns()
        assert two.there == three.there == one.there
        await two.registry.set_status(a_key(), Status.DRAINING, "soon")
        await turns()
        assert one.registry.draining("users/i1")
        assert one.entry().instance.status_reason == "soon"
        revision = await three.registry.deregister(a_key())
        await turns()
        assert [node.there for node in nodes.nodes] == [{}] * 3
        assert {node.registry.revision for node in nodes.nodes} == {revision}
        assert revision == 3


async def test_the_place_decides_whatever_a_node_knows() -> None:
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        small = await nodes.add("small", RegistryLimits(max_instances=1))
        two.store.deaf = True
        await one.register(1)
        assert two.there == {}
        with pytest.raises(AlreadyExistsError):
            await two.register(1, host="10.0.0.9")
        with pytest.raises(ResourceExhaustedError):
            await small.register(2)
        with pytest.raises(NotFoundError):
            await one.registry.deregister(a_key(7))
        with pytest.raises(NotFoundError):
            await one.registry.set_status(a_key(7), None, "")
        with pytest.raises(NotFoundError):
            await one.registry.keep_alive(a_key(7), None)


async def test_a_node_that_hears_late_answers_a_write_all_the_same() -> None:
    async with sharing(2) as nodes:
        one, _ = nodes.nodes
        one.store.deaf = True
        registering = asyncio.ensure_future(one.register(1))
        await passing(REACH_SECONDS / 2)
        assert not registering.done()
        await passing(REACH_SECONDS)
        assert registering.result().instance.spec.id == "i1"
        assert one.there == {}
        one.store.listen()
        assert one.there == {"i1": Status.SERVING}


async def test_a_renewal_that_changes_nothing_makes_no_change_and_moves_the_lease() -> None:
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        await one.register(1, lease_ns=10_000_000_000)
        await turns()
        before = two.entry().lease_expire_ns
        changes: list[Change] = []
        two.registry.on_change(changes.append)
        await passing(4)
        await one.register(1, lease_ns=10_000_000_000)
        await turns()
        assert changes == []
        assert two.entry().lease_expire_ns == before + 4_000_000_000
        await passing(9)
        assert two.there == {"i1": Status.SERVING}
        await passing(1)
        assert two.there == {}
        assert [change.cause for change in changes] == [RemovalCause.LEASE_EXPIRED]


async def test_news_that_come_late_put_nothing_back() -> None:
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        await one.register(1)
        await turns()
        entry = two.entry()
        stale = entry.known()
        await one.registry.set_status(a_key(), Status.DRAINING, "soon")
        await turns()
        two.registry.touched(stale)
        two.registry.renewed(a_key(), 1, stale.stamp)
        two.registry.renewed(a_key(9), 1, 99)
        assert (entry.instance.status, entry.lease_expire_ns) == (
            Status.DRAINING,
            one.entry().lease_expire_ns,
        )


async def test_a_node_that_cannot_reach_the_place_answers_what_is_asked_and_refuses_writes() -> (
    None
):
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        await one.register(1)
        await turns()
        two.store.cut("no route")
        assert (two.registry.problem, two.registry.outage) == (None, "no route")
        assert not two.registry.stats().writable
        assert len(two.registry.discover(Selection("users")).entries) == 1
        for write in (
            two.register(2),
            two.registry.deregister(a_key()),
            two.registry.set_status(a_key(), Status.DRAINING, ""),
            two.registry.keep_alive(a_key(), None),
        ):
            with pytest.raises(UnavailableError) as caught:
                await write
            assert caught.value.reason == "REGISTRY_UNAVAILABLE"
        two.store.mend()
        assert two.registry.stats().writable
        await two.register(2)
        await turns()
        assert one.there == two.there == {"i1": Status.SERVING, "i2": Status.SERVING}


async def test_a_node_that_never_knew_the_registry_refuses_readers_until_it_does() -> None:
    async with sharing(1) as nodes:
        await nodes.nodes[0].register(1)
        late = SharingNode(nodes.place, "late")
        nodes.nodes.append(late)
        late.store.problem = "no route"
        await late.registry.open(late.publish)
        assert problem_of(late) == "no route"
        for ask in (
            lambda: late.registry.discover(Selection("users")),
            lambda: late.registry.list_services(ServicesQuery(), lambda _: 1),
            lambda: late.registry.watch([]),
            late.registry.admit_readers,
        ):
            with pytest.raises(UnavailableError, match="no route"):
                ask()
        with pytest.raises(UnavailableError):
            await late.register(2)
        late.registry.availability.clear()
        late.store.mend()
        assert problem_of(late) is None
        assert late.registry.availability.is_set()
        assert len(late.registry.discover(Selection("users")).entries) == 1
        page = late.registry.list_services(ServicesQuery(), lambda _: 1)
        assert [each.name for each in page.services] == ["users"]


async def test_who_comes_late_knows_what_changed_before() -> None:
    async with sharing(1) as nodes:
        await nodes.nodes[0].register(1)
        await nodes.nodes[0].registry.set_status(a_key(), Status.DRAINING, "")
        late = await nodes.add("late")
        watcher = late.registry.watch([], after=1, all_statuses=True)
        await told(watcher)
        delta = await told(watcher)
        assert isinstance(delta, Delta)
        assert [(each.revision, each.previous) for each in delta.changes] == [(2, Status.SERVING)]


async def test_watchers_begin_anew_where_changes_were_missed() -> None:
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        await one.register(1)
        await one.register(2)
        await turns()
        watcher = await begun(two)
        changes: list[Change] = []
        drains: list[tuple[str, bool]] = []
        two.registry.on_change(changes.append)
        two.registry.on_draining(lambda name, drains_now: drains.append((name, drains_now)))
        two.store.cut()
        await one.register(3)
        await one.registry.deregister(a_key(1))
        await one.registry.set_status(a_key(2), Status.DRAINING, "")
        two.store.mend()
        assert isinstance(await told(watcher), Compacted)
        assert isinstance(await told(watcher), SnapshotBegin)
        part = await told(watcher)
        assert isinstance(part, SnapshotPart)
        # Whoever goes by how things are is told only what is another than before.
        assert sorted((each.key.id, each.cause) for each in changes) == [
            ("i1", RemovalCause.LEASE_EXPIRED),
            ("i2", None),
            ("i3", None),
        ]
        assert drains == [("users/i2", True)]
        assert two.there == one.there


async def test_a_jump_of_the_revision_has_watchers_begin_anew() -> None:
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        await one.register(1)
        await turns()
        watcher = await begun(two)
        nodes.place.directory.revision += 1000
        await one.register(2)
        await turns()
        assert isinstance(await told(watcher), Compacted)
        assert two.registry.revision == 1002
        assert two.there == one.there


async def test_one_node_announces_each_change_once_and_another_goes_on_after_it() -> None:
    async with sharing(3) as nodes:
        names = [node.store.node for node in nodes.nodes]
        first = next(
            node for node in nodes.nodes if node.store.node == in_charge(ANNOUNCING, names)
        )
        others = [node for node in nodes.nodes if node is not first]
        await others[0].register(1)
        await others[1].register(2)
        await turns()
        assert [node.printed for node in others] == [[], []]
        assert first.printed == [1, 2]
        assert (first.registry.announced(), others[0].registry.announced()) == (2, None)
        first.store.beat()
        await first.close()
        await turns()
        await others[0].register(3)
        await turns()
        assert sorted(node.printed for node in others) == [[], [3]]


async def test_a_node_that_may_be_cut_off_announces_nothing() -> None:
    async with sharing(1) as nodes:
        node = nodes.nodes[0]
        node.store.deaf = True
        registering = asyncio.ensure_future(node.register(1))
        await turns()
        node.store.cut()
        node.store.listen()
        await registering
        await turns()
        assert node.there == {"i1": Status.SERVING}
        assert node.printed == []
        node.store.mend()
        await passing(1)
        assert node.printed == [1]


async def test_a_node_that_another_relieves_announces_no_more() -> None:
    async with sharing(1) as nodes:
        node = nodes.nodes[0]
        await node.register(1)
        await turns()
        node.store.beat()
        number = 0
        while in_charge(ANNOUNCING, nodes.place.view.nodes) == node.store.node:
            number += 1
            await nodes.add(f"m{number}")
        assert node.registry.announced() is None
        relief = nodes.nodes[-1]
        await node.register(2)
        await turns()
        assert node.printed == [1]
        assert relief.printed == [2]


async def test_a_node_knows_what_it_can_put_back_its_own_first() -> None:
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        for number in range(1, 9):
            await one.register(number, check=TCP)
        await one.register(9)
        await one.register(10)
        lease = await one.registry.keep_alive(a_key(10), None)
        await one.registry.deregister(a_key(9))
        await turns()
        known, other = one.registry.knowledge(), two.registry.knowledge()
        assert known.records[0].instance.key == a_key(10)
        owned = [each.instance.key for each in known.records[1 : known.own]]
        assert owned
        # Each that is checked is one node's own.
        assert sorted([*owned, *(each.instance.key for each in other.records[: other.own])]) == (
            sorted(map(a_key, range(1, 9)))
        )
        assert len(known.records) == len(other.records) == 9
        assert list(known.removed) == [a_key(9)]
        assert known.oldest == 0
        one.registry.let_go(lease, broken=False)


async def test_that_eviction_is_withheld_is_shown_on_every_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        for number in range(1, 21):
            await one.register(number, lease_ns=10_000_000_000)
        await passing(11)
        assert len(two.there) == 20
        since, count, registered = two.registry.preservation()
        assert (since > 0, count, registered) == (True, 20, 20)
        assert two.registry.stats().preserving
        assert two.registry.stats().unconfirmed == 20
        for number in range(1, 21):
            await one.register(number, lease_ns=10_000_000_000)
        await passing(1)
        assert two.registry.preservation() == (0, 0, 20)
        assert two.registry.stats().unconfirmed == 0
    texts = [record.message for record in caplog.records]
    assert texts.count("too many instances run out at once: none is removed") == 2
    assert texts.count("instances that run out are removed again") == 2


async def test_loads_are_known_where_the_stream_is_and_elsewhere() -> None:
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        await one.register(1)
        lease = await one.registry.keep_alive(a_key(), 0.25)
        await passing(1)
        assert (one.entry().load, two.entry().load) == (0.25, 0.25)
        lease.renew(0.5)
        assert one.entry().load == 0.5
        # What others say does not outweigh what the stream itself says, nor is it told of nobody.
        one.registry.loads({a_key(): 0.1, a_key(9): 0.1})
        assert one.entry().load == 0.5
        await passing(1)
        assert two.entry().load == 0.5
        assert len(one.store.reports) == 2
        one.registry.let_go(lease, broken=False)


async def test_a_hub_that_shuts_down_takes_nothing_and_lets_leases_run_on() -> None:
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        await one.register(1, lease_ns=10_000_000_000)
        lease = await one.registry.keep_alive(a_key(), None)
        await lease.next()
        await turns()
        await one.registry.begin_shutdown()
        with pytest.raises(UnavailableError) as caught:
            await lease.next()
        assert caught.value.reason == "SHUTTING_DOWN"
        one.registry.let_go(lease, broken=True)
        with pytest.raises(UnavailableError):
            await one.register(2)
        await one.registry.close()
        await passing(9)
        assert two.there == {"i1": Status.SERVING}
        await passing(1)
        assert two.there == {}


async def test_what_admits_a_check_is_asked_before_anything_is_written() -> None:
    async with sharing(1) as nodes:
        node = nodes.nodes[0]
        node.prober.refusal = UnavailableError("NOT_NOW", "not now")
        with pytest.raises(UnavailableError, match="not now"):
            await node.register(1, check=TCP)
        assert node.there == {}
        node.prober.refusal = None
        entry = await node.register(1, check=TCP)
        await turns()
        assert node.entry().checked == PASSED
        assert entry is node.entry()


async def test_the_store_in_memory_is_one() -> None:
    store: SharedStore = MemoryStore(Place(), "n0")
    assert (store.node, store.alive) == ("n0", True)
    with pytest.raises(NotFoundError):
        await store.remove(a_registration().key)

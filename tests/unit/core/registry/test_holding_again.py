"""KeepAlive streams where nodes share the registry: what they hold after an end or an absence."""

import asyncio

import pytest

from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.registry.directory import BROKEN_SECONDS
from switchboard_server.core.registry.model import DEFAULT_LEASE_NS, HealthCheck, Status
from switchboard_server.core.registry.reaching import REACH_SECONDS
from tests.support.held_leases import LEASE, LEASE_NS, THERE, held, reason_of
from tests.support.loop import passing, turns
from tests.support.registries import FAILED, PASSED, TCP
from tests.support.shared_registry import Sharing, SharingNode, a_key, sharing

FRAIL = HealthCheck(TCP.probe, interval_ns=1_000_000_000, unhealthy_threshold=1)
"""A check that is believed at once."""


async def fail(nodes: Sharing, node: SharingNode) -> None:
    """Has the check of the instance fail, so that its id is free for another address."""
    for each in nodes.nodes:
        each.prober.verdict = FAILED
    await passing(2)
    assert node.there == {"i1": Status.UNHEALTHY}
    for each in nodes.nodes:
        each.prober.verdict = PASSED


async def test_the_lease_of_a_stream_that_ended_runs_on_from_its_last_word() -> None:
    async with held() as (_, one, two, lease):
        await passing(4)
        one.registry.let_go(lease, broken=False)
        await turns()
        await passing(LEASE - 4.1)
        assert two.there == THERE
        await passing(0.1)
        assert two.there == {}


async def test_a_stream_elsewhere_takes_the_lease_over() -> None:
    async with held() as (_, one, two, lease):
        other = await two.registry.keep_alive(a_key(), None)
        await turns()
        assert await reason_of(lease) == "LEASE_TAKEN_OVER"
        # What the first one says in the end does not concern the second.
        one.registry.let_go(lease, broken=True)
        await turns()
        await passing(BROKEN_SECONDS)
        assert one.there == two.there == THERE
        assert one.entry().holder == two.entry().record.holder != ""
        two.registry.let_go(other, broken=True)
        await turns()
        await passing(BROKEN_SECONDS)
        assert one.there == two.there == {}


async def test_a_stream_does_not_hold_what_stands_at_another_address_now() -> None:
    async with held(check=FRAIL) as (nodes, one, two, lease):
        await fail(nodes, one)
        await two.register(1, host="10.0.0.9", lease_ns=LEASE_NS)
        await turns()
        assert await reason_of(lease) == "LEASE_TAKEN_OVER"
        assert one.entry().holder is None
        one.registry.let_go(lease, broken=True)
        await turns()
        await passing(BROKEN_SECONDS)
        assert two.there == THERE
        assert two.entry().instance.spec.host == "10.0.0.9"


async def test_a_node_that_hears_late_does_not_hold_what_stands_at_another_address_now() -> None:
    async with held(check=FRAIL) as (nodes, one, two, lease):
        await fail(nodes, one)
        one.store.deaf = True
        nodes.place.bury(one.store)
        await two.register(1, host="10.0.0.9", check=FRAIL)
        nodes.place.join(one.store)
        # It does not know yet, and asks to hold again.
        one.registry.joined()
        await turns()
        assert await reason_of(lease) == "LEASE_TAKEN_OVER"
        one.registry.let_go(lease, broken=True)
        one.store.listen()
        await turns()
        # Only its check decides about the new one, as it registered.
        await passing(LEASE + 1)
        assert one.there == two.there == THERE
        assert (two.entry().record.holder, two.entry().leased) == ("", False)


async def test_a_node_that_hears_late_does_not_hold_what_registered_anew() -> None:
    async with held() as (nodes, one, two, lease):
        one.store.deaf = True
        nodes.place.bury(one.store)
        await two.registry.deregister(a_key())
        await two.register(1, host="10.0.0.9", lease_ns=LEASE_NS)
        nodes.place.join(one.store)
        one.registry.joined()
        await turns()
        assert lease.ended
        one.registry.let_go(lease, broken=True)
        one.store.listen()
        await turns()
        assert two.entry().record.holder == ""
        await passing(LEASE - 0.1)
        assert two.there == THERE
        await passing(0.1)
        assert two.there == {}


async def test_a_stream_does_not_hold_what_moved_while_its_node_was_cut_off() -> None:
    async with held() as (_, one, two, lease):
        one.store.cut()
        await two.registry.deregister(a_key())
        await two.register(1, host="10.0.0.9", lease_ns=LEASE_NS)
        one.store.mend()
        await turns()
        assert await reason_of(lease) == "LEASE_TAKEN_OVER"
        assert one.entry().instance.spec.host == "10.0.0.9"
        assert one.entry().record.holder == two.entry().record.holder == ""


async def test_a_stream_holds_on_where_its_instance_came_back_to_its_address() -> None:
    async with held() as (_, one, two, lease):
        one.store.cut()
        await two.registry.deregister(a_key())
        await two.register(1, lease_ns=LEASE_NS)
        one.store.mend()
        await turns()
        assert one.entry().holder is lease
        assert two.entry().record.holder != ""
        assert not lease.ended


async def test_a_node_that_hears_late_lets_no_stream_hold_what_it_does_not_know() -> None:
    async with held() as (_, one, two, lease):
        one.store.deaf = True
        await two.registry.deregister(a_key())
        await two.register(1, lease_ns=LEASE_NS)
        # It would take it for the one that it knows, and let go when it hears that this is gone.
        holding = asyncio.ensure_future(one.registry.keep_alive(a_key(), None))
        await turns()
        await passing(REACH_SECONDS)
        with pytest.raises(UnavailableError, match="lags behind"):
            await holding
        one.store.listen()
        await turns()
        assert await reason_of(lease) == "INSTANCE_NOT_FOUND"
        assert one.there == two.there == THERE
        assert two.entry().record.holder == ""


async def test_streams_of_a_node_that_was_taken_for_dead_hold_again_with_new_tokens() -> None:
    async with held() as (nodes, one, two, lease):
        lease.renew(0.5)
        await passing(1)
        void = two.entry().record.holder
        one.store.cut()
        nodes.place.bury(one.store)
        await turns()
        assert two.entry().vital.lease_expire_ns is not None
        two.entry().load = None
        one.store.mend()
        await passing(1)
        assert two.entry().record.holder not in {"", void}
        # Those who were told nothing meanwhile are told what load it reported.
        assert two.entry().load == 0.5
        for _ in range(3):
            await passing(LEASE - 3)
            lease.renew(None)
        assert two.there == THERE
        assert not lease.ended


async def test_a_stream_that_began_while_its_node_was_taken_for_dead_holds_nothing() -> None:
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        await one.register(1, lease_ns=LEASE_NS)
        one.store.held = one.store.deaf = True
        holding = asyncio.ensure_future(one.registry.keep_alive(a_key(), None))
        await turns()
        void = two.entry().record.holder
        assert void != ""
        nodes.place.bury(one.store)
        nodes.place.join(one.store)
        one.registry.joined()
        one.store.release()
        # Its token says that a node holds which is gone; nobody would free it when this one dies.
        with pytest.raises(UnavailableError, match="took this one for dead"):
            await holding
        one.store.listen()
        await turns()
        assert two.entry().record.holder == ""
        assert one.there == two.there == THERE


async def test_a_node_that_does_not_know_the_instance_yet_holds_nothing() -> None:
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        one.store.deaf = True
        await two.register(1, lease_ns=LEASE_NS)
        holding = asyncio.ensure_future(one.registry.keep_alive(a_key(), None))
        await turns()
        assert two.entry().record.holder != ""
        await passing(REACH_SECONDS)
        with pytest.raises(UnavailableError, match="lags behind"):
            await holding
        await turns()
        # And it does not go on holding it, either, but leaves it time to be held elsewhere.
        assert two.entry().record.holder == ""
        await passing(LEASE)
        assert two.there == THERE
        one.store.listen()
        assert one.there == THERE
        await passing(DEFAULT_LEASE_NS / 1e9 - LEASE)
        assert one.there == two.there == {}


async def test_a_stream_that_ends_while_it_holds_anew_is_let_go() -> None:
    async with held() as (nodes, one, two, lease):
        one.store.cut()
        nodes.place.bury(one.store)
        one.store.held = True
        one.store.mend()
        await turns()
        assert two.entry().record.holder != ""
        one.registry.let_go(lease, broken=True)
        one.store.release()
        await turns()
        assert two.entry().record.holder == ""
        await passing(BROKEN_SECONDS)
        assert two.there == {}

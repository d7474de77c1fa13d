"""KeepAlive streams where nodes share the registry: who holds a lease, and what ends that."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from switchboard_server.core.errors import AbortedError, NotFoundError, UnavailableError
from switchboard_server.core.registry.directory import BROKEN_SECONDS
from switchboard_server.core.registry.leases import Lease
from switchboard_server.core.registry.model import Status
from switchboard_server.core.registry.sweeping import ASLEEP_SECONDS, AWAKE_SECONDS
from tests.support.held_leases import LEASE, LEASE_NS, THERE, held, reason_of
from tests.support.loop import passing, turns
from tests.support.registries import a_spec
from tests.support.shared_registry import SharingNode, a_key, sharing


@asynccontextmanager
async def unanswered() -> AsyncIterator[tuple[SharingNode, SharingNode, asyncio.Future[Lease]]]:
    """Two nodes, and a hold of the first one that is done and not answered yet."""
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        await one.register(1, lease_ns=LEASE_NS)
        await turns()
        one.store.held = True
        holding = asyncio.ensure_future(one.registry.keep_alive(a_key(), None))
        await turns()
        yield one, two, holding


async def test_a_stream_that_speaks_holds_the_lease_and_writes_nothing() -> None:
    async with held() as (nodes, one, two, lease):
        stamp = nodes.place.record(nodes.place.directory.get(a_key())).stamp
        for _ in range(5):
            await passing(LEASE - 1)
            lease.renew(None)
        assert two.there == THERE
        assert nodes.place.record(nodes.place.directory.get(a_key())).stamp == stamp
        # Elsewhere one knows that it is held, and so does who asks when the lease ends.
        assert two.entry().vital.lease_expire_ns is None
        assert one.entry().holder is lease


async def test_an_instance_whose_stream_falls_silent_goes() -> None:
    async with held() as (_, _, two, _):
        await passing(LEASE - 1)
        assert two.there == THERE
        await passing(1)
        await passing(0)
        assert two.there == {}


async def test_a_stream_that_speaks_again_before_the_place_has_heard_holds_again() -> None:
    async with held() as (_, one, two, lease):
        one.store.cut()
        await passing(LEASE)
        lease.renew(None)
        one.store.mend()
        await passing(0)
        await passing(LEASE - 1)
        assert two.there == THERE
        assert not lease.ended
        assert two.entry().record.holder == one.entry().record.holder != ""


async def test_a_node_that_slept_blames_nobody_for_silence() -> None:
    async with held() as (_, _, two, lease):
        await passing(LEASE + ASLEEP_SECONDS)
        assert two.there == THERE
        await passing(AWAKE_SECONDS / 2)
        assert two.there == THERE
        lease.renew(None)
        await passing(LEASE - 0.1)
        assert two.there == THERE


async def test_an_instance_whose_stream_broke_goes_soon() -> None:
    async with held() as (_, one, two, lease):
        one.registry.let_go(lease, broken=True)
        await turns()
        assert two.entry().vital.lease_expire_ns is not None
        await passing(BROKEN_SECONDS - 0.1)
        assert two.there == THERE
        await passing(0.1)
        assert two.there == {}


async def test_another_stream_of_the_same_node_takes_the_lease_over() -> None:
    async with held() as (_, one, two, lease):
        other = await one.registry.keep_alive(a_key(), None)
        assert await reason_of(lease) == "LEASE_TAKEN_OVER"
        one.registry.let_go(lease, broken=True)
        await passing(BROKEN_SECONDS)
        assert two.there == THERE
        assert not other.ended
        one.registry.let_go(other, broken=False)


async def test_a_stream_ends_with_its_instance() -> None:
    async with held() as (_, _, two, lease):
        await two.registry.deregister(a_key())
        await turns()
        assert await reason_of(lease) == "INSTANCE_NOT_FOUND"


async def test_a_stream_is_told_what_is_done_elsewhere() -> None:
    async with held() as (_, _, two, lease):
        await two.registry.set_status(a_key(), Status.DRAINING, "soon")
        standing = await lease.next()
        assert standing is not None
        assert standing.instance.status is Status.DRAINING


async def test_a_stream_ends_that_another_relieved_while_its_node_was_away() -> None:
    async with held() as (nodes, one, two, lease):
        one.store.cut()
        nodes.place.bury(one.store)
        other = await two.registry.keep_alive(a_key(), None)
        one.store.mend()
        await turns()
        assert await reason_of(lease) == "LEASE_TAKEN_OVER"
        assert not other.ended
        two.registry.let_go(other, broken=False)


async def test_a_stream_ends_whose_instance_went_while_its_node_was_away() -> None:
    async with held() as (nodes, one, two, lease):
        one.store.cut()
        nodes.place.bury(one.store)
        await two.registry.deregister(a_key())
        one.store.mend()
        await turns()
        assert await reason_of(lease) == "INSTANCE_NOT_FOUND"
        assert one.there == two.there == {}


async def test_a_node_that_hears_late_holds_nothing_that_is_gone() -> None:
    async with held() as (nodes, one, two, lease):
        one.store.deaf = True
        nodes.place.bury(one.store)
        await two.registry.deregister(a_key())
        nodes.place.join(one.store)
        # It does not know yet, and asks to hold again.
        one.registry.joined()
        await turns()
        assert await reason_of(lease) == "INSTANCE_NOT_FOUND"
        one.store.listen()


async def test_a_node_that_hears_late_does_not_take_back_what_another_holds() -> None:
    async with held() as (nodes, one, two, lease):
        one.store.deaf = True
        nodes.place.bury(one.store)
        other = await two.registry.keep_alive(a_key(), None)
        nodes.place.join(one.store)
        one.registry.joined()
        await turns()
        assert await reason_of(lease) == "LEASE_TAKEN_OVER"
        assert two.entry().holder is other
        one.store.listen()
        two.registry.let_go(other, broken=False)


async def test_a_hold_whose_answer_was_lost_is_let_go_after_a_lease() -> None:
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        await one.register(1, lease_ns=LEASE_NS)
        one.store.lost = True
        with pytest.raises(UnavailableError):
            await one.registry.keep_alive(a_key(), None)
        await turns()
        one.store.lost = False
        await passing(1)
        assert two.entry().record.holder == ""
        await passing(LEASE - 1.5)
        assert two.there == THERE
        await passing(2)
        assert two.there == {}


async def test_a_hold_that_is_given_up_is_let_go_as_if_the_stream_broke() -> None:
    async with unanswered() as (one, two, holding):
        assert two.entry().record.holder != ""
        holding.cancel()
        one.store.release()
        await turns()
        assert holding.cancelled()
        assert two.entry().record.holder == ""
        await passing(BROKEN_SECONDS)
        assert two.there == {}


async def test_a_hold_is_refused_where_it_was_taken_over_before_it_was_answered() -> None:
    async with unanswered() as (one, two, holding):
        other = await two.registry.keep_alive(a_key(), None)
        one.store.release()
        with pytest.raises(AbortedError) as caught:
            await holding
        assert caught.value.reason == "LEASE_TAKEN_OVER"
        two.registry.let_go(other, broken=False)


async def test_a_hold_is_refused_where_the_instance_went_before_it_was_answered() -> None:
    async with unanswered() as (one, two, holding):
        await two.registry.deregister(a_key())
        await turns()
        one.store.release()
        with pytest.raises(NotFoundError):
            await holding


async def test_loads_that_could_not_be_told_are_told_later_and_only_the_last_ones() -> None:
    async with held() as (_, one, two, lease):
        lease.renew(0.25)
        one.store.cut()
        await passing(1)
        lease.renew(0.5)
        one.store.mend()
        await passing(1)
        assert two.entry().load == 0.5
        assert one.store.reports[-1] == {a_key(): 0.5}


async def test_a_registration_anew_leaves_the_lease_to_the_stream() -> None:
    async with held() as (_, one, two, lease):
        await two.registry.register(a_spec(1, zone="z", lease_ns=LEASE_NS))
        await passing(LEASE - 1)
        lease.renew(None)
        await passing(LEASE - 1)
        assert one.there == two.there == THERE
        assert (one.entry().holder, lease.ended) == (lease, False)

"""Which node checks an instance that nodes share, and what becomes of what it finds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from switchboard_server.core.registry.model import HealthCheck, Status
from tests.support.loop import passing, turns
from tests.support.registries import FAILED, TCP
from tests.support.shared_registry import Sharing, SharingNode, sharing


@asynccontextmanager
async def checking() -> AsyncIterator[tuple[Sharing, SharingNode]]:
    """A node that checks an instance, which is unhealthy once it fails."""
    async with sharing(1) as nodes:
        (node,) = nodes.nodes
        await node.register(1, check=HealthCheck(TCP.probe, unhealthy_threshold=1))
        await turns()
        yield nodes, node


async def test_each_instance_is_checked_by_one_node_and_by_another_when_that_is_gone() -> None:
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        for number in range(1, 9):
            await one.register(number, check=TCP)
        await turns()
        numbers = range(1, 9)
        assert all(one.entry(each).owned is not two.entry(each).owned for each in numbers)
        assert set(one.there.values()) == {Status.SERVING}
        await two.close()
        await turns()
        assert all(one.entry(each).owned for each in numbers)


async def test_what_was_found_while_the_place_could_not_be_used_is_told_later() -> None:
    async with checking() as (_, node):
        node.store.cut()
        node.prober.verdict = FAILED
        await passing(12)
        assert node.there == {"i1": Status.SERVING}
        node.store.mend()
        await turns()
        assert node.there == {"i1": Status.UNHEALTHY}


async def test_what_a_node_found_that_was_taken_for_dead_is_not_taken() -> None:
    async with checking() as (nodes, node):
        node.store.cut()
        node.prober.verdict = FAILED
        await passing(12)
        nodes.place.bury(node.store)
        judged = len(nodes.place.judged)
        node.store.mend()
        await turns()
        assert len(nodes.place.judged) == judged
        assert node.there == {"i1": Status.SERVING}


async def test_what_a_check_finds_that_was_given_away_meanwhile_counts_no_more() -> None:
    async with checking() as (nodes, node):
        entry, judged = node.entry(), len(nodes.place.judged)
        node.registry._inspector.forget(entry)
        node.registry._inspector.found(entry, FAILED)
        await turns()
        assert len(nodes.place.judged) == judged
        assert node.there == {"i1": Status.SERVING}


async def test_what_is_well_again_before_it_could_be_told_is_not_told() -> None:
    async with checking() as (nodes, node):
        well, judged = node.prober.verdict, len(nodes.place.judged)
        node.store.cut()
        node.prober.verdict = FAILED
        await passing(12)
        node.prober.verdict = well
        await passing(12)
        node.store.mend()
        await turns()
        assert all(each.verdict == well for each in nodes.place.judged[judged:])
        assert node.there == {"i1": Status.SERVING}

"""Calls across nodes: whoever responds is found wherever it is, and nobody is told at once."""

import asyncio

import pytest

from switchboard_server.core.cluster.seats import seat_of
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.filters import Filter
from tests.support.events import bodies
from tests.support.loop import passing, turns
from tests.unit.core.cluster.world import Node, World, a_cluster, request, respond

DESK = Filter(target_services=("desk",))


async def answered(world: World, caller: Node) -> bool:
    """Whether somebody gets a call, which a node then answers."""
    calling = asyncio.create_task(caller.calls.call(request(), "c"))
    await turns()
    await respond(world.nodes[-1], "here")
    (outcome,) = await asyncio.gather(calling, return_exceptions=True)
    if isinstance(outcome, UnavailableError):
        assert outcome.reason == "NO_RESPONDERS"
        return False
    assert isinstance(outcome, bytes)
    return bodies(outcome) == ["here"]


async def test_a_member_on_any_node_is_found_from_any_node() -> None:
    async with a_cluster() as world:
        await world.give(seat_of("desk"), world.nodes[2])
        for there in world.nodes:
            desk = await there.join("desk", wish=DESK)
            for caller in world.nodes:
                assert await answered(world, caller)
            desk.member.close()
            for caller in world.nodes:
                # The group is there yet, and nobody in it.
                assert not await answered(world, caller)


async def test_a_subscriber_of_its_own_is_found_from_any_node() -> None:
    async with a_cluster() as world:
        for there in world.nodes:
            everything = await there.events.subscribe(Filter(target_services=("*",)))
            other = await there.events.subscribe(Filter(types=("x",), target_services=("desk",)))
            assert not await answered(world, world.nodes[0])
            desk = await there.events.subscribe(DESK)
            for caller in world.nodes:
                assert await answered(world, caller)
            for each in (everything, other, desk):
                there.events.unsubscribe(each)


async def test_a_responder_is_found_by_attributes_too() -> None:
    async with a_cluster() as world:
        desk = await world.nodes[1].events.subscribe(
            Filter(target_services=("desk",), attributes={"region": "eu"})
        )
        assert not await answered(world, world.nodes[0])
        drafts = request()
        drafts.extras[0].attributes = {"region": "eu"}
        calling = asyncio.create_task(world.nodes[0].calls.call(drafts, "c"))
        await turns()
        await respond(world.nodes[2], "there")
        assert bodies(await calling) == ["there"]
        world.nodes[1].events.unsubscribe(desk)


async def test_a_draining_instance_is_nobody_on_any_node() -> None:
    async with a_cluster() as world:
        draining = {"desk/1"}
        for node in world.nodes:
            node.groups.follow_draining(draining.__contains__)
        desk = await world.nodes[1].join(wish=DESK, instance="desk/1")
        assert not await answered(world, world.nodes[0])
        draining.clear()
        for node in world.nodes:
            node.groups.drain("desk/1")
        assert await answered(world, world.nodes[0])
        desk.member.close()


async def test_a_responder_is_found_while_its_group_is_taken_over() -> None:
    async with a_cluster() as world:
        desk = await world.nodes[1].join(wish=DESK)
        world.vacate(seat_of("g"))
        calling = asyncio.create_task(world.nodes[0].calls.call(request(), "c"))
        await turns()
        assert not calling.done()
        await world.seize(seat_of("g"), world.nodes[2])
        await passing(1)
        (got,) = await desk.take(1)
        assert got.body == "how much?"
        await respond(world.nodes[1], "one")
        assert bodies(await calling) == ["one"]
        desk.member.close()


async def test_a_node_that_does_not_answer_holds_a_call_up_for_two_seconds_only() -> None:
    async with a_cluster() as world:
        frozen = world.nodes[2].carrier
        frozen.frozen = True
        calling = asyncio.create_task(world.nodes[0].calls.call(request(), "c"))
        await turns()
        await passing(1.9)
        assert not calling.done()
        desk = await world.nodes[1].events.subscribe(DESK)
        assert await answered(world, world.nodes[0])  # Who answers is enough.
        world.nodes[1].events.unsubscribe(desk)
        await passing(0.2)
        with pytest.raises(UnavailableError) as caught:
            await calling
        assert caught.value.reason == "NO_RESPONDERS"


async def test_many_calls_ask_other_nodes_together() -> None:
    async with a_cluster() as world:
        desk = await world.nodes[1].events.subscribe(DESK)
        calling = [
            asyncio.create_task(world.nodes[0].calls.call(request(), "c")) for _ in range(100)
        ]
        await turns()
        await respond(world.nodes[2], "all")
        assert [bodies(each) for each in await asyncio.gather(*calling)] == [["all"]] * 100
        assert world.post.carried["Survey"] <= 4
        world.nodes[1].events.unsubscribe(desk)


async def test_a_node_that_is_cut_off_says_so_rather_than_that_nobody_responds() -> None:
    async with a_cluster() as world:
        world.cut(world.nodes[1])
        with pytest.raises(UnavailableError) as caught:
            await world.nodes[1].calls.call(request(), "c")
        assert caught.value.reason == "LOG_UNAVAILABLE"
        here = await world.nodes[1].events.subscribe(DESK)
        assert await answered(world, world.nodes[1])
        world.nodes[1].events.unsubscribe(here)

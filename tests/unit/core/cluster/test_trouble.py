"""What goes wrong between nodes: messages refused, late answers, holders that fail."""

import asyncio
from collections.abc import Sequence

import pytest

from switchboard_server.core.cluster.messages import Delivery, Join, Leave, Taken
from switchboard_server.core.cluster.seats import seat_of
from switchboard_server.core.errors import ResourceExhaustedError, UnavailableError
from switchboard_server.core.groups.entries import Outcome, Rejection
from switchboard_server.core.groups.membership import Member
from switchboard_server.core.groups.ports import StoredGroup
from switchboard_server.core.subscription import Gap
from tests.support.clusters import TermStore
from tests.support.events import some
from tests.support.loop import passing, turns
from tests.unit.core.cluster.world import Node, World, a_cluster

SEAT = seat_of("g")


def refusing(world: World, *kinds: type[object]) -> list[object]:
    """Has messages of some classes refused from now on."""
    refused: list[object] = []

    def refuse(message: object) -> None:
        if isinstance(message, kinds):
            refused.append(message)
            raise ResourceExhaustedError("OVERLOADED", "too much waits")

    world.post.refuse = refuse
    return refused


async def test_deliveries_that_do_not_fit_wait_and_hold_up_their_member_alone() -> None:
    async with a_cluster() as world:
        here, there, _ = world.nodes
        far, near = await there.join(), await here.join("near")
        refused = refusing(world, Delivery)
        await here.publish("a")
        assert [each.body for each in await near.take(1)] == ["a"]
        await turns()
        assert len(refused) == 1
        await passing(0.1)
        assert len(refused) == 2
        world.post.refuse = lambda _message: None
        await passing(0.1)
        (got,) = await far.take(1)
        assert (got.body, got.attempt) == ("a", 1)
        far.member.close()
        near.member.close()


async def test_words_that_do_not_fit_are_said_again() -> None:
    async with a_cluster() as world:
        here, there, _ = world.nodes
        worker = await there.join()
        refused = refusing(world, Taken, Leave)
        for number in range(8):
            await here.publish(str(number))
            await turns()
        await worker.take(4)
        assert refused
        assert await worker.silent()
        world.post.refuse = lambda _message: None
        await passing(0.1)
        await worker.take(4)
        refused = refusing(world, Taken, Leave)
        worker.member.close()
        await turns()
        assert len((await here.groups.view("g")).members) == 1
        world.post.refuse = lambda _message: None
        await passing(0.1)
        assert (await here.groups.view("g")).members == []


async def test_a_question_that_does_not_fit_is_refused() -> None:
    async with a_cluster() as world:
        refusing(world, Join)
        with pytest.raises(ResourceExhaustedError):
            await world.nodes[1].join()
        assert world.nodes[1].events.members == 0


async def test_what_is_sent_to_a_stream_that_nobody_knows_is_taken_back() -> None:
    async with a_cluster() as world:
        here, there, _ = world.nodes
        await here.join()
        worker = await there.join()
        # As if its answer had come after its node had ceased to wait.
        there.groups.streams._sessions.clear()
        await here.publish("a")
        await turns()
        told = await here.groups.view("g")
        assert [each.identity.node for each in told.members] == ["n0"]
        assert told.in_flight == 0
        worker.member.close()


async def test_a_seat_whose_groups_cannot_be_read_is_not_served() -> None:
    class Broken(TermStore):
        async def load_groups(self) -> Sequence[StoredGroup]:
            raise UnavailableError("LOG_UNAVAILABLE", "the journal cannot be read")

    async with a_cluster() as world:
        worker = await world.nodes[1].join()
        world.vacate(SEAT)
        with pytest.raises(UnavailableError, match="journal"):
            await world.nodes[2].groups.take(SEAT, Broken(world.kept, SEAT))
        assert world.nodes[2].groups.holdings.seats == []
        await world.seize(SEAT, world.nodes[2])
        await passing(1)
        await world.nodes[0].publish("a")
        assert [each.body for each in await worker.take(1)] == ["a"]
        worker.member.close()


async def test_taking_a_seat_can_be_cancelled() -> None:
    async with a_cluster(2) as world:
        here, there = world.nodes
        worker = await here.join()
        there.log.holding = []
        await here.publish("a")
        await worker.acknowledge(await worker.take(1))
        world.vacate(SEAT)
        taking = asyncio.create_task(world.seize(SEAT, there))
        await turns()
        taking.cancel()
        await asyncio.wait([taking])
        there.log.catch_up()
        await world.seize(SEAT, here)
        await passing(1)
        await here.publish("b")
        assert [each.body for each in await worker.take(1)] == ["b"]
        worker.member.close()


async def test_a_log_that_has_lost_its_end_is_gone_on_with_from_there() -> None:
    async with a_cluster(2) as world:
        here, there = world.nodes
        worker = await here.join()
        there.log.holding = []
        await here.publish("a", "b")
        a, b = await worker.take(2)
        await worker.acknowledge([a])
        await passing(1)
        world.vacate(SEAT)
        taking = asyncio.create_task(world.seize(SEAT, there))
        await turns()
        await passing(9)
        assert not taking.done()
        await passing(2)
        await taking
        there.log.catch_up()
        await passing(1)
        # Rather twice than not at all.
        assert [each.body for each in await worker.take(2)] == ["a", "b"]
        assert await worker.acknowledge([b]) == [Outcome.EXPIRED]
        worker.member.close()


async def test_what_is_not_durable_when_the_seat_is_lost_is_asked_of_the_next_holder() -> None:
    async with a_cluster() as world:
        here, there, third = world.nodes
        worker = await here.join()
        await here.publish("a", "b")
        a, b = await worker.take(2)
        await passing(1)
        world.stores[SEAT].stuck = True
        settling = [
            asyncio.create_task(here.groups.acknowledge("g", [a.ack_id])),
            asyncio.create_task(there.groups.acknowledge("g", [a.ack_id])),
            asyncio.create_task(
                there.groups.reject("g", [b.ack_id], how=Rejection(dead_letter=True))
            ),
        ]
        await turns()
        await world.give(SEAT, third)
        await passing(1)
        assert await asyncio.gather(*settling) == [[Outcome.EXPIRED]] * 3
        again = await worker.take(2)
        assert [(each.body, each.attempt) for each in again] == [("a", 2), ("b", 2)]
        worker.member.close()


async def test_events_that_a_node_has_only_in_the_log_reach_its_groups() -> None:
    async with a_cluster(2) as world:
        here, there = world.nodes
        worker = await there.join()
        empty = await there.join("empty")
        empty.member.close()
        await turns()
        here.log.holding = []
        await there.publish("a", "b")
        # The tail of the holder goes on behind a hole.
        here.log.skip()
        await there.events.publish(some("c"))
        assert sorted(each.body for each in await worker.take(3)) == ["a", "b", "c"]
        again = await there.join("empty")
        assert sorted(each.body for each in await again.take(3)) == ["a", "b", "c"]
        worker.member.close()
        again.member.close()


async def test_gaps_and_heartbeats_come_from_the_node_of_the_group() -> None:
    async with a_cluster() as world:
        here, there, _ = world.nodes
        worker = await there.join()
        (member,) = _members(here)
        member.tell(Gap(3, 5))
        assert await worker.silent()
        assert worker.gaps == [Gap(3, 5)]
        await here.publish("a")
        await worker.acknowledge(await worker.take(1))
        hearing = asyncio.create_task(worker.hear())
        await turns()
        await passing(15)
        await hearing
        assert (worker.beats, worker.member.position) == (1, 1)
        worker.member.close()


async def test_a_defect_of_the_node_of_the_group_ends_the_stream() -> None:
    async with a_cluster() as world:
        here, there, _ = world.nodes
        worker = await there.join()
        told: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        (member,) = _members(here)
        member.end(RuntimeError("a defect"))
        with pytest.raises(UnavailableError) as caught:
            await worker.take(1)
        assert caught.value.reason == "LOG_UNAVAILABLE"
        assert [str(each["exception"]) for each in told] == ["a defect"]
        assert (await here.groups.view("g")).members == []
        worker.member.close()


async def test_a_seat_that_is_lost_while_somebody_joins_is_asked_for_again() -> None:
    async with a_cluster() as world:
        here, there, third = world.nodes
        here.log.holding = []
        await there.publish("a")
        joining = asyncio.create_task(there.join())
        await turns()
        await world.give(SEAT, third)
        here.log.catch_up()
        await passing(1)
        worker = await joining
        assert [each.identity.node for each in (await here.groups.view("g")).members] == ["n1"]
        await here.publish("b")
        assert [each.body for each in await worker.take(1)] == ["b"]
        worker.member.close()


def _members(node: Node) -> list[Member]:
    """The members of the group on the node that has it."""
    holding = node.groups.holdings.get(SEAT)
    assert holding is not None
    return list(holding.hub.find("g").members)

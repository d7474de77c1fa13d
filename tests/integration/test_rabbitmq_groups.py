"""Groups and calls of three nodes over a real RabbitMQ."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from switchboard_server.core.cluster.seats import seat_of
from switchboard_server.core.errors import NotFoundError, UnavailableError
from switchboard_server.core.events import Begin
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.config import Mode
from switchboard_server.core.groups.entries import Outcome, Rejection
from switchboard_server.core.principal import ANONYMOUS
from switchboard_server.core.records import Extra
from tests.support.brokers import RabbitServer
from tests.support.deliveries import Got
from tests.support.events import a_route, bodies, some
from tests.support.group_nodes import GroupNode, Worker, group_nodes, until


@pytest.fixture
async def nodes(rabbit: RabbitServer) -> AsyncIterator[list[GroupNode]]:
    """Three nodes."""
    async with group_nodes(rabbit.url, f"t{secrets.token_hex(4)}") as made:
        yield made


def owner(nodes: list[GroupNode], group: str) -> GroupNode:
    """The node that has a group."""
    (found,) = (each for each in nodes if seat_of(group) in each.groups.holdings.seats)
    return found


def others(nodes: list[GroupNode], group: str) -> list[GroupNode]:
    """Those that have it not."""
    return [each for each in nodes if each is not owner(nodes, group)]


async def take(count: int, *workers: Worker) -> list[tuple[Worker, Got]]:
    """The next deliveries to any of some members."""
    found: list[tuple[Worker, Got]] = []

    async def taking(worker: Worker) -> None:
        while True:
            found.extend((worker, got) for got in await worker.take(1))
            enough.release()

    enough = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(taking(each)) for each in workers]
    for _ in range(count):
        await enough.acquire()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert len(found) == count
    return found


async def test_members_of_all_nodes_share_and_settle(nodes: list[GroupNode]) -> None:
    workers = [await node.join(credit=4) for node in nodes]
    await nodes[0].publish(*map(str, range(12)))
    got = await asyncio.gather(*(worker.take(4) for worker in workers))
    assert sorted(int(each.body) for part in got for each in part) == list(range(12))
    first, second, third = got
    assert await workers[1].acknowledge(first) == [Outcome.OK] * 4
    assert await nodes[2].groups.reject("g", [each.ack_id for each in second]) == [Outcome.OK] * 4
    again = [got for _, got in await take(4, *workers)]
    assert {each.sequence for each in again} == {each.sequence for each in second}
    assert {each.attempt for each in again} == {2}
    assert await nodes[1].groups.extend("g", [each.ack_id for each in third]) == [Outcome.OK] * 4
    told = await nodes[2].groups.view("g")
    assert sorted(each.identity.node for each in told.members) == ["n0", "n1", "n2"]
    with pytest.raises(NotFoundError):
        await nodes[1].groups.view("none")
    for worker in workers:
        worker.member.close()


async def test_groups_of_all_seats_are_listed(nodes: list[GroupNode]) -> None:
    names = [f"list{number}" for number in range(8)]
    for name in names:
        (await nodes[1].join(name)).member.close()
    for node in nodes:
        page, token = await node.groups.page("list", 5, "")
        rest, _ = await node.groups.page("list", 5, token)
        assert [each.record.name for each in (*page, *rest)] == names
    await nodes[2].groups.delete(names[0], ANONYMOUS)
    assert len((await nodes[0].groups.page("list", 0, ""))[0]) == 7


async def test_dead_letters_and_positions_of_other_nodes(nodes: list[GroupNode]) -> None:
    node = others(nodes, "g")[0]
    worker = await node.join()
    await node.publish("a", "b")
    a, b = await worker.take(2)
    await node.groups.reject("g", [a.ack_id], how=Rejection(dead_letter=True, reason="no stöck"))
    page = await node.letters.page("g")
    assert [each.reason for each in page.letters] == ["no stöck"]
    done = await node.letters.redrive("g", sequences=[a.sequence])
    assert (done.redriven, done.remaining) == (1, 0)
    assert (await worker.take(1))[0].body == "a"
    await node.groups.seek("g", Begin.EARLIEST, ANONYMOUS)
    assert sorted(each.body for each in await worker.take(2)) == ["a", "b"]
    assert await worker.acknowledge([b]) == [Outcome.EXPIRED]
    worker.member.close()


async def test_streams_follow_a_seat_that_moves(nodes: list[GroupNode]) -> None:
    holder = owner(nodes, "g")
    workers = [await node.join(mode=Mode.KEY_SHARED) for node in nodes]
    await holder.publish("a", "b", "c", key="k")
    ((had, a),) = await take(1, *workers)
    assert a.body == "a"
    (seat,) = (each for each in holder.seats.seats if each.name == seat_of("g"))
    await seat.close()
    await until(lambda: any(seat_of("g") in each.groups.holdings.seats for each in nodes))
    assert owner(nodes, "g") is not holder
    # What was delivered by the holder before is not settled, and comes first.
    assert await had.acknowledge([a]) == [Outcome.EXPIRED]
    seen: list[tuple[str, int]] = []
    for _ in range(3):
        ((worker, got),) = await take(1, *workers)
        seen.append((got.body, got.attempt))
        assert await worker.acknowledge([got]) == [Outcome.OK]
    assert seen == [("a", 2), ("b", 1), ("c", 1)]
    for worker in workers:
        worker.member.close()


async def test_streams_follow_when_the_node_of_their_group_dies(nodes: list[GroupNode]) -> None:
    holder, (node, other) = owner(nodes, "g"), others(nodes, "g")
    worker, lost = await node.join(credit=2), await holder.join(credit=2)
    await node.publish("a", "b", "c", "d")
    await worker.take(2)
    settled, _ = await lost.take(2)
    await lost.acknowledge([settled])
    # Its connections end, and it comes back by itself under another address.
    holder.link.reset("the test says so")
    more = await other.join(credit=64)
    found = [got for _, got in await take(3, worker, lost, more)]
    assert {each.body for each in found} == {"a", "b", "c", "d"} - {settled.body}
    assert await worker.acknowledge(found) == [Outcome.OK] * 3
    await until(lambda: len(node.carrier.nodes) == 3)
    for each in (worker, lost, more):
        each.member.close()
    await node.publish("e")


async def test_members_of_a_node_that_leaves_are_gone(nodes: list[GroupNode]) -> None:
    node, other = others(nodes, "g")
    lost = await node.join(credit=2)
    await other.publish("a", "b")
    await lost.take(2)
    node.link.reset("the test says so")
    stays = await other.join(credit=2)
    found = await take(2, lost, stays)
    assert sorted(got.body for _, got in found) == ["a", "b"]
    assert [got.attempt for _, got in found] == [2, 2]
    await stays.acknowledge([got for _, got in found])
    # The stream of the node that was away goes on.
    stays.member.close()
    await other.publish("c")
    assert [each.body for each in await lost.take(1)] == ["c"]
    for each in (lost, stays):
        each.member.close()


async def test_a_node_that_came_late_has_all_that_is_open(rabbit: RabbitServer) -> None:
    async with AsyncExitStack() as stack:
        prefix = f"t{secrets.token_hex(4)}"
        first = GroupNode(rabbit.url, prefix, "first")
        await first.open()
        worker = await first.join(credit=1000)
        # Far more than RabbitMQ stores together, so that the late one begins to read behind it.
        for number in range(300):
            await first.publish(f"{number}")
        held = await worker.take(300)
        await worker.acknowledge(held[100:200])
        late = GroupNode(rabbit.url, prefix, "late")
        await late.open()
        stack.push_async_callback(late.close)
        assert late.log.window.first == 1
        other = await late.join(credit=1000)
        worker.member.close()
        await first.close()
        got = await other.take(200)
        assert sorted(each.sequence for each in got) == [*range(1, 101), *range(201, 301)]
        assert await other.acknowledge(got) == [Outcome.OK] * 200
        other.member.close()


async def test_calls_find_responders_of_all_nodes(nodes: list[GroupNode]) -> None:
    desk = Filter(target_services=("desk",))
    request = some(
        "how much?",
        routes=a_route("service_request", target="desk"),
        extras={0: Extra(correlation_id="c")},
    )
    for node in nodes:
        with pytest.raises(UnavailableError) as caught:
            await node.calls.call(request, "c")
        assert caught.value.reason == "NO_RESPONDERS"
    for there in nodes:
        responder = await there.join("desk", wish=desk)
        for node in nodes:
            calling = asyncio.create_task(node.calls.call(request, "c"))
            (got,) = await responder.take(1)
            await there.events.publish(
                some(
                    "5",
                    routes=a_route("service_response", source="desk"),
                    extras={0: Extra(correlation_id="c")},
                )
            )
            assert bodies(await calling) == ["5"]
            await responder.acknowledge([got])
        responder.member.close()

"""A seat is held by one node, passes on when that is lost, and who has lost it can do nothing."""

import asyncio
from collections import Counter

import pytest

from switchboard_server.backends.rabbitmq import seat as seats
from switchboard_server.backends.rabbitmq.balance import assign
from switchboard_server.backends.rabbitmq.seat import Term
from switchboard_server.backends.rabbitmq.topology import SEAT
from switchboard_server.core.errors import UnavailableError
from tests.support.brokers import RabbitServer
from tests.support.proxy import TcpProxy
from tests.support.rabbit import PATIENCE_SECONDS, Node, nodes, until

SEATS = ("sequencer", "groups.0", "groups.1", "groups.2", "groups.3")


def holders(made: list[Node]) -> dict[str, str]:
    """Who holds what; nobody may hold what another does."""
    found: dict[str, str] = {}
    for node in made:
        for seat in node.seats:
            if node.holds(seat):
                assert seat not in found
                found[seat] = node.name
    return found


def known(node: Node) -> dict[str, str]:
    """Who holds what, as a node knows it."""
    names = {each.session: each.id for each in node.peers.nodes.values()}
    terms = {seat: node.peers.term(seat) for seat in SEATS}
    return {seat: names[term.session] for seat, term in terms.items() if term is not None}


async def test_seats_are_spread_over_the_nodes_and_follow_who_comes_and_goes(
    rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "PATIENCE_SECONDS", 1.0)
    async with nodes(rabbit.url, 3) as made:
        for seat in SEATS:
            await made[0].stand(seat)
        await until(lambda: holders(made) == dict.fromkeys(SEATS, "n0"))
        for node in made[1:]:
            for seat in SEATS:
                await node.stand(seat)
        expected = assign({seat: {"n0", "n1", "n2"} for seat in SEATS})
        assert sorted(Counter(expected.values()).values()) == [1, 2, 2]
        await until(lambda: holders(made) == expected)
        for node in made:
            # All know who holds what, a moment later.
            await until(lambda node=node: known(node) == expected)  # type: ignore[misc]
        await made[1].close()
        expected = assign({seat: {"n0", "n2"} for seat in SEATS})
        await until(lambda: holders([made[0], made[2]]) == expected)


async def test_a_seat_passes_on_when_its_holder_is_cut_off_and_that_one_can_publish_nothing(
    rabbit: RabbitServer,
) -> None:
    async with TcpProxy(rabbit.port) as proxy, nodes(rabbit.url, 1) as (near,):
        far = Node(rabbit.url_at(proxy.port), near.topology, "far", heartbeat=1)
        await far.start(near)
        await far.stand("s")
        async with asyncio.timeout(PATIENCE_SECONDS):
            first = await far.took.get()
        await near.stand("s")
        channel = await near.link.channel(prefetch=10)
        queue = near.topology.log
        await channel.declare_queue(queue, {}, durable=False, exclusive=True)
        got: list[bytes] = []
        await channel.consume(queue, lambda message: got.append(message.body), no_ack=True)
        await first.publish("", queue, b"holder")
        # As if it were frozen: the broker gives it up, and what it sends then comes too late.
        proxy.blackhole()
        late = first.publish("", queue, b"late")
        async with asyncio.timeout(PATIENCE_SECONDS):
            second = await near.took.get()
        assert second.epoch > first.epoch
        await second.publish("", queue, b"successor")
        await proxy.restore()
        with pytest.raises(UnavailableError):
            await late
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await far.lost.get() is first
        assert first.ended.is_set()
        with pytest.raises(UnavailableError, match="not held here"):
            await first.publish("", queue, b"too late")
        await second.publish("", queue, b"successor")
        await until(lambda: len(got) == 3)
        assert got == [b"holder", b"successor", b"successor"]
        await far.close()


async def test_who_cannot_take_a_seat_lets_others_have_it(rabbit: RabbitServer) -> None:
    async with nodes(rabbit.url, 2) as (first, second):
        tried = asyncio.Event()

        async def refuse(term: Term) -> None:
            tried.set()
            raise UnavailableError("LOG_UNAVAILABLE", "it cannot be read")

        async def lost(term: Term) -> None:
            first.lost.put_nowait(term)

        seat = seats.Seat(first.link, first.topology, first.peers, "s", taken=refuse, lost=lost)
        await seat.start()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await tried.wait()
            assert "cannot be read" in (await first.lost.get()).reason
            await second.stand("s")
            await second.took.get()
        await until(lambda: first.peers.term("s") is not None)
        await seat.close()


async def test_a_holder_that_makes_way_finishes_first(rabbit: RabbitServer) -> None:
    async with nodes(rabbit.url, 1) as (node,):
        order: list[str] = []

        async def taken(term: Term) -> None:
            term.epoch = 7
            order.append("taken")

        async def leaving(term: Term) -> None:
            assert not term.ended.is_set()
            assert node.peers.term("s") is None or not node.peers.holds("s", 7)
            await term.publish("", node.topology.seat("s"), b"x")
            order.append("leaving")

        async def lost(term: Term) -> None:
            assert term.ended.is_set()
            order.append("lost")

        seat = seats.Seat(
            node.link, node.topology, node.peers, "s", taken=taken, lost=lost, leaving=leaving
        )
        await seat.start()
        await until(lambda: node.peers.holds("s", 7))
        await seat.close()
        assert order == ["taken", "leaving", "lost"]


async def test_a_seat_whose_token_is_lost_is_taken_all_the_same(
    rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "TOKEN_SECONDS", 0.3)
    async with nodes(rabbit.url, 2) as (first, second):
        await first.stand("s")
        async with asyncio.timeout(PATIENCE_SECONDS):
            term = await first.took.get()
        await second.stand("s")
        channel = await first.link.channel()
        queue = first.topology.seat("s")
        # The holder keeps one token, however many are published, and a short while each.
        await asyncio.sleep(1.0)
        assert await channel.declare_queue(queue, SEAT, passive=True) == 0
        assert not term.ended.is_set()
        # What was requeued is gone before the next one got it.
        await first.close()
        purging = await second.link.channel()
        await purging.raw.queue_purge(queue)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await second.took.get()


async def test_a_seat_is_taken_again_after_its_channel_was_ended(rabbit: RabbitServer) -> None:
    async with nodes(rabbit.url, 1) as (node,):
        await node.stand("s")
        async with asyncio.timeout(PATIENCE_SECONDS):
            first = await node.took.get()
            # An acknowledgement of nothing: the broker ends the channel.
            await first.channel.acknowledge(10**6)
            assert await node.lost.get() is first
            assert "unknown delivery tag" in first.reason
            second = await node.took.get()
        assert second.epoch > first.epoch
        assert node.link.connected

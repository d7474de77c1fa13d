"""Nodes find each other over RabbitMQ, and their messages arrive or are said not to."""

import asyncio
from dataclasses import dataclass
from functools import partial

import pytest

from switchboard_server.backends.rabbitmq import peers as peers_module
from switchboard_server.backends.rabbitmq.messages import AtSeat, Received
from switchboard_server.backends.rabbitmq.outbox import MOST_BYTES
from switchboard_server.backends.rabbitmq.packets import Reply
from switchboard_server.backends.rabbitmq.peers import Peers
from switchboard_server.core.errors import (
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    invalid_field,
)
from tests.support.brokers import RabbitServer
from tests.support.proxy import TcpProxy
from tests.support.rabbit import PATIENCE_SECONDS, Node, Note, fresh_topology, nodes, until


@dataclass(frozen=True, slots=True)
class Count:
    """A message that wants no answer."""

    number: int


async def echo(received: Received[Note]) -> Reply[Note]:
    """Answers with what was said."""
    return Reply(Note(f"{received.message.text}!"), received.body)


async def test_nodes_know_who_came_and_who_left(rabbit: RabbitServer) -> None:
    async with nodes(rabbit.url, 2) as (first, second):
        heard: list[tuple[str, bool]] = []
        first.peers.watch_nodes(lambda node, there: heard.append((node.id, there)))
        assert sorted(heard) == [("n0", True), ("n1", True)]
        heard.clear()
        third = await Node(rabbit.url, first.topology, "n2").start(first, second)
        assert heard == [("n2", True)]
        await third.close()
        await until(lambda: heard[1:] == [("n2", False)])
        # One whose connection ends without a word is missed within a second or so.
        began = asyncio.get_running_loop().time()
        await second.link.close()
        await until(lambda: heard[2:] == [("n1", False)])
        assert asyncio.get_running_loop().time() - began < 4


async def test_nodes_that_differ_in_what_all_need_hear_of_each_other(
    rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(peers_module, "BEAT_SECONDS", 0.05)
    async with nodes(rabbit.url, 2) as (first, second):
        for node in (first, second):
            node.peers.agreement.need("Redis", partial(str, node.peers.id))
        told = {
            f"node {node.peers.id} has another Redis than this one: "
            "all hubs of a cluster need the same"
            for node in (first, second)
        }
        await until(lambda: told <= set(caplog.messages))


async def test_a_request_is_answered_with_its_bytes(rabbit: RabbitServer) -> None:
    async with nodes(rabbit.url, 2) as (first, second):
        second.peers.on_request(Note, echo)
        first.peers.on_request(Note, echo)
        for target in (second.peers.session, first.peers.session):
            reply = await first.peers.request(
                target, Note("hello"), Note, body=[b"some ", b"bytes"], seconds=10
            )
            assert (reply.message, bytes(reply.body)) == (Note("hello!"), b"some bytes")
        big = bytes(range(256)) * 4096
        reply = await first.peers.request(
            second.peers.session, Note(""), Note, body=big, seconds=10
        )
        assert bytes(reply.body) == big


async def test_errors_cross_as_errors(rabbit: RabbitServer) -> None:
    raised: list[Exception] = [
        NotFoundError("GROUP_NOT_FOUND", "there is none", metadata={"group": "a"}),
        invalid_field("event.type", "must not be empty"),
        UnavailableError("SHUTTING_DOWN", "going"),
        KeyError("a defect"),
    ]
    async with nodes(rabbit.url, 2) as (first, second):

        async def fail(received: Received[Note]) -> None:
            raise raised[int(received.message.text)]

        second.peers.on_request(Note, fail)
        for number, error in enumerate(raised[:3]):
            with pytest.raises(type(error)) as caught:
                await first.peers.request(second.peers.session, Note(str(number)), Note, seconds=10)
            assert vars(caught.value) == vars(error)
        with pytest.raises(RuntimeError, match="KeyError"):
            await first.peers.request(second.peers.session, Note("3"), Note, seconds=10)
        with pytest.raises(UnavailableError, match="does not serve Count"):
            await first.peers.request(second.peers.session, Count(1), Note, seconds=10)


async def test_messages_arrive_in_order_and_gather_under_load(rabbit: RabbitServer) -> None:
    async with nodes(rabbit.url, 2) as (first, second):
        got: list[int] = []
        second.peers.on_tell(Count, lambda received: got.append(received.message.number))
        for number in range(20_000):
            assert first.peers.tell(second.peers.session, Count(number))
        await until(lambda: len(got) == 20_000)
        assert got == list(range(20_000))
        first.peers.on_tell(Count, lambda received: got.append(received.message.number))
        assert first.peers.tell(first.peers.session, Count(-1))
        await until(lambda: got[20_000:] == [-1])


async def test_too_much_for_one_node_is_refused_and_not_kept(rabbit: RabbitServer) -> None:
    async with nodes(rabbit.url, 2) as (first, second):
        second.peers.on_request(Note, echo)
        # RabbitMQ 4 takes no message of more than 16 MiB.
        body = b"x" * (MOST_BYTES // 8)
        for _ in range(7):
            first.peers.tell(second.peers.session, Count(1), body)
        with pytest.raises(ResourceExhaustedError, match="keep up"):
            first.peers.tell(second.peers.session, Count(1), body)
        second.peers.on_tell(Count, lambda _: None)
        reply = await first.peers.request(second.peers.session, Note("a"), Note, seconds=30)
        assert reply.message == Note("a!")


async def test_a_node_that_is_gone_takes_nothing(rabbit: RabbitServer) -> None:
    async with nodes(rabbit.url, 2) as (first, second):
        waits = asyncio.Event()

        async def wait(received: Received[Note]) -> None:
            waits.set()
            await asyncio.Event().wait()

        second.peers.on_request(Note, wait)
        address = second.peers.session
        asked = asyncio.create_task(first.peers.request(address, Note("a"), Note, seconds=30))
        await waits.wait()
        await second.link.close()
        with pytest.raises(UnavailableError, match="n1 is gone"):
            await asked
        assert not first.peers.tell(address, Count(1))
        with pytest.raises(UnavailableError, match="is gone"):
            await first.peers.request(address, Note("a"), Note, seconds=30)


async def test_a_request_to_a_seat_waits_for_who_takes_it(rabbit: RabbitServer) -> None:
    async with nodes(rabbit.url, 3) as made:
        first, second, third = (each.peers for each in made)
        serve_names(first, second, third)
        asked = asyncio.create_task(first.request(AtSeat("s"), Note(""), Note, seconds=30))
        with pytest.raises(UnavailableError, match="nobody holds s"):
            await third.request(AtSeat("s"), Note(""), Note, seconds=0.2)
        assert not third.tell(AtSeat("s"), Count(1))
        second.hold("s", 1)
        assert (await asked).message == Note("n1")
        assert (await second.request(AtSeat("s"), Note(""), Note, seconds=30)).message.text == "n1"
        # Of two who think that they hold it, the later one does.
        third.hold("s", 2)
        await until(lambda: all(epoch_of(each) == 2 for each in (first, second, third)))
        assert (await first.request(AtSeat("s"), Note(""), Note, seconds=30)).message.text == "n2"
        third.release("s")
        second.release("s")
        await until(lambda: first.term("s") is None)
        # Who has let go of it does nothing, though the other does not know yet.
        second.hold("s", 3)
        await until(lambda: first.term("s") is not None)
        second._holds.clear()
        asked = asyncio.create_task(first.request(AtSeat("s"), Note(""), Note, seconds=30))
        await until(lambda: first.term("s") is None)
        third.hold("s", 4)
        assert (await asked).message.text == "n2"


def epoch_of(peers: Peers) -> int:
    """The term of seat s, as a node knows it."""
    term = peers.term("s")
    return term.epoch if term is not None else 0


def serve_names(*peers: Peers) -> None:
    """Has each node answer with its name."""
    for each in peers:

        async def answer(_: Received[Note], name: str = each.id) -> Note:
            return Note(name)

        each.on_request(Note, answer)


async def test_a_request_whose_seat_moves_before_the_answer_fails_or_goes_to_the_next(
    rabbit: RabbitServer,
) -> None:
    async with nodes(rabbit.url, 3) as made:
        first, second, third = (each.peers for each in made)
        serve_names(third)
        waits = asyncio.Event()

        async def wait(_: Received[Note]) -> None:
            waits.set()
            await asyncio.Event().wait()

        second.on_request(Note, wait)
        second.hold("s", 1)
        once, again = (
            asyncio.create_task(first.request(AtSeat("s"), Note(""), Note, seconds=30, again=again))
            for again in (False, True)
        )
        await waits.wait()
        third.hold("s", 2)
        with pytest.raises(UnavailableError, match="holder of s was lost"):
            await once
        assert (await again).message == Note("n2")


async def test_a_node_comes_back_under_another_address(rabbit: RabbitServer) -> None:
    async with TcpProxy(rabbit.port) as proxy, nodes(rabbit.url, 1) as (first,):
        second = Node(rabbit.url_at(proxy.port), first.topology, "far")
        await second.start(first)
        serve_names(first.peers, second.peers)
        second.peers.hold("s", 5)
        before = second.peers.session
        heard: list[tuple[str, bool]] = []
        first.peers.watch_nodes(lambda node, there: heard.append((node.session, there)))
        heard.clear()
        await proxy.cut()
        await until(lambda: heard == [(before, False)])
        assert second.peers.session == ""
        assert not second.peers.nodes
        asked = asyncio.create_task(
            first.peers.request(AtSeat("s"), Note(""), Note, seconds=PATIENCE_SECONDS)
        )
        await proxy.restore()
        assert (await asked).message == Note("far")
        await until(lambda: heard[1:] == [(second.peers.session, True)])
        assert second.peers.session != before
        await second.close()


async def test_a_node_that_was_given_up_while_it_lives_begins_anew(rabbit: RabbitServer) -> None:
    async with nodes(rabbit.url, 2) as (first, second):
        before = second.peers.session
        heard: list[tuple[str, bool]] = []
        second.peers.watch_nodes(lambda node, there: heard.append((node.id, there)))
        heard.clear()
        first.peers._roster.remove(before)
        await until(lambda: second.peers.session not in ("", before))
        await until(lambda: second.peers.session in first.peers.nodes)
        assert ("n0", False) in heard
        assert second.link.connected


async def test_nodes_of_another_prefix_are_strangers(rabbit: RabbitServer) -> None:
    async with nodes(rabbit.url, 1) as (first,):
        other = await Node(rabbit.url, fresh_topology(), "n0").start()
        assert list(first.peers.nodes) == [first.peers.session]
        await other.close()

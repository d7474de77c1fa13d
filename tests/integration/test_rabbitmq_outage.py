"""What nodes do while RabbitMQ is killed and comes back: all of it heals by itself."""

import asyncio
from collections.abc import Iterator

import pytest

from switchboard_server.backends.rabbitmq.journal import Journal
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.messages import AtSeat, Received
from switchboard_server.backends.rabbitmq.peers import Peers
from switchboard_server.backends.rabbitmq.seat import Seat, Term
from switchboard_server.backends.rabbitmq.topology import STREAM
from switchboard_server.core.errors import UnavailableError
from tests.support.brokers import RabbitServer
from tests.support.rabbit import (
    PATIENCE_SECONDS,
    SETTLE_SECONDS,
    Note,
    Told,
    control,
    fresh_topology,
    linked,
    until,
)

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A RabbitMQ of these tests, which may be killed."""
    with RabbitServer(tmp_path_factory.mktemp("mortal")) as server:
        yield server


class Keeper:
    """A node that keeps a list of records in the journal of a seat, and serves it to all."""

    def __init__(self, url: str, topology: object, name: str) -> None:
        self.link = Link(url, name)
        self.peers = Peers(self.link, topology, name)  # type: ignore[arg-type]
        self.topology = topology
        self.records: list[bytes] = []
        self.journal: Journal | None = None
        self.terms: list[int] = []
        self.seat = Seat(
            self.link,
            topology,  # type: ignore[arg-type]
            self.peers,
            "kept",
            taken=self._taken,
            lost=self._lost,
        )
        self.peers.on_request(Note, self._keep)

    async def start(self) -> None:
        """Begins to stand for the seat."""
        await self.link.start()
        await self.peers.start()
        await self.seat.start()

    async def close(self) -> None:
        """Ends it."""
        await self.seat.close()
        await self.peers.close()
        await self.link.close()

    async def _taken(self, term: Term) -> None:
        self.records = []
        self.journal = Journal(self.link, self.topology, term)  # type: ignore[arg-type]
        await self.journal.open(self.records.extend)
        self.terms.append(term.epoch)

    async def _lost(self, term: Term) -> None:
        if self.journal is not None:
            await self.journal.close()

    async def _keep(self, received: Received[Note]) -> Note:
        assert self.journal is not None
        record = received.message.text.encode()
        if record not in self.records:  # It may be sent again.
            self.records.append(record)
            await self.journal.append(record)
        return received.message


async def test_what_was_answered_survives_while_the_broker_dies_and_comes_back(
    mortal: RabbitServer,
) -> None:
    topology = fresh_topology()
    keepers = [Keeper(mortal.url, topology, f"n{number}") for number in range(3)]
    for keeper in keepers:
        await keeper.start()
    answered: list[str] = []
    failed = 0
    done = asyncio.Event()

    async def publish(keeper: Keeper, name: str) -> None:
        nonlocal failed
        number = 0
        while not done.is_set():
            number += 1
            note = Note(f"{name} {number}")
            try:
                await keeper.peers.request(AtSeat("kept"), note, Note, seconds=20, again=True)
                answered.append(note.text)
            except UnavailableError:
                failed += 1
                await asyncio.sleep(0.05)

    publishing = [asyncio.create_task(publish(each, each.peers.id)) for each in keepers]
    await until(lambda: len(answered) > 100)
    await asyncio.sleep(SETTLE_SECONDS)
    mortal.kill()
    await asyncio.to_thread(mortal.start)
    before = len(answered)
    await until(lambda: len(answered) > before + 100)
    # The node that holds the seat goes, in good order, and the one after it by surprise.
    for ending in (Keeper.close, lambda each: each.link.close()):
        holder = next(each for each in keepers if each.seat.term is not None)
        await ending(holder)
        count = len(answered)
        await until(lambda count=count: len(answered) > count + 100)  # type: ignore[misc]
    done.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*publishing)
    holder = next(each for each in keepers if each.seat.term is not None and each.seat.term.is_open)
    kept = [each.decode() for each in holder.records]
    assert set(answered) <= set(kept)
    assert len(set(kept)) == len(kept)
    terms = [term for keeper in keepers for term in keeper.terms]
    assert len(set(terms)) == len(terms)
    # Who takes the seat next reads the same.
    for keeper in keepers:
        await keeper.close()
    reader = Keeper(mortal.url, topology, "reader")
    await reader.start()
    await until(lambda: bool(reader.terms))
    assert [each.decode() for each in reader.records] == kept
    await reader.close()


async def test_while_the_broker_is_away_calls_fail_at_once_and_afterwards_work_again(
    mortal: RabbitServer,
) -> None:
    async with linked(mortal.url) as link:
        told = Told(link)
        channel = await link.channel(confirms=True)
        queue = fresh_topology().log
        await channel.declare_queue(queue, STREAM)
        await asyncio.sleep(SETTLE_SECONDS)
        flying = [channel.publish("", queue, b"x" * 1000) for _ in range(500)]
        await flying[100]
        mortal.kill()
        outcomes = await asyncio.gather(*flying, return_exceptions=True)
        assert {type(each) for each in outcomes} <= {type(None), UnavailableError}
        await told.until(True, False)
        assert channel.ended.is_set()
        assert not link.connected
        with pytest.raises(UnavailableError, match="RabbitMQ"):
            await link.channel()
        with pytest.raises(UnavailableError, match="RabbitMQ"):
            await channel.publish("", queue, b"late")
        await asyncio.to_thread(mortal.start)
        await told.until(True, False, True)
        assert link.problem is None
        # Every message that was confirmed is there.
        assert await counted(link, queue) >= sum(each is None for each in outcomes) > 100


async def test_a_broker_that_takes_no_messages_is_told_and_is_waited_for(
    mortal: RabbitServer,
) -> None:
    async with linked(mortal.url) as link:
        channel = await link.channel(confirms=True)
        queue = fresh_topology().log
        await channel.declare_queue(queue, {}, durable=False, exclusive=True)
        await control(mortal, "set_vm_memory_high_watermark", "absolute", "1MB")
        # The first message is what makes RabbitMQ block the connection.
        waiting = channel.publish("", queue, b"x", seconds=PATIENCE_SECONDS)
        await until(lambda: link.blocked)
        assert link.problem is not None
        assert "short of memory" in link.problem
        assert not waiting.done()
        await control(mortal, "set_vm_memory_high_watermark", "absolute", "1GB")
        await waiting
        await until(lambda: link.problem is None)
        assert not channel.ended.is_set()


async def counted(link: Link, queue: str) -> int:
    """How many messages a stream has, up to one that is published now."""
    while True:
        channel = await link.channel(prefetch=1000, confirms=True)
        bodies: list[bytes] = []
        try:
            await channel.publish("", queue, b"last")
            await channel.consume(
                queue,
                lambda message, to=bodies: to.append(message.body),  # type: ignore[misc]
                arguments={"x-stream-offset": "first"},
            )
        except UnavailableError:
            # For a moment after it is back the broker does not find its own streams.
            await asyncio.sleep(0.05)
            continue
        await until(lambda to=bodies: b"last" in to)  # type: ignore[misc]
        await channel.close()
        return len(bodies) - 1

"""What one holder of a seat has kept, the next one reads; what came too late, nobody does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from switchboard_server.backends.rabbitmq.filling import ENTRY_BYTES
from switchboard_server.backends.rabbitmq.journal import INDEX, Journal
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.seat import Term
from switchboard_server.backends.rabbitmq.topology import Topology
from switchboard_server.backends.rabbitmq.track import Kind
from switchboard_server.core.errors import UnavailableError
from tests.support.brokers import RabbitServer
from tests.support.rabbit import PATIENCE_SECONDS, fresh_topology, linked, until


@dataclass
class Held:
    """A term of a seat that is held without standing for it, so that two may think they do."""

    term: Term
    journal: Journal
    found: list[bytes] = field(default_factory=list)

    async def close(self) -> None:
        """Ends it."""
        await self.term.channel.close()
        await self.journal.close()


async def take(link: Link, topology: Topology) -> Held:
    """Takes the seat."""
    term = Term("s", await link.channel(confirms=True))
    held = Held(term, Journal(link, topology, term))
    await held.journal.open(held.found.extend)
    return held


async def left(link: Link, topology: Topology) -> list[bytes]:
    """What the next holder finds."""
    held = await take(link, topology)
    await held.close()
    return held.found


@asynccontextmanager
async def followed(rabbit: RabbitServer) -> AsyncIterator[tuple[Held, Held]]:
    """A holder and the one that has taken the seat from it, which alone adds something."""
    topology = fresh_topology()
    async with linked(rabbit.url) as link, linked(rabbit.url) as other:
        old = await take(link, topology)
        await old.journal.append(b"kept")
        new = await take(other, topology)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await old.term.ended.wait()
        yield old, new
        await new.journal.append(b"and more")
        await old.close()
        await new.close()
        assert await left(link, topology) == [b"kept", b"and more"]


async def test_each_holder_reads_what_those_before_have_kept(rabbit: RabbitServer) -> None:
    topology = fresh_topology()
    async with linked(rabbit.url) as link:
        kept: list[bytes] = []
        epochs = []
        for turn in range(3):
            held = await take(link, topology)
            assert held.found == kept
            epochs.append(held.term.epoch)
            await held.journal.append(b"alone")
            many = [b"%d %d" % (turn, number) for number in range(500)]
            await asyncio.gather(*map(held.journal.append, many))
            kept += [b"alone", *many]
            await held.close()
        assert sorted(set(epochs)) == epochs


async def test_what_is_large_comes_back_and_takes_more_than_one_message(
    rabbit: RabbitServer,
) -> None:
    topology = fresh_topology()
    async with linked(rabbit.url) as link:
        held = await take(link, topology)
        large = bytes(range(256)) * 12_345
        kept = [bytes([number]) * 100_000 for number in range(30)]
        kept += [b"", large, b"after", large[:ENTRY_BYTES], large[: ENTRY_BYTES + 1], b"last"]
        await asyncio.gather(*map(held.journal.append, kept))
        await held.close()
        held = await take(link, topology)
        assert held.found == kept
        await held.journal.compact(kept)
        await held.close()
        held = await take(link, topology)
        assert held.found == kept
        # A holder that dies before it has written all of a record has written nothing of it.
        assert held.journal._data is not None
        await held.journal._data.write(Kind.PART, records=[b"never"])
        await held.close()
        held = await take(link, topology)
        await held.journal.append(b"whole")
        await held.close()
        held = await take(link, topology)
        assert held.found == [*kept, b"whole"]
        await held.close()


async def test_a_holder_that_was_followed_by_another_learns_it_and_keeps_nothing(
    rabbit: RabbitServer,
) -> None:
    async with followed(rabbit) as (old, new):
        assert new.found == [b"kept"]
        assert "another node" in old.term.reason
        with pytest.raises(UnavailableError, match="another node"):
            await old.journal.append(b"late")
        with pytest.raises(UnavailableError):
            await old.journal.compact([b"late"])


async def test_what_a_former_holder_writes_without_knowing_does_not_count(
    rabbit: RabbitServer,
) -> None:
    async with followed(rabbit) as (old, _):
        # Its channel lives, as it may where RabbitMQ itself is parted: the broker takes all this.
        blind = Term("s", old.term.channel)
        blind.nonce, blind.epoch = old.term.nonce, old.term.epoch
        for track in (old.journal._index, old.journal._data):
            assert track is not None
            track._term = blind
        blinded = old.journal._data
        assert blinded is not None
        late = [blinded.write(Kind.RECORDS, records=[b"late"]) for _ in range(2)]
        moved = old.journal._index.write(Kind.POINT, name="elsewhere")
        for outcome in (*late, moved):
            with pytest.raises(UnavailableError, match="another node has taken"):
                await outcome


async def test_of_two_who_take_the_seat_at_once_one_has_it(rabbit: RabbitServer) -> None:
    topology = fresh_topology()
    async with linked(rabbit.url) as link, linked(rabbit.url) as other:
        first = await take(link, topology)
        await first.journal.append(b"kept")
        await first.close()
        taken = await asyncio.gather(
            *[take(each, topology) for each in (link, other, link, other)], return_exceptions=True
        )
        held = [each for each in taken if isinstance(each, Held)]
        assert all(
            isinstance(each, UnavailableError) for each in taken if not isinstance(each, Held)
        )
        await until(lambda: sum(not each.term.ended.is_set() for each in held) == 1)
        (winner,) = [each for each in held if not each.term.ended.is_set()]
        assert winner.found == [b"kept"]
        assert winner.term.epoch == max(each.term.epoch for each in held)
        await winner.journal.append(b"more")
        for each in held:
            await each.close()
        assert await left(link, topology) == [b"kept", b"more"]


async def test_a_journal_is_made_anew_while_it_is_written(rabbit: RabbitServer) -> None:
    topology = fresh_topology()
    async with linked(rabbit.url) as link:
        held = await take(link, topology)
        state: list[bytes] = []
        appended: list[asyncio.Future[None]] = []
        done = asyncio.Event()

        async def load() -> None:
            while not done.is_set():
                for _ in range(20):
                    state.append(b"%d" % len(state))
                    appended.append(held.journal.append(state[-1]))
                await asyncio.sleep(0)

        loading = asyncio.create_task(load())
        for _ in range(3):
            size = len(state)
            await until(lambda size=size: len(state) > size + 200)  # type: ignore[misc]
            await held.journal.compact(list(state))
        done.set()
        await loading
        await asyncio.gather(*appended)
        await held.close()
        assert await left(link, topology) == state


def grown(held: Held) -> bool:
    """Whether its journal is worth making anew."""
    return held.journal.should_compact


async def test_how_much_is_live_is_known_to_every_holder(
    rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switchboard_server.backends.rabbitmq.journal.COMPACT_BYTES", 1000)
    topology = fresh_topology()
    async with linked(rabbit.url) as link:
        held = await take(link, topology)
        await held.journal.append(b"x" * 10_000)
        assert grown(held)
        await held.journal.compact([b"x" * 2_000])
        assert not grown(held)
        for _ in range(3):
            await held.close()
            held = await take(link, topology)
            await held.journal.append(b"x" * 1_000)
            assert not grown(held)
        await held.journal.append(b"x" * 5_000)
        assert grown(held)
        await held.close()


async def test_what_is_not_needed_any_more_is_removed(rabbit: RabbitServer) -> None:
    topology = fresh_topology()
    async with linked(rabbit.url) as link:
        held = await take(link, topology)
        names = []
        for turn in range(3):
            assert held.journal._data is not None
            names.append(held.journal._data.queue)
            await held.journal.append(b"%d" % turn)
            await held.journal.compact([b"%d" % turn])
        # A holder that dies in the midst of it leaves something behind.
        orphan = topology.journal("s", "orphan")
        await held.journal._index.written(Kind.INTENT, name=orphan)
        await held.journal._declare(orphan, INDEX)
        await held.close()
        last = await take(link, topology)
        assert last.found == [b"2"]
        for name in (*names, orphan):
            channel = await link.channel()
            with pytest.raises(UnavailableError, match="NOT_FOUND"):
                await channel.declare_queue(name, {}, passive=True)
        await last.close()


async def test_a_holder_that_cannot_make_it_anew_gives_up_and_nothing_is_lost(
    rabbit: RabbitServer,
) -> None:
    topology = fresh_topology()
    async with linked(rabbit.url) as link:
        held = await take(link, topology)
        await held.journal.append(b"kept")

        def failing() -> object:
            yield b"kept"
            raise ValueError("a defect")

        with pytest.raises(ValueError, match="a defect"):
            await held.journal.compact(failing())  # type: ignore[arg-type]
        assert held.term.ended.is_set()
        await held.close()
        assert await left(link, topology) == [b"kept"]


async def test_a_holder_that_does_not_understand_what_is_kept_does_not_go_on(
    rabbit: RabbitServer,
) -> None:
    topology = fresh_topology()
    async with linked(rabbit.url) as link:
        held = await take(link, topology)
        await held.journal.append(b"kept")
        await held.close()

        def refuse(_: object) -> None:
            raise ValueError("what is this")

        term = Term("s", await link.channel(confirms=True))
        journal = Journal(link, topology, term)
        with pytest.raises(ValueError, match="what is this"):
            await journal.open(refuse)
        await journal.close()

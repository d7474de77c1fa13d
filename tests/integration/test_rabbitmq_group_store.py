"""Groups go from one holder of their seat to the next, whatever becomes of the first."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy

import pytest

from switchboard_server.backends.rabbitmq.groups import JournalGroups
from switchboard_server.backends.rabbitmq.journal import Journal
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.seat import Term
from switchboard_server.backends.rabbitmq.topology import Topology
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.groups.changes import Change, Snapshot, replay
from switchboard_server.core.groups.ports import Found, StoredGroup
from tests.support.brokers import RabbitServer
from tests.support.groups import ALICE, BOB, CONFIG, a_letter, a_snapshot
from tests.support.rabbit import PATIENCE_SECONDS, fresh_topology, linked

CHANGES = [
    Change(cursors={1: 14, 2: 14, 3: 14, 4: 14}, opened=[14], nonce=48),
    Change(leased=[(ALICE, [14, 3], [1, 1]), (BOB, [5], [3])], nonce=56),
    Change(settled=[14, 6], retried=[(3, 1, 5000)]),
    Change(buried=[a_letter(n, n) for n in range(1, 200)], redriven=[7, 9], settled=[5]),
    Change(idle_since_ns=77),
]


async def nothing(_: Sequence[int]) -> Found:
    """A log without events."""
    return Found()


async def take(link: Link, topology: Topology) -> JournalGroups:
    """Takes the seat of some groups."""
    groups = JournalGroups(
        Journal(link, topology, Term("g", await link.channel(confirms=True))), nothing
    )
    await groups.open()
    return groups


@asynccontextmanager
async def held(url: str, topology: Topology) -> AsyncIterator[JournalGroups]:
    """The seat of some groups, held by a node of its own, which then dies."""
    async with linked(url) as link:
        groups = await take(link, topology)
        yield groups
    await groups.close()


async def filled(groups: JournalGroups) -> int:
    """Makes groups, one of which is gone again; the number of the one that has much."""
    gone = await groups.create_group("gone", CONFIG, 1, Snapshot.at(1), 1)
    record = await groups.create_group("billing", CONFIG, 2**32 - 1, a_snapshot(), 123)
    await groups.create_group("empty", CONFIG, 5, Snapshot.at(9), 7)
    for change in CHANGES:
        await groups.save(record.number, deepcopy(change))
    last = await groups.create_group("last", CONFIG, 6, Snapshot.at(1), 8)
    await asyncio.gather(groups.delete_group(gone.number), groups.delete_group(last.number))
    return record.number


def states(found: Sequence[StoredGroup]) -> list[object]:
    """What is known of some groups."""
    return [
        (
            each.record,
            replay(deepcopy(each.snapshot), deepcopy(each.changes)),
            each.idle_since_ns,
            each.dead_letters,
            each.redriven,
        )
        for each in found
    ]


@pytest.mark.parametrize("compacted", [False, True])
async def test_another_node_finds_the_groups_of_one_that_died(
    rabbit: RabbitServer, compacted: bool
) -> None:
    topology = fresh_topology()
    async with held(rabbit.url, topology) as groups:
        number = await filled(groups)
        expected = states(await groups.load_groups())
        letters = await groups.dead_letters(number, None, 1000)
        back = await groups.redriven(number, 0, 1000)
        if compacted:
            await groups.compact()
    assert len(letters) == 197
    async with held(rabbit.url, topology) as groups:
        assert states(await groups.load_groups()) == expected
        assert await groups.dead_letters(number, None, 1000) == letters
        assert await groups.redriven(number, 0, 1000) == back
        # A number that was used once is not used again.
        made = await groups.create_group("new", CONFIG, 6, Snapshot.at(1), 8)
        assert made.number == number + 3


async def test_what_is_saved_while_the_journal_is_made_anew_is_kept_once(
    rabbit: RabbitServer,
) -> None:
    topology = fresh_topology()
    async with held(rabbit.url, topology) as groups:
        record = await groups.create_group("billing", CONFIG, 1, Snapshot.at(0), 1)
        await groups.save(record.number, Change(buried=[a_letter(n) for n in range(1, 3000)]))
        saves = []
        making = groups.compact()
        sequence = 3000
        while not making.done():
            for _ in range(10):
                change = Change(opened=[sequence], buried=[a_letter(sequence)])
                saves.append(groups.save(record.number, change))
                sequence += 1
            # One more for each that is answered.
            await asyncio.wait(saves, return_when=asyncio.FIRST_COMPLETED)
            saves = [save for save in saves if not save.done()]
        await asyncio.gather(making, *saves)
        assert sequence > 3010
    async with held(rabbit.url, topology) as groups:
        (found,) = await groups.load_groups()
        state = replay(found.snapshot, found.changes)
        assert [each.sequence for each in state.open] == list(range(3000, sequence))
        assert found.dead_letters == sequence - 1


async def test_a_journal_is_made_anew_by_itself_when_it_has_grown(
    rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switchboard_server.backends.rabbitmq.journal.COMPACT_BYTES", 8_000)
    topology = fresh_topology()
    async with held(rabbit.url, topology) as groups:
        record = await groups.create_group("billing", CONFIG, 1, Snapshot.at(0), 1)
        most = 0
        for sequence in range(1, 150):
            change = Change(settled=[sequence], buried=[a_letter(sequence)])
            await groups.save(record.number, change)
            await groups.expire_dead_letters(2)
            await groups.save(record.number, Change(snapshot=Snapshot.at(sequence)))
            most = max(most, groups._journal.size)
        assert most < 40_000
    async with held(rabbit.url, topology) as groups:
        (found,) = await groups.load_groups()
        assert replay(found.snapshot, found.changes) == Snapshot.at(149)
        assert found.dead_letters == 0


async def test_a_holder_that_is_followed_by_another_keeps_nothing_more(
    rabbit: RabbitServer,
) -> None:
    topology = fresh_topology()
    async with linked(rabbit.url) as link:
        first = await take(link, topology)
        record = await first.create_group("billing", CONFIG, 1, Snapshot.at(0), 1)
        async with held(rabbit.url, topology) as second:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await first._journal._term.ended.wait()
            for call in (
                first.save(record.number, Change(settled=[1])),
                first.create_group("other", CONFIG, 1, Snapshot.at(0), 1),
                first.delete_group(record.number),
            ):
                with pytest.raises(UnavailableError, match="another node"):
                    await call
            (found,) = await second.load_groups()
            assert found.record == record
            assert not found.changes
        await first.close()


async def test_many_saves_are_answered_in_order_and_quickly(rabbit: RabbitServer) -> None:
    topology = fresh_topology()
    async with held(rabbit.url, topology) as groups:
        record = await groups.create_group("billing", CONFIG, 1, Snapshot.at(0), 1)
        order: list[int] = []
        saves = []
        for number in range(5000):
            save = groups.save(record.number, Change(settled=[number]))
            save.add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]
            saves.append(save)
        saves[17].cancel()
        await asyncio.gather(*saves, return_exceptions=True)
        await asyncio.sleep(0)
        assert sorted(order) == list(range(5000))
        order.remove(17)
        assert order == sorted(order)
        (found,) = await groups.load_groups()
        assert [change.settled for change in found.changes] == [[n] for n in range(5000)]

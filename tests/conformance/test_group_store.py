"""What every `GroupStore` keeps, whatever it is made of; see core/groups/ports.py."""

import asyncio
import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

from switchboard_server.backends.embedded.store import (
    Commit,
    CreateGroup,
    DeleteGroup,
    Retention,
    SaveChange,
)
from switchboard_server.core.groups.changes import Change, DeadLetter, Snapshot
from switchboard_server.core.groups.config import GroupConfig
from switchboard_server.core.groups.ports import GroupRecord, GroupStore
from tests.conformance.backends import Bench, OpenLog, held_bodies, within_the_log
from tests.support.events import a_route, numbered, some
from tests.support.groups import ALICE, CONFIG, a_letter, a_snapshot


async def make(groups: GroupStore, name: str = "billing") -> GroupRecord:
    """Makes a group."""
    return await groups.create_group(name, CONFIG, 2**32 - 1, a_snapshot(), 123)


def numbers(letters: Sequence[DeadLetter]) -> list[int]:
    """The sequences of some dead letters."""
    return [each.sequence for each in letters]


async def dead(groups: GroupStore, number: int) -> list[int]:
    """The sequences of a group's dead letters, the latest first."""
    return numbers(await groups.dead_letters(number, None, 1000))


async def back(groups: GroupStore, number: int) -> list[int]:
    """The sequences of a group's redriven events."""
    return numbers(await groups.redriven(number, 0, 1000))


# --- groups ---------------------------------------------------------------------------------------


async def test_a_new_group_is_answered_as_it_was_asked_for(held: OpenLog) -> None:
    record = await make(held.groups)
    assert record == GroupRecord(record.number, "billing", CONFIG, 2**32 - 1, 123)


async def test_a_number_is_never_used_again_and_a_name_is(held: OpenLog) -> None:
    seen = set()
    for _ in range(3):
        record = await make(held.groups)
        await held.groups.delete_group(record.number)
        seen.add(record.number)
    seen.add((await make(held.groups)).number)
    assert len(seen) == 4


async def test_a_deleted_group_leaves_no_dead_letters(held: OpenLog) -> None:
    first, second = await make(held.groups), await make(held.groups, "other")
    for record in (first, second):
        change = Change(buried=[a_letter(1), a_letter(2)])
        await held.groups.save(record.number, change)
        await held.groups.save(record.number, Change(redriven=[2]))
    await held.groups.delete_group(first.number)
    assert await dead(held.groups, first.number) == []
    assert await back(held.groups, first.number) == []
    assert await held.groups.dead_letters_of(first.number, [1, 2]) == []
    assert await dead(held.groups, second.number) == [1]
    assert await back(held.groups, second.number) == [2]
    await held.groups.delete_group(first.number)


async def test_a_change_of_a_group_that_is_deleted_is_let_go_of(held: OpenLog) -> None:
    record = await make(held.groups)
    early = held.groups.save(record.number, Change(settled=[1], buried=[a_letter(1)]))
    deleted = held.groups.delete_group(record.number)
    late = held.groups.save(
        record.number, Change(settled=[2], buried=[a_letter(2)], snapshot=a_snapshot())
    )
    await asyncio.gather(early, deleted, late)
    await held.groups.save(record.number, Change(buried=[a_letter(3)], idle_since_ns=1))
    assert await dead(held.groups, record.number) == []


# --- dead letters ---------------------------------------------------------------------------------


async def test_a_dead_letter_comes_back_as_it_was(held: OpenLog) -> None:
    record = await make(held.groups)
    letter = a_letter(2**40, time_ns=2**60, redrives=2)
    await held.groups.save(record.number, Change(buried=[letter]))
    assert list(await held.groups.dead_letters(record.number, None, 10)) == [letter]
    assert list(await held.groups.dead_letters_of(record.number, [1, 2**40])) == [letter]
    assert await back(held.groups, record.number) == []


async def test_dead_letters_are_read_the_latest_first_a_page_at_a_time(held: OpenLog) -> None:
    record = await make(held.groups)
    buried = [a_letter(sequence, time_ns=sequence % 3) for sequence in range(1, 8)]
    await held.groups.save(record.number, Change(buried=buried))
    pages, place = [], None
    while page := await held.groups.dead_letters(record.number, place, 2):
        pages.append(numbers(page))
        place = (page[-1].time_ns, page[-1].sequence)
    assert pages == [[5, 2], [7, 4], [1, 6], [3]]


async def test_a_dead_letter_takes_the_place_of_one_of_the_same_event(held: OpenLog) -> None:
    record = await make(held.groups)
    await held.groups.save(record.number, Change(buried=[a_letter(1, 1), a_letter(2, 2)]))
    await held.groups.save(record.number, Change(redriven=[1]))
    again = a_letter(1, 3, redrives=1)
    await held.groups.save(record.number, Change(buried=[again]))
    assert await dead(held.groups, record.number) == [1, 2]
    assert await back(held.groups, record.number) == []
    assert list(await held.groups.dead_letters_of(record.number, [1])) == [again]


async def test_what_is_redriven_is_no_dead_letter_until_it_is_shelved(held: OpenLog) -> None:
    record = await make(held.groups)
    letters = [a_letter(each, 10 - each) for each in range(1, 6)]
    await held.groups.save(record.number, Change(buried=letters))
    await held.groups.save(record.number, Change(redriven=[4, 2, 3, 99]))
    assert await dead(held.groups, record.number) == [1, 5]
    assert await back(held.groups, record.number) == [2, 3, 4]
    found = await held.groups.redriven(record.number, 2, 1)
    assert [(each.sequence, each.redriven) for each in found] == [(3, True)]
    known = await held.groups.dead_letters_of(record.number, [1, 3])
    assert [(each.sequence, each.redriven) for each in known] == [(1, False), (3, True)]
    await held.groups.save(record.number, Change(shelved=True))
    assert await dead(held.groups, record.number) == [1, 2, 3, 4, 5]
    assert await back(held.groups, record.number) == []
    assert list(await held.groups.dead_letters(record.number, None, 9)) == letters


async def test_what_is_finished_is_gone(held: OpenLog) -> None:
    record = await make(held.groups)
    await held.groups.save(record.number, Change(buried=[a_letter(1), a_letter(2), a_letter(3)]))
    await held.groups.save(record.number, Change(redriven=[1, 2]))
    await held.groups.save(record.number, Change(settled=[1], finished=[1]))
    assert await dead(held.groups, record.number) == [3]
    assert await back(held.groups, record.number) == [2]


async def test_what_is_finished_before_a_seek_is_not_shelved_with_the_rest(held: OpenLog) -> None:
    record = await make(held.groups)
    await held.groups.save(record.number, Change(buried=[a_letter(1), a_letter(2)]))
    await held.groups.save(record.number, Change(redriven=[1, 2]))
    pending = Change(settled=[1], finished=[1])
    pending.absorb(Change(snapshot=Snapshot.at(0), shelved=True))
    await held.groups.save(record.number, pending)
    assert await dead(held.groups, record.number) == [2]
    assert await back(held.groups, record.number) == []


async def test_a_redrive_that_a_seek_overtakes_is_none_and_a_later_one_is(held: OpenLog) -> None:
    record = await make(held.groups)
    await held.groups.save(record.number, Change(buried=[a_letter(1), a_letter(2)]))
    pending = Change(redriven=[1])
    pending.absorb(Change(snapshot=Snapshot.at(0), shelved=True))
    pending.absorb(Change(redriven=[2]))
    await held.groups.save(record.number, pending)
    assert await dead(held.groups, record.number) == [1]
    assert await back(held.groups, record.number) == [2]


async def test_dead_letters_expire_by_their_time_in_all_groups_redriven_ones_never(
    held: OpenLog,
) -> None:
    first, second, third = [await make(held.groups, name) for name in ("a", "b", "c")]
    for record in (first, second):
        await held.groups.save(
            record.number, Change(buried=[a_letter(each, each) for each in range(1, 6)])
        )
    await held.groups.save(third.number, Change(buried=[a_letter(1, 50)]))
    await held.groups.save(first.number, Change(redriven=[1]))
    gone = await held.groups.expire_dead_letters(3)
    assert dict(gone) == {first.number: 1, second.number: 2}
    assert await dead(held.groups, first.number) == [5, 4, 3]
    assert await back(held.groups, first.number) == [1]
    assert await dead(held.groups, second.number) == [5, 4, 3]
    assert await dead(held.groups, third.number) == [1]
    assert dict(await held.groups.expire_dead_letters(3)) == {}


async def test_retention_of_the_log_does_not_touch_dead_letters(bench: Bench) -> None:
    held = await bench.open(Retention(bytes=1))
    record = await make(held.groups)
    await held.append("a")
    await held.groups.save(record.number, Change(buried=[a_letter(1)]))
    await held.trim()
    assert held.log.window.first == 2
    assert await dead(held.groups, record.number) == [1]


async def test_dead_letters_do_not_push_events_out_of_the_log(bench: Bench) -> None:
    held = await bench.open(Retention(bytes=100_000))
    record = await make(held.groups)
    await held.append("a")
    change = Change(buried=[a_letter(each, text="x" * 50_000) for each in range(1, 9)])
    await held.groups.save(record.number, change)
    await held.trim()
    assert held_bodies(await held.batches()) == ["a"]


# --- reading events -------------------------------------------------------------------------------


async def test_events_are_read_one_by_one_with_their_batches(held: OpenLog) -> None:
    for start in (0, 3, 6):
        await held.log.append(numbered(3, start))
    found = (await held.groups.read_each([1, 3, 5, 8, 9, 10, 99])).batches
    assert {each: batch.first for each, batch in found.items()} == {1: 1, 3: 1, 5: 4, 8: 7, 9: 7}
    assert found[1] is found[3]
    assert (await held.groups.read_each([])).batches == {}


async def test_events_that_are_not_retained_are_not_found(bench: Bench) -> None:
    held = await bench.open(Retention(age_ns=10**9))
    await held.append_each("a", "b", "c")
    await held.trim()
    await held.append("d")
    found = (await held.groups.read_each([1, 2, 3, 4])).batches
    assert sorted(found) == [4]


async def test_a_priority_is_read_past_all_others(held: OpenLog) -> None:
    for number in range(40):
        await held.append(str(number), routes=a_route(priority=2 if number % 10 else 4))
    low = await held.append("low", routes=a_route(priority=1))
    both = some("n", "h", routes=[a_route(priority=2), a_route(priority=3)])
    mixed = await held.log.append(both)
    for priority, firsts in ((4, [1, 11, 21, 31]), (1, [low.first]), (3, [mixed.first])):
        result = await held.log.read(0, 1 << 30, priority)
        assert [batch.first for batch in result.batches] == firsts
    normal = (await held.log.read(0, 1 << 30, 2)).batches
    assert len(normal) == 37
    assert normal[-1].first == mixed.first
    result = await held.log.read(11, 1, 4)
    assert [batch.first for batch in result.batches] == [21]
    assert result.window.last == mixed.first + 1
    result = await held.log.read(31, 1 << 30, 4)
    assert (list(result.batches), result.window.last) == ([], mixed.first + 1)


# --- order and transactions -----------------------------------------------------------------------


async def test_what_comes_together_shares_a_transaction_in_the_order_of_the_calls(
    held: OpenLog,
) -> None:
    within_the_log(held)
    record = await make(held.groups)
    asked: list[Commit] = []
    held.store.asked = asked
    order: list[str] = []
    futures: dict[str, asyncio.Future[Any]] = {
        "append": held.log.append(some("a")),
        "save": held.groups.save(record.number, Change(settled=[1])),
        "create": held.groups.create_group("b", GroupConfig(), 1, Snapshot.at(0), 1),
        "delete": held.groups.delete_group(record.number),
        "append again": held.log.append(some("b")),
    }
    for name, future in futures.items():
        future.add_done_callback(partial(_note, order, name))
    await asyncio.gather(*futures.values())
    await asyncio.sleep(0)
    assert order == list(futures)
    (work,) = asked
    assert [type(each) for each in work.groups] == [SaveChange, CreateGroup, DeleteGroup]
    assert sum(map(len, work.batches)) == 2


def _note(order: list[str], name: str, _: object) -> None:
    order.append(name)


async def test_a_change_is_kept_as_it_was_given(held: OpenLog) -> None:
    record = await make(held.groups)
    change = Change(
        snapshot=a_snapshot(),
        cursors={1: 20, 2: 20, 3: 20, 4: 20},
        opened=[14],
        leased=[(ALICE, [14, 3], [1, 1])],
        retried=[(5, 3, 1000)],
        settled=[6],
    )
    before = copy.deepcopy(change)
    await held.groups.save(record.number, change)
    assert change == before

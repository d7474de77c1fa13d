"""What a `GroupStore` keeps over restarts, and when its store fails; see core/groups/ports.py."""

import asyncio
import shutil
import sqlite3
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.changes import Change, Open, Snapshot, replay
from switchboard_server.core.groups.config import GroupConfig
from switchboard_server.core.groups.ports import StoredGroup
from tests.conformance.backends import (
    Bench,
    OpenLog,
    held_bodies,
    on_disk,
    surviving,
    within_the_log,
)
from tests.conformance.test_group_store import back, dead, make, numbers
from tests.support.events import some
from tests.support.groups import ALICE, BOB, CONFIG, a_letter, a_snapshot
from tests.support.loop import manual_loop

CHANGES = [
    Change(cursors={1: 14, 2: 14, 3: 14, 4: 14}, opened=[14], nonce=48),
    Change(leased=[(ALICE, [14, 3], [1, 1]), (BOB, [5], [3])], nonce=56),
    Change(settled=[14, 6], retried=[(3, 1, 5000)]),
    Change(settled=[5], idle_since_ns=77),
]
"""What may happen to a group."""


async def reopened(bench: Bench) -> tuple[OpenLog, list[StoredGroup]]:
    """The backend and its groups, as a new process finds them."""
    await bench.close()
    held = await bench.open()
    return held, list(await held.groups.load_groups())


def execute(path: Path, *statement: str) -> int:
    """Changes the file behind the log's back; how many rows."""
    with sqlite3.connect(path) as db:
        count = db.execute(" ".join(statement)).rowcount
    db.close()
    return count


def rows(path: Path, table: str) -> int:
    """How many rows a table has."""
    with sqlite3.connect(path) as db:
        (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
    db.close()
    return int(count)


# --- restarts -------------------------------------------------------------------------------------


async def test_a_group_is_found_again_as_it_stood(bench: Bench) -> None:
    held = await surviving(bench).open()
    record = await make(held.groups)
    other = await held.groups.create_group("plain", GroupConfig(), 0, Snapshot.at(5), 9)
    for change in CHANGES:
        await held.groups.save(record.number, change)
    buried = [a_letter(1), a_letter(2), a_letter(7)]
    await held.groups.save(record.number, Change(buried=buried))
    await held.groups.save(record.number, Change(redriven=[2]))
    _, (found, plain) = await reopened(bench)
    assert (found.record, plain.record) == (record, other)
    assert (found.idle_since_ns, found.dead_letters, found.redriven) == (77, 2, 1)
    assert (plain.idle_since_ns, plain.dead_letters, plain.redriven) == (0, 0, 0)
    assert replay(plain.snapshot, plain.changes) == Snapshot.at(5)
    assert replay(found.snapshot, found.changes) == replay(a_snapshot(), deepcopy(CHANGES))


async def test_a_process_that_ends_finds_nothing_where_nothing_survives(bench: Bench) -> None:
    if bench.capabilities.survives_restart:
        pytest.skip(f"{bench.name}: survives restarts")
    held = await bench.open()
    await make(held.groups)
    assert list(await held.groups.load_groups()) == []


async def test_a_snapshot_takes_the_place_of_what_was_before(bench: Bench) -> None:
    held = await surviving(bench).open()
    record = await make(held.groups)
    await held.groups.save(record.number, Change(settled=[3], opened=[20]))
    newer = Change(settled=[20])
    newer.absorb(Change(snapshot=Snapshot({1: 30, 2: 30, 3: 30, 4: 30}, [Open(25)], 3, 60)))
    newer.absorb(Change(opened=[31], cursors={1: 31, 2: 31, 3: 31, 4: 31}, nonce=64))
    await asyncio.gather(
        held.groups.save(record.number, Change(opened=[21])),
        held.groups.save(record.number, newer),
        held.groups.save(record.number, Change(settled=[25])),
    )
    _, (found,) = await reopened(bench)
    assert len(found.changes) == 2
    state = replay(found.snapshot, found.changes)
    assert state == Snapshot(dict.fromkeys((1, 2, 3, 4), 31), [Open(31)], 3, 64)


async def test_a_group_that_has_no_member_and_gets_one_again_is_not_idle(bench: Bench) -> None:
    held = await surviving(bench).open()
    record = await make(held.groups)
    await held.groups.save(record.number, Change(idle_since_ns=2**60))
    held, (found,) = await reopened(bench)
    assert found.idle_since_ns == 2**60
    await held.groups.save(record.number, Change(idle_since_ns=0))
    await held.groups.save(record.number, Change(settled=[1]))
    _, (found,) = await reopened(bench)
    assert found.idle_since_ns == 0


async def test_a_deleted_group_leaves_nothing_in_the_file(bench: Bench) -> None:
    path = on_disk(bench)
    held = await bench.open()
    record = await make(held.groups)
    await held.groups.save(record.number, Change(settled=[3], buried=[a_letter(1), a_letter(2)]))
    await held.groups.save(record.number, Change(redriven=[2]))
    deleted = held.groups.delete_group(record.number)
    await held.groups.save(record.number, Change(settled=[4], buried=[a_letter(3)]))
    await deleted
    assert [rows(path, each) for each in ("groups", "group_changes", "dead_letters")] == [0, 0, 0]
    held, found = await reopened(bench)
    assert found == []
    assert (await make(held.groups)).number > record.number


async def test_what_was_answered_survives_the_end_of_the_process(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    on_disk(bench)
    held = await bench.open()
    record = await make(held.groups)
    for change in CHANGES:
        await asyncio.gather(held.log.append(some("a")), held.groups.save(record.number, change))
    await held.groups.save(record.number, Change(buried=[a_letter(1)]))
    # What a process that is killed leaves behind: no log was closed.
    copied = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(bench.folder, copied)
    killed = Bench(bench.name, copied)
    again = await killed.open()
    (found,) = await again.groups.load_groups()
    assert replay(found.snapshot, found.changes) == replay(a_snapshot(), deepcopy(CHANGES))
    assert (found.record, found.dead_letters) == (record, 1)
    assert held_bodies(await again.batches()) == ["a"] * 4
    await killed.close()


async def test_a_hundred_thousand_changes_with_snapshots_take_little_room(bench: Bench) -> None:
    path = on_disk(bench)
    held = await bench.open()
    record = await make(held.groups)
    most, size = 0, 0
    for start in range(0, 100_000, 1000):
        saves = [
            held.groups.save(
                record.number,
                Change(settled=[number], snapshot=None if number % 500 else Snapshot.at(number)),
            )
            for number in range(start, start + 1000)
        ]
        await asyncio.gather(*saves)
        most = max(most, rows(path, "group_changes"))
        size = held.store.size()
    assert most <= 500
    assert size < 1_000_000
    _, (found,) = await reopened(bench)
    assert found.snapshot.cursors == dict.fromkeys((1, 2, 3, 4), 99_500)
    assert [change.settled for change in found.changes] == [[n] for n in range(99_500, 100_000)]


async def test_few_dead_letters_and_groups_are_found_among_many_without_reading_these(
    bench: Bench,
) -> None:
    path = on_disk(bench)
    held = await bench.open()
    queries = (
        "SELECT * FROM dead_letters WHERE number = 1 AND NOT redriven AND (time, sequence) < (9, 9)"
        " ORDER BY time DESC, sequence DESC",
        "SELECT * FROM dead_letters WHERE number = 1 AND redriven AND sequence > 2"
        " ORDER BY sequence",
        "DELETE FROM dead_letters WHERE NOT redriven AND time < 3",
        "SELECT * FROM batches WHERE last > 1 AND priorities & 16 ORDER BY last",
        "SELECT * FROM batches WHERE last > 1 AND priorities & 8 ORDER BY last",
        "SELECT * FROM batches WHERE last > 1 AND priorities & 2 ORDER BY last",
        "SELECT number, count(*) FROM dead_letters WHERE NOT redriven GROUP BY number",
    )
    plans = []
    with sqlite3.connect(path) as db:
        for query in queries:
            (*_, plan), *more = db.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
            plans.append(plan)
            assert not more, (query, more)
    db.close()
    assert [plan.partition("INDEX ")[2].split()[0] for plan in plans] == [
        "dead_letters_by_time",
        "dead_letters_redriven",
        "dead_letters_by_age",
        "batches_critical",
        "batches_high",
        "batches_low",
        "dead_letters_by_time",
    ]
    await held.log.close()


# --- failures -------------------------------------------------------------------------------------


async def test_a_disk_that_fails_fails_what_waits_and_keeps_nothing_of_it(held: OpenLog) -> None:
    within_the_log(held)
    record = await make(held.groups)
    await held.groups.save(record.number, Change(buried=[a_letter(1)]))
    held.fail("commit", "probe")
    futures: list[asyncio.Future[Any]] = [
        held.groups.save(record.number, Change(buried=[a_letter(2)], redriven=[1])),
        held.log.append(some("a")),
        held.groups.create_group("b", CONFIG, 1, Snapshot.at(0), 1),
        held.groups.delete_group(record.number),
        held.groups.expire_dead_letters(10),
    ]
    for outcome in await asyncio.gather(*futures, return_exceptions=True):
        assert isinstance(outcome, UnavailableError)
        assert outcome.reason == "LOG_UNAVAILABLE"
    assert held.listener.problems == ["the disk is full"]
    assert held.log.pending_bytes == 0
    assert await dead(held.groups, record.number) == [1]
    held.heal()
    manual_loop().advance(1)
    await held.listener.until(lambda told: told.problems == ["the disk is full", None])
    await held.groups.save(record.number, Change(buried=[a_letter(2)], redriven=[1]))
    assert await dead(held.groups, record.number) == [2]
    assert await back(held.groups, record.number) == [1]


async def test_a_change_is_kept_wholly_or_not_at_all(bench: Bench) -> None:
    path = on_disk(bench)
    held = await bench.open()
    record = await make(held.groups)
    await held.groups.save(record.number, Change(settled=[3]))
    execute(
        path,
        "CREATE TRIGGER full BEFORE INSERT ON dead_letters BEGIN SELECT RAISE(FAIL, 'full'); END",
    )
    change = Change(settled=[5], buried=[a_letter(5)], snapshot=Snapshot.at(99), idle_since_ns=9)
    appended = held.log.append(some("a"))
    with pytest.raises(UnavailableError, match="full"):
        await held.groups.save(record.number, change)
    with pytest.raises(UnavailableError, match="full"):
        await appended
    execute(path, "DROP TRIGGER full")
    assert (await held.append("b")).first == 1
    _, (found,) = await reopened(bench)
    assert [each.settled for each in found.changes] == [[3]]
    assert (found.snapshot, found.idle_since_ns, found.dead_letters) == (a_snapshot(), 0, 0)


async def test_a_disk_without_room_for_a_dead_letter_is_not_tried_with_less(bench: Bench) -> None:
    path = on_disk(bench)
    held = await bench.open()
    record = await make(held.groups)
    await held.log._writer.call(
        lambda: held.store.inner._db.execute("PRAGMA max_page_count = 60")  # type: ignore[attr-defined]
    )
    big = a_letter(1, text="x" * 1_000_000)
    with pytest.raises(UnavailableError, match="full"):
        await held.groups.save(record.number, Change(buried=[big]))
    for _ in range(3):
        manual_loop().advance(1)
        await held.settle()
    assert len(held.listener.problems) == 1
    await held.log._writer.call(
        lambda: held.store.inner._db.execute("PRAGMA max_page_count = 100000")  # type: ignore[attr-defined]
    )
    manual_loop().advance(1)
    await held.settle()
    assert held.listener.problems[1:] == [None]
    await held.groups.save(record.number, Change(buried=[big]))
    assert rows(path, "dead_letters") == 1


async def test_groups_that_cannot_be_read_say_so(held: OpenLog) -> None:
    within_the_log(held)
    record = await make(held.groups)
    held.fail(
        "groups", "read_each", "dead_letters", "dead_letters_of", "redriven", text="it is away"
    )
    groups = held.groups
    for reading in (
        groups.load_groups(),
        groups.read_each([1]),
        groups.dead_letters(record.number, None, 1),
        groups.dead_letters_of(record.number, [1]),
        groups.redriven(record.number, 0, 1),
    ):
        with pytest.raises(UnavailableError, match="it is away") as caught:
            await reading
        assert caught.value.reason == "LOG_UNAVAILABLE"
    assert (await held.append("a")).first == 1


async def test_closing_keeps_what_waits_and_refuses_what_comes(bench: Bench) -> None:
    held = await bench.open()
    groups = held.groups
    created = groups.create_group("a", CONFIG, 1, Snapshot.at(0), 1)
    await held.close()
    record = created.result()
    for call in (
        groups.save(record.number, Change(settled=[1])),
        groups.create_group("b", CONFIG, 1, Snapshot.at(0), 1),
        groups.delete_group(record.number),
        groups.expire_dead_letters(1),
        groups.load_groups(),
        groups.read_each([1]),
        groups.dead_letters(record.number, None, 1),
        groups.dead_letters_of(record.number, [1]),
        groups.redriven(record.number, 0, 1),
    ):
        with pytest.raises(UnavailableError) as caught:
            await call
        assert caught.value.reason == "SHUTTING_DOWN"
    if bench.capabilities.survives_restart:
        _, found = await reopened(bench)
        assert [each.record for each in found] == [record]


# --- damage ---------------------------------------------------------------------------------------

IDENTITY_DAMAGES = {
    "secret": "secret = secret - 1",
    "created": "created = 'x'",
    "filter": "config = replace(config, 'order', 'ordes')",
    "no JSON": "config = '{'",
    "no text": "config = x'7bff'",
    "name": "name = 'billinh'",
}
"""What may happen to what a group is."""


@pytest.mark.parametrize("what", sorted(IDENTITY_DAMAGES))
async def test_a_group_that_cannot_be_read_back_is_told_and_its_name_is_free(
    bench: Bench, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    path = on_disk(bench)
    held = await bench.open()
    first = await make(held.groups)
    second = await make(held.groups, "other")
    await held.groups.save(first.number, Change(buried=[a_letter(1)]))
    assert execute(path, "UPDATE groups SET", IDENTITY_DAMAGES[what], "WHERE number = 1") == 1
    held, found = await reopened(bench)
    assert [each.record for each in found] == [second]
    assert caplog.text.count("cannot be read back") == 1
    appended = held.log.append(some("a"))
    again = await make(held.groups, "billinh" if what == "name" else "billing")
    assert again.number not in (first.number, second.number)
    assert (await appended).first == 1
    assert await dead(held.groups, again.number) == []
    assert held.listener.problems == []
    assert rows(path, "dead_letters") == 1
    _, found = await reopened(bench)
    assert [each.record for each in found] == [second, again]


STATE_DAMAGES = {
    "cursor": ("groups", "snapshot = replace(snapshot, '[1,10]', '[1,99]')", 0),
    "snapshot no JSON": ("groups", "snapshot = ''", 0),
    "snapshot no text": ("groups", "snapshot = x'00'", 0),
    "first change": ("group_changes", "change = replace(change, '14', '15') WHERE n = 1", 1),
    "another group's": ("group_changes", "number = 2 WHERE n = 2", 2),
    "lost": ("group_changes", "n = 9 WHERE n = 3", 3),
    "last change": ("group_changes", "crc = crc - 1 WHERE n = 4", 4),
    "change no text": ("group_changes", "change = x'ff' WHERE n = 2", 2),
}
"""What may happen to where a group stands: the table, what, and the first row that is lost."""


@pytest.mark.parametrize("what", sorted(STATE_DAMAGES))
async def test_a_group_whose_state_is_damaged_goes_back_to_what_is_whole(
    bench: Bench, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    path = on_disk(bench)
    held = await bench.open()
    await held.append_each("a", "b")
    record = await make(held.groups)
    for change in CHANGES:
        await held.groups.save(record.number, change)
    table, damage, lost = STATE_DAMAGES[what]
    assert execute(path, "UPDATE", table, "SET", damage) == 1
    expected = replay(a_snapshot(), deepcopy(CHANGES[: lost - 1])) if lost else Snapshot.at(0)
    held, (found,) = await reopened(bench)
    assert (found.record, found.idle_since_ns) == (record, 77)
    assert replay(found.snapshot, found.changes) == expected
    assert caplog.text.count("cannot be read back whole") == 1
    # From then on it is whole again, and what is saved now is not lost behind the damage.
    caplog.clear()
    await held.groups.save(record.number, Change(opened=[40]))
    _, (found,) = await reopened(bench)
    state = replay(found.snapshot, found.changes)
    assert numbers_open(state) == [*numbers_open(expected), 40]
    assert caplog.text == ""


def numbers_open(state: Snapshot) -> list[int]:
    """What is not settled."""
    return [each.sequence for each in state.open]


async def test_a_group_whose_state_is_lost_begins_with_what_is_retained(bench: Bench) -> None:
    path = on_disk(bench)
    held = await bench.open()
    await held.append_each("a", "b", "c")
    await make(held.groups)
    execute(path, "UPDATE groups SET snapshot = ''")
    execute(path, "DELETE FROM batches WHERE last <= 2")
    execute(path, "UPDATE meta SET value = 2 WHERE name = 'trimmed'")
    _, (found,) = await reopened(bench)
    assert replay(found.snapshot, found.changes) == Snapshot.at(2)


LETTER_DAMAGES = {
    "frame": "frame = x'00'",
    "time": "time = time + 1",
    "reason": "header = replace(header, 'st', 'zt')",
    "no JSON": "header = '{'",
    "no text": "header = x'ff'",
    "another type": "frame = 'x'",
}
"""What may happen to a dead letter."""


@pytest.mark.parametrize("what", sorted(LETTER_DAMAGES))
async def test_damaged_dead_letters_are_told_once_and_end_no_page_early(
    bench: Bench, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    path = on_disk(bench)
    held = await bench.open()
    record = await make(held.groups)
    buried = [a_letter(each, each * 10) for each in range(1, 9)]
    await held.groups.save(record.number, Change(buried=buried))
    await held.groups.save(record.number, Change(redriven=[1, 2, 3, 4]))
    damage = ("UPDATE dead_letters SET", LETTER_DAMAGES[what], "WHERE sequence IN (1, 2, 8)")
    assert execute(path, *damage) == 3
    for _ in range(2):
        assert numbers(await held.groups.dead_letters(record.number, None, 2)) == [7, 6]
        assert numbers(await held.groups.redriven(record.number, 0, 2)) == [3, 4]
        assert numbers(await held.groups.dead_letters_of(record.number, [2, 3, 8])) == [3]
    assert caplog.text.count("cannot be read back") == 3
    await held.groups.save(record.number, Change(buried=[a_letter(8, 80)]))
    assert numbers(await held.groups.dead_letters(record.number, None, 1)) == [8]


async def test_a_damaged_batch_is_not_found_and_the_others_are(bench: Bench) -> None:
    path = on_disk(bench)
    held = await bench.open()
    for _ in range(3):
        await held.append("a", "b")
    execute(path, "UPDATE batches SET frames = x'00' WHERE last = 4")
    found = (await held.groups.read_each([1, 2, 3, 4, 5, 6])).batches
    assert sorted(found) == [1, 2, 5, 6]


async def test_filters_of_any_text_come_back(bench: Bench) -> None:
    held = await surviving(bench).open()
    config = GroupConfig(Filter(("ä*", '"\\'), ("\u2028",), (), 0, {"": "\U0001f600", "b": ""}))
    record = await held.groups.create_group("grüße '; --", config, 1, Snapshot.at(0), 1)
    _, (found,) = await reopened(bench)
    assert found.record == record

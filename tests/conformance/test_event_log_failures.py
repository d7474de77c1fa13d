"""What a log does when its store fails, closes, or is damaged; see core/ports.py."""

import asyncio
import sqlite3
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from switchboard_server.backends.embedded import log as log_module
from switchboard_server.backends.embedded import sqlite
from switchboard_server.backends.embedded.store import Due, Retention, StoreError
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.ports import Appended, Lane, ReadResult, Window
from tests.conformance.backends import (
    SQLITE,
    Bench,
    OpenLog,
    held_bodies,
    later,
    on_disk,
)
from tests.support.events import numbered, some
from tests.support.loop import manual_loop, turns

MUCH = 1 << 30


# --- failures -------------------------------------------------------------------------------------


async def test_a_store_that_fails_fails_all_that_waits_and_keeps_nothing(held: OpenLog) -> None:
    await held.append("a")
    held.fail("commit")
    futures: list[asyncio.Future[Any]] = [
        held.log.append(some("b", "c")),
        held.log.schedule(some("d", extras=later(1))),
        held.log.append(some("e")),
    ]
    for outcome in await asyncio.gather(*futures, return_exceptions=True):
        assert isinstance(outcome, UnavailableError)
        assert outcome.reason == "LOG_UNAVAILABLE"
        assert "the disk is full" in str(outcome)
    assert held.listener.problems == ["the disk is full"]
    assert (held.log.pending_bytes, held.log.window) == (0, Window(1, 1))
    assert held_bodies(await held.batches()) == held_bodies(held.listener.batches) == ["a"]
    held.heal()
    assert (await held.append("f")).first == 2
    assert held.listener.problems == ["the disk is full", None]
    manual_loop().advance(5)
    await held.append("g")
    assert held_bodies(await held.batches()) == ["a", "f", "g"]


async def test_what_stands_behind_a_failed_call_in_its_lane_is_not_stored(held: OpenLog) -> None:
    def once() -> None:
        held.heal()
        raise StoreError("the disk is full")

    held.store.before["commit"] = once
    lane, log = Lane(), held.log
    fails = log.append(some("x" * log_module.MAX_COMMIT_BYTES), lane)  # a transaction of its own
    behind: list[asyncio.Future[Any]] = [
        log.append(some("a"), lane),
        log.schedule(some("b", extras=later(1)), lane),
    ]
    others = [log.append(some("c"), Lane()), log.append(some("d"))]
    for future in (fails, *behind):
        with pytest.raises(UnavailableError, match="the disk is full"):
            await future
    assert lane.error is not None
    assert [(await each).first for each in others] == [1, 2]
    assert log.pending_bytes == 0
    manual_loop().advance(5)
    await held.append("e")
    assert held_bodies(await held.batches()) == ["c", "d", "e"]


async def test_a_problem_is_told_once_and_its_end_is_found_without_a_publish(
    held: OpenLog,
) -> None:
    held.fail("commit", "probe")
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await held.append("a")
    probes: list[None] = []
    broken = held.store.before["probe"]

    def probed() -> None:
        probes.append(None)
        broken()

    held.store.before["probe"] = probed
    for number in range(1, 4):
        manual_loop().advance(1)
        await held.settle()
        assert len(probes) == number
    assert held.listener.problems == ["the disk is full"]
    held.heal()
    manual_loop().advance(1)
    await held.listener.until(lambda told: told.problems == ["the disk is full", None])
    assert (await held.append("a")).first == 1
    assert held.listener.problems == ["the disk is full", None]


async def test_a_disk_that_hangs_is_told_and_given_nothing_further(held: OpenLog) -> None:
    if not held.store.blocks:
        pytest.skip("what is in memory does not hang")
    await held.append("a")
    answers = threading.Event()
    held.store.before["commit"] = answers.wait
    lane = Lane()
    hangs = held.log.append(some("b"))
    manual_loop().advance(1)  # The log looks after its disk.
    await turns(5)
    manual_loop().advance(log_module.STALL_SECONDS)
    await turns(5)
    problem = "the disk of the log has not answered for 5 seconds"
    assert held.listener.problems == [problem]
    with pytest.raises(UnavailableError, match=f"{problem}; nothing was stored"):
        await held.log.append(some("c"), lane)
    assert lane.error is not None
    assert held_bodies(await held.batches()) == ["a"]
    assert not hangs.done()
    answers.set()
    assert (await hangs).first == 2
    assert held.listener.problems == [problem, None]
    assert (await held.append("d")).first == 3
    assert held_bodies(await held.batches()) == ["a", "b", "d"]


async def test_reading_goes_on_while_the_log_takes_nothing(held: OpenLog) -> None:
    await held.append("a", "b")
    held.fail("commit", "probe")
    with pytest.raises(UnavailableError):
        await held.append("c")
    assert held_bodies(await held.batches()) == ["a", "b"]
    assert await held.log.sequence_before(10**30) == 2


async def test_a_log_that_cannot_be_read_says_so_and_goes_on_taking_events(
    held: OpenLog,
) -> None:
    names = ("read", "read_backward", "sequence_before", "recent_ids")
    held.fail(*names, text="the disk is away")
    log = held.log
    for reading in (
        log.read(0, 1),
        log.read_backward(1, 1),
        log.sequence_before(1),
        log.recent_ids(0, 1),
    ):
        with pytest.raises(UnavailableError, match="the disk is away"):
            await reading
    assert (await held.append("a")).first == 1
    held.heal()
    assert held_bodies(await held.batches()) == ["a"]


async def test_a_log_that_cannot_be_trimmed_takes_events_and_tries_again(bench: Bench) -> None:
    held = await bench.open(Retention(age_ns=SECOND_NS))
    await held.append("a")
    held.fail("trim", text="the disk is away")
    await held.trim()
    assert held.log.window == Window(1, 1)
    assert (await held.append("b")).first == 2
    held.heal()
    await held.trim()
    await held.trim()
    assert held.log.window == Window(3, 2)


async def test_a_defect_fails_the_calls_it_concerns_and_no_later_ones(held: OpenLog) -> None:
    def defect() -> None:
        raise ValueError("a defect")

    held.store.before["commit"] = defect
    with pytest.raises(ValueError, match="a defect"):
        await held.append("a")
    held.heal()
    with pytest.raises(KeyError):
        await held.log.schedule(some("no deliver_at"))
    unencodable = some("b")
    unencodable.publisher = 7  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        await held.log.append(unencodable)
    assert held.log.pending_bytes == 0
    assert (await held.append("c")).first == 1


async def test_closing_makes_what_waits_durable_and_later_calls_fail(bench: Bench) -> None:
    held = await bench.open()
    log = held.log
    waiting: list[asyncio.Future[Any]] = [
        log.append(numbered(2)),
        log.schedule(some("x", extras=later(1))),
        log.append(some("b")),
    ]
    closing = asyncio.create_task(log.close())
    await closing
    outcomes = [future.result() for future in waiting]
    assert [each.first for each in outcomes if isinstance(each, Appended)] == [1, 3]
    assert held_bodies(held.listener.batches) == ["0", "1", "b"]
    for call in (
        log.append(some("c")),
        log.schedule(some("c", extras=later(1))),
        log.read(0, 1),
        log.read_backward(1, 1),
        log.sequence_before(1),
        log.recent_ids(0, 1),
    ):
        with pytest.raises(UnavailableError):
            await call
    await log.close()


async def test_nothing_happens_any_more_after_closing(bench: Bench) -> None:
    held = await bench.open()
    drafts = some("x", "y", extras=later(0, 1))
    scheduled = held.log.schedule(drafts)
    held.fail("probe")
    await held.log.close()
    await scheduled
    calls: list[str] = []
    for name in ("due", "commit", "check", "probe", "trim", "size"):
        held.store.before[name] = partial(calls.append, name)
    for _ in range(5):
        manual_loop().advance(3)
        await turns()
    assert calls == []
    assert held.listener.batches == []
    assert held.listener.problems == []


async def test_calls_that_come_while_it_closes_are_refused(bench: Bench) -> None:
    held = await bench.open()
    accepted = held.log.append(some("a"))
    closing = asyncio.create_task(held.log.close())
    await asyncio.sleep(0)
    late = held.log.append(some("b"))
    await closing
    assert (await accepted).first == 1
    with pytest.raises(UnavailableError) as caught:
        await late
    assert caught.value.reason == "SHUTTING_DOWN"


# --- damage ---------------------------------------------------------------------------------------


def damage(path: Path, *statement: str) -> None:
    """Changes the file behind the log's back."""
    with sqlite3.connect(path) as db:
        assert db.execute(" ".join(statement)).rowcount == 1
    db.close()


DAMAGES = {
    "frames": "frames = CAST(substr(frames, 1, 3) || x'ff' || substr(frames, 5) AS BLOB)",
    "a shorter row": "frames = substr(frames, 1, 3)",
    "another type": "frames = 'x'",
    "ends": "ends = x'0100000002000000'",
    "header": "header = replace(header, 'shop', 'ship')",
    "no JSON": "header = '{'",
    "no text": "header = CAST(x'7bff' AS TEXT)",
}
"""What may happen to a row."""


@pytest.mark.parametrize("what", sorted(DAMAGES))
async def test_a_damaged_row_is_told_as_lost_and_the_rest_is_read(bench: Bench, what: str) -> None:
    path = on_disk(bench)
    held = await bench.open()
    for number in range(4):
        await held.log.append(numbered(2, 2 * number))
    damage(path, "UPDATE batches SET", DAMAGES[what], "WHERE last = 4")
    log, window = held.log, Window(1, 8)
    assert [batch.first for batch in (await log.read(0, MUCH)).batches] == [1]
    for after in (2, 3):
        assert await log.read(after, MUCH) == ReadResult((), window, (3, 4))
    assert [batch.first for batch in (await log.read(4, MUCH)).batches] == [5, 7]
    assert [batch.first for batch in (await log.read_backward(9, MUCH)).batches] == [5, 7]
    for before in (4, 5):
        result = await log.read_backward(before, MUCH)
        assert (list(result.batches), result.window, result.lost) == ([], window, (3, 4))
    assert [batch.first for batch in (await log.read_backward(3, MUCH)).batches] == [1]
    await log.recent_ids(0, 100)
    assert await log.sequence_before(10**30) == 8


@pytest.mark.parametrize("what", sorted(DAMAGES))
async def test_a_log_with_a_damaged_row_opens_and_goes_on(bench: Bench, what: str) -> None:
    path = on_disk(bench)
    before = await bench.open()
    for number in range(2):
        await before.append(str(2 * number), str(2 * number + 1), ids=["", f"id{number}"])
    await before.log.close()
    damage(path, "UPDATE batches SET", DAMAGES[what], "WHERE last = 4")
    after = await bench.open()
    assert after.log.window == Window(1, 4)
    found = [each.id for each in await after.log.recent_ids(0, 100)]
    assert found in (["id0"], ["id0", "id1"])
    assert (await after.append("new")).first == 5
    assert (await after.log.read(2, MUCH)).lost == (3, 4)
    assert held_bodies(await after.batches(4)) == ["new"]


SCHEDULED_DAMAGES = {
    "body": "body = x'ff'",
    "due": "due = due - 1",
    "header": "header = replace(header, 'shop', 'ship')",
    "no JSON": "header = '{'",
    "no text": "header = x'7bff'",
    "another type": "body = 'x'",
}
"""What may happen to a scheduled row."""


@pytest.mark.parametrize("what", sorted(SCHEDULED_DAMAGES))
async def test_a_damaged_scheduled_event_does_not_hold_up_the_others(
    bench: Bench, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    path = on_disk(bench)
    held = await bench.open()
    await held.log.schedule(some("a", "b", "c", extras=later(1, 2, 3), ids=["1", "2", "3"]))
    damage(path, "UPDATE scheduled SET", SCHEDULED_DAMAGES[what], "WHERE body = x'61'")
    for _ in range(3):
        manual_loop().advance(1)
        await held.settle()
    assert held_bodies(await held.batches()) == ["b", "c"]
    assert [each.id for each in await held.log.recent_ids(0, 100)][-2:] == ["2", "3"]
    assert caplog.text.count("cannot be read back") == 1


async def test_many_damaged_scheduled_events_are_passed_over_once_and_for_all(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = on_disk(bench)
    monkeypatch.setattr(log_module, "MAX_RELEASED", 2)
    held = await bench.open()
    await held.log.schedule(some("a", "b", "c", "d", "e", extras=later(1, 1, 1, 1, 2)))
    for body in ("x'61'", "x'62'", "x'63'"):
        damage(path, "UPDATE scheduled SET header = '' WHERE body =", body)
    reads: list[Due] = []
    held.store.after["due"] = reads.append
    for _ in range(3):
        manual_loop().advance(1)
        await held.settle()
    assert held_bodies(await held.batches()) == ["d", "e"]
    assert caplog.text.count("cannot be read back") == 3
    assert len(reads) <= 4
    await held.log.close()
    caplog.clear()
    again = await bench.open()
    manual_loop().advance(10)
    await again.settle()
    assert caplog.text == ""


async def test_a_file_of_a_later_version_is_left_alone(bench: Bench) -> None:
    path = on_disk(bench)
    held = await bench.open()
    await held.log.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(UnavailableError, match="is of version 99, this hub knows 1"):
        await bench.open()


async def test_a_file_that_is_damaged_is_told_with_what_helps(bench: Bench) -> None:
    path = on_disk(bench)
    held = await bench.open()
    for _ in range(50):
        await held.append("x" * 10_000)
    await held.log.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(UnavailableError, match="malformed; put a good copy in its place, or move"):
        await bench.open()


async def test_a_file_that_is_no_log_is_left_alone(bench: Bench) -> None:
    path = on_disk(bench)
    path.write_bytes(b"my thesis" * 1000)
    with pytest.raises(UnavailableError, match="file is not a database; put a good copy"):
        await bench.open()
    assert path.read_bytes() == b"my thesis" * 1000


async def test_a_folder_that_is_removed_meanwhile_is_noticed_and_not_made_anew(
    bench: Bench,
) -> None:
    path = on_disk(bench)
    held = await bench.open()
    await held.append("a")
    moved = path.parent.with_name("moved")
    path.parent.rename(moved)
    await held.trim()  # Nobody publishes.
    await held.listener.until(lambda told: bool(told.problems))
    text = "was removed, moved or replaced while the hub was running; move it back"
    assert text in str(held.listener.problems[0])
    for failing in (held.append("b"), held.log.read(0, MUCH)):
        with pytest.raises(UnavailableError, match=text) as caught:
            await failing
        assert caught.value.reason == "LOG_UNAVAILABLE"
    assert not path.parent.exists()
    moved.rename(path.parent)
    manual_loop().advance(1)
    await held.listener.until(lambda told: told.problems[-1] is None)
    assert (await held.append("b")).first == 2
    assert held_bodies(await held.batches()) == ["a", "b"]


async def test_a_file_that_is_replaced_meanwhile_takes_no_events(bench: Bench) -> None:
    path = on_disk(bench)
    held = await bench.open()
    await held.append("a")
    path.rename(path.with_name("old.db"))
    path.touch()
    with pytest.raises(UnavailableError, match="was removed, moved or replaced"):
        await held.append("b")
    assert path.read_bytes() == b""


async def test_a_disk_without_room_is_told_and_what_was_there_stays(bench: Bench) -> None:
    on_disk(bench)
    held = await bench.open()
    await held.append("a")
    store = held.store.inner
    assert isinstance(store, sqlite.SqliteStore)
    store._db.execute("PRAGMA max_page_count = 40")
    with pytest.raises(UnavailableError, match="database or disk is full; make room"):
        await held.append("x" * 1_000_000)
    assert held_bodies(await held.batches()) == ["a"]
    store._db.execute("PRAGMA max_page_count = 100000")
    assert (await held.append("x" * 1_000_000)).first == 2
    assert [problem is None for problem in held.listener.problems] == [False, True]


async def test_a_place_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UnavailableError, match="cannot be opened"):
        await Bench(SQLITE, tmp_path / "file").open()

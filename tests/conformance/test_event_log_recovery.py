"""What a log keeps for later and over restarts; see core/ports.py."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from switchboard_server.backends.embedded.store import Retention
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.filters import EVERYTHING
from switchboard_server.core.ports import Appended, RecentId, Window
from switchboard_server.core.records import Extra
from tests.conformance.backends import (
    Bench,
    OpenLog,
    held_bodies,
    later,
    surviving,
)
from tests.support.events import a_route, read_back, some
from tests.support.loop import EPOCH_NS, manual_loop

MUCH = 1 << 30


# --- scheduled events -----------------------------------------------------------------------------


async def test_a_scheduled_event_enters_the_log_when_it_is_due_and_not_before(
    held: OpenLog,
) -> None:
    drafts = some("later", ids=["mine"], extras=later(5), routes=a_route("x"), publisher="me")
    await held.log.schedule(drafts)
    assert held.log.window == Window(1, 0)
    assert (held.listener.batches, held.log.pending_bytes) == ([], 0)
    manual_loop().advance(4.999)
    assert (await held.append("now")).first == 1
    manual_loop().advance(0.001)
    await held.listener.until(lambda told: len(told.batches) == 2)
    (_, batch) = await held.batches()
    (event,) = read_back(batch.frames)
    assert (event.sequence, event.id, event.publisher, event.body) == (2, "mine", "me", b"later")
    assert event.time_ns == batch.time_ns == EPOCH_NS + 5 * SECOND_NS
    assert batch.route(0) == a_route("x")
    assert held.log.window == Window(1, 2)


async def test_scheduled_events_enter_in_the_order_of_their_times(held: OpenLog) -> None:
    await held.log.schedule(some("c", "a", "e", extras=later(3, 1, 5)))
    await held.log.schedule(some("b", "d", "a2", extras=later(2, 4, 1)))
    for number in range(2, 7):
        manual_loop().advance(1)
        await held.settle()
        assert held.log.window.last == number
    assert held_bodies(await held.batches()) == ["a", "a2", "b", "c", "d", "e"]
    assert held_bodies(held.listener.batches) == ["a", "a2", "b", "c", "d", "e"]


async def test_what_is_due_together_enters_in_order_and_each_once(held: OpenLog) -> None:
    total = 2500
    texts = [str(number) for number in range(total)]
    await held.log.schedule(
        some(*texts, extras=later(*[1 + number / total for number in range(total)]))
    )
    manual_loop().advance(10)
    await held.listener.until(lambda told: sum(map(len, told.batches)) >= total)
    await held.settle()
    assert held_bodies(await held.batches()) == texts


async def test_an_event_due_sooner_comes_first_though_it_was_scheduled_last(
    held: OpenLog,
) -> None:
    await held.log.schedule(some("late", extras=later(100)))
    await held.log.schedule(some("soon", extras=later(1)))
    manual_loop().advance(1)
    await held.listener.until(lambda told: bool(told.batches))
    assert held_bodies(held.listener.batches) == ["soon"]


async def test_an_event_scheduled_while_others_are_released_is_not_forgotten(
    held: OpenLog,
) -> None:
    await held.log.schedule(some("first", extras=later(1)))
    loop, more = manual_loop(), some("second", extras=later(2))
    scheduled: list[asyncio.Future[Mapping[int, int]]] = []

    def schedule() -> None:
        scheduled.append(held.log.schedule(more))

    def read(_: object) -> None:
        if not scheduled:
            loop.call_soon_threadsafe(schedule)

    held.store.after["due"] = read
    loop.advance(1)
    await held.listener.until(lambda told: bool(told.batches))
    await scheduled[0]
    assert held_bodies(held.listener.batches) == ["first"]
    await held.settle()
    loop.advance(1)
    await held.listener.until(lambda told: len(told.batches) == 2)
    assert held_bodies(held.listener.batches) == ["first", "second"]


async def test_a_clock_that_is_set_forward_brings_what_is_due_then(held: OpenLog) -> None:
    await held.log.schedule(some("a", "b", extras=later(3600, 7200)))
    manual_loop().set_clock(3601)
    for _ in range(2):
        manual_loop().advance(1)
        await held.settle()
    assert held_bodies(await held.batches()) == ["a"]


async def test_a_clock_that_is_set_back_keeps_back_what_is_not_due_then(held: OpenLog) -> None:
    await held.log.schedule(some("a", extras=later(5)))
    manual_loop().set_clock(-3600)
    for _ in range(10):
        manual_loop().advance(1)
        await held.settle()
    assert held.log.window == Window(1, 0)
    manual_loop().advance(3595)
    await held.listener.until(lambda told: bool(told.batches))


async def test_events_alone_and_scheduled_share_a_transaction(held: OpenLog) -> None:
    first = held.log.append(some("a"))
    scheduled = held.log.schedule(some("x", extras=later(1)))
    second = held.log.append(some("b"))
    await scheduled
    assert ((await first).first, (await second).first) == (1, 2)
    assert held.log.window == Window(1, 2)
    assert sum(held.log.commits.counts) == 1


async def test_a_release_that_fails_is_made_up_for_and_releases_nothing_twice(
    held: OpenLog,
) -> None:
    await held.log.schedule(some("a", "b", extras=later(1, 1)))
    held.fail("commit")
    manual_loop().advance(1)
    await held.listener.until(lambda told: told.problems == ["the disk is full"])
    assert held.log.window == Window(1, 0)
    await held.settle()
    held.heal()
    manual_loop().advance(1)
    await held.listener.until(lambda told: bool(told.batches))
    manual_loop().advance(5)
    await held.append("c")
    assert held_bodies(await held.batches()) == ["a", "b", "c"]


async def test_what_is_due_can_be_read_again_after_a_defect(
    held: OpenLog, caplog: pytest.LogCaptureFixture
) -> None:
    def defect() -> None:
        raise ValueError("a defect")

    await held.log.schedule(some("a", extras=later(1)))
    held.store.before["due"] = defect
    manual_loop().advance(1)
    await held.settle()
    assert "scheduled events could not be released" in caplog.text
    held.heal()
    manual_loop().advance(1)
    await held.listener.until(lambda told: bool(told.batches))
    assert held_bodies(await held.batches()) == ["a"]


# --- ids ------------------------------------------------------------------------------------------


async def test_the_ids_of_late_are_told_oldest_first(held: OpenLog) -> None:
    await held.append("a", "b", "c", ids=["1", "", "3"], routes=[a_route()] * 3)
    manual_loop().advance(1)
    await held.append("d", "e", ids=["4", "5"], routes=[a_route(source="x"), a_route(source="y")])
    manual_loop().advance(1)
    await held.log.schedule(some("f", "g", ids=["6", ""], extras=later(100, 100)))
    second, third = EPOCH_NS + SECOND_NS, EPOCH_NS + 2 * SECOND_NS
    expected = [
        RecentId("shop", "1", 1, EPOCH_NS),
        RecentId("shop", "3", 3, EPOCH_NS),
        RecentId("x", "4", 4, second),
        RecentId("y", "5", 5, second),
        RecentId("shop", "6", 0, third),
    ]
    assert list(await held.log.recent_ids(0, 10)) == expected
    assert list(await held.log.recent_ids(EPOCH_NS, 10)) == expected
    assert list(await held.log.recent_ids(EPOCH_NS + 1, 10)) == expected[2:]
    assert list(await held.log.recent_ids(second, 10)) == expected[2:]
    assert list(await held.log.recent_ids(third + 1, 10)) == []
    assert list(await held.log.recent_ids(0, 5)) == expected
    assert list(await held.log.recent_ids(0, 3)) == expected[2:]
    assert list(await held.log.recent_ids(0, 1)) == expected[4:]


async def test_the_newest_ids_are_those_of_the_newest_of_several_batches(held: OpenLog) -> None:
    total = 9000
    ids = [str(number) for number in range(total)]
    await held.append(*["x"] * total, ids=ids)
    found = await held.log.recent_ids(0, 5000)
    assert [each.id for each in found] == ids[-5000:]
    assert [each.sequence for each in found] == list(range(total - 4999, total + 1))


# --- restarts -------------------------------------------------------------------------------------


async def test_what_was_answered_is_there_after_a_restart(bench: Bench) -> None:
    before = await surviving(bench).open()
    routes = [a_route(), a_route("user.login")]
    await before.append("a", "b", routes=routes, ids=["", "2"])
    manual_loop().advance(1)
    await before.append("c", extras={0: Extra({"k": "v"}, "key", SECOND_NS)})
    kept = await before.batches()
    await before.log.close()
    after = await bench.open()
    assert after.log.log_id == before.log.log_id
    assert after.log.window == Window(1, 3)
    found = await after.batches()
    assert [batch.frames for batch in found] == [batch.frames for batch in kept]
    assert [batch.first for batch in found] == [1, 3]
    assert found[0].matching(EVERYTHING) == [(0, 2)]
    assert [each.id for each in await after.log.recent_ids(0, 10)] == ["2"]
    assert after.listener.batches == []
    assert await after.log.sequence_before(EPOCH_NS + SECOND_NS) == 2
    assert (await after.append("d")).first == 4


async def test_scheduled_events_survive_a_restart(bench: Bench) -> None:
    before = await surviving(bench).open()
    await before.log.schedule(some("soon", "late", ids=["1", "2"], extras=later(5, 50)))
    await before.log.close()
    manual_loop().advance(10)
    after = await bench.open()
    await after.listener.until(lambda told: bool(told.batches))
    assert held_bodies(await after.batches()) == ["soon"]
    assert [(each.id, each.sequence) for each in await after.log.recent_ids(0, 10)] == [
        ("2", 0),
        ("1", 1),
    ]
    await after.log.close()
    again = await bench.open()
    manual_loop().advance(40)
    await again.listener.until(lambda told: bool(told.batches))
    assert held_bodies(await again.batches()) == ["soon", "late"]


async def test_a_trimmed_log_knows_after_a_restart_where_it_was(bench: Bench) -> None:
    before = await surviving(bench).open(Retention(age_ns=SECOND_NS))
    await before.append("a", "b")
    await before.trim()
    await before.log.close()
    manual_loop().advance(-3600)
    after = await bench.open()
    assert after.log.window == Window(3, 2)
    assert await after.append("c") == Appended(3, EPOCH_NS)


async def test_time_does_not_run_backwards_over_a_restart(bench: Bench) -> None:
    before = await surviving(bench).open()
    await before.append("a")
    await before.log.close()
    manual_loop().advance(-3600)
    after = await bench.open()
    assert (await after.append("b")).time_ns == EPOCH_NS


async def test_a_clock_that_is_set_back_is_told_once_until_it_has_caught_up(
    held: OpenLog, caplog: pytest.LogCaptureFixture
) -> None:
    await held.append("a")
    for number in range(1, 3):
        manual_loop().set_clock(-10)
        for _ in range(3):
            assert (await held.append("b")).time_ns == EPOCH_NS
        assert caplog.text.count("the clock is 10 seconds behind the newest event") == number
        manual_loop().set_clock(0)
        await held.append("c")
    manual_loop().set_clock(-0.5)
    await held.append("d")
    assert len(caplog.records) == 2


async def test_another_log_has_another_id(bench: Bench, tmp_path: Path) -> None:
    first = await bench.open()
    other = bench.beside(tmp_path / "other")
    second = await other.open()
    assert first.log.log_id != second.log.log_id
    await other.close()

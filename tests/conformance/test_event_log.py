"""The contract of `EventLog`, for every backend that implements it; see core/ports.py."""

import asyncio

import pytest

from switchboard_server.backends.embedded import sqlite
from switchboard_server.backends.embedded.store import Retention
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.ports import Appended, ReadResult, Window
from switchboard_server.core.records import Extra
from tests.conformance.backends import (
    Bench,
    OpenLog,
    held_bodies,
    held_sequences,
    later,
    surviving,
)
from tests.support.events import a_route, numbered, read_back, some
from tests.support.loop import EPOCH_NS, manual_loop, turns

MUCH = 1 << 30


# --- appending ------------------------------------------------------------------------------------


async def test_an_empty_log_begins_at_one(held: OpenLog) -> None:
    log = held.log
    assert log.window == Window(1, 0)
    assert (log.pending_bytes, held.listener.problems) == (0, [])
    assert log.log_id
    for reading in (log.read(0, MUCH), log.read(7, MUCH), log.read_backward(1, MUCH)):
        assert await reading == ReadResult([], Window(1, 0))
    assert await log.sequence_before(EPOCH_NS) == 0
    assert list(await log.recent_ids(0, 10)) == []


async def test_appends_are_numbered_without_a_hole_in_the_order_of_the_calls(
    held: OpenLog,
) -> None:
    assert await held.append("a", "b") == Appended(1, EPOCH_NS)
    manual_loop().advance(1)
    assert await held.append("c") == Appended(3, EPOCH_NS + SECOND_NS)
    assert held.log.window == Window(1, 3)
    events = [event for batch in await held.batches() for event in read_back(batch.frames)]
    assert [(each.sequence, each.body) for each in events] == [(1, b"a"), (2, b"b"), (3, b"c")]
    assert [each.time_ns - EPOCH_NS for each in events] == [0, 0, SECOND_NS]


async def test_calls_of_one_moment_share_a_transaction_and_keep_their_order(
    held: OpenLog,
) -> None:
    futures = [held.log.append(numbered(3, 3 * number)) for number in range(100)]
    assert held.log.pending_bytes > 0
    answers = await asyncio.gather(*futures)
    assert [answer.first for answer in answers] == list(range(1, 301, 3))
    assert held_bodies(await held.batches()) == list(map(str, range(300)))
    assert sum(held.log.commits.counts) == 1
    assert held.log.pending_bytes == 0


async def test_calls_side_by_side_over_many_transactions_stay_next_to_each_other(
    held: OpenLog,
) -> None:
    async def caller(name: int) -> list[int]:
        firsts = []
        for number in range(10):
            answer = await held.append(f"{name}.{number}.0", f"{name}.{number}.1")
            firsts.append(answer.first)
        return firsts

    firsts = await asyncio.gather(*(caller(name) for name in range(8)))
    assert all(each == sorted(each) for each in firsts)
    found = held_bodies(await held.batches())
    for name, each in enumerate(firsts):
        for number, first in enumerate(each):
            assert found[first - 1 : first + 1] == [f"{name}.{number}.0", f"{name}.{number}.1"]
    assert len(found) == held.log.window.last == 160


async def test_a_large_call_is_one_append_of_many_batches(held: OpenLog) -> None:
    answer = await held.log.append(numbered(10_000))
    assert answer.first == 1
    batches = await held.batches()
    assert len(batches) > 1
    assert held_sequences(batches) == list(range(1, 10_001))


async def test_the_listener_has_the_events_before_the_answer_each_once(held: OpenLog) -> None:
    seen: list[int] = []
    futures = [held.log.append(numbered(5, 5 * number)) for number in range(20)]
    for future in futures:
        future.add_done_callback(lambda _: seen.append(sum(map(len, held.listener.batches))))
    await asyncio.gather(*futures)
    await turns()
    assert seen == [100] * 20
    assert held_sequences(held.listener.batches) == list(range(1, 101))
    assert [batch.frames for batch in held.listener.batches] == [
        batch.frames for batch in await held.batches()
    ]


async def test_cancelling_an_append_takes_nothing_back(held: OpenLog) -> None:
    future = held.log.append(some("a"))
    future.cancel()
    assert (await held.append("b")).first == 2
    assert held_bodies(await held.batches()) == ["a", "b"]


async def test_all_that_is_known_of_an_event_is_read_back(held: OpenLog) -> None:
    routes = [a_route("order.created"), a_route("größe", "日本", "🦉", 4), a_route("order.created")]
    extras = {
        0: Extra({"k": "v", "": ""}, "key", 10**18, 0),
        2: Extra({}, "", 315_576_000_000 * SECOND_NS, 1),
    }
    await held.append(
        "a", "b", "c", routes=routes, ids=["", 'ä\x00"\\\u2028', "c"], extras=extras, publisher="me"
    )
    (batch,) = await held.batches()
    (given,) = held.listener.batches
    for each in (batch, given):
        assert [each.route(index) for index in range(3)] == routes
        assert dict(each.ids) == {1: 'ä\x00"\\\u2028', 2: "c"}
        assert {i: dict(a) for i, a in each.attributes.items()} == {0: {"k": "v", "": ""}}
        assert dict(each.ordering_keys) == {0: "key"}
        assert dict(each.expiries) == {
            0: EPOCH_NS + 10**18,
            2: EPOCH_NS + 315_576_000_000 * SECOND_NS,
        }
    assert batch.ends == given.ends
    assert batch.frames == given.frames


async def test_time_never_runs_backwards_in_the_log(held: OpenLog) -> None:
    await held.append("a")
    manual_loop().advance(-3600)
    assert (await held.append("b")).time_ns == EPOCH_NS


# --- reading --------------------------------------------------------------------------------------


async def test_reading_begins_with_the_batch_that_holds_what_is_wanted(held: OpenLog) -> None:
    for number in range(4):
        await held.log.append(numbered(3, 3 * number))

    async def firsts(after: int, max_bytes: int = MUCH) -> list[int]:
        return [batch.first for batch in (await held.log.read(after, max_bytes)).batches]

    assert await firsts(0) == [1, 4, 7, 10]
    assert await firsts(2) == [1, 4, 7, 10]
    assert await firsts(3) == [4, 7, 10]
    assert await firsts(11) == [10]
    assert await firsts(12) == await firsts(13) == await firsts(10**15) == []
    size = len((await held.batches())[0].frames)
    assert await firsts(0, 1) == [1]
    assert await firsts(0, size) == [1]
    assert await firsts(0, size + 1) == [1, 4]
    assert await firsts(5, 1) == [4]


async def test_reading_backward_ends_with_the_batch_that_holds_what_is_wanted(
    held: OpenLog,
) -> None:
    for number in range(4):
        await held.log.append(numbered(3, 3 * number))

    async def firsts(before: int, max_bytes: int = MUCH) -> list[int]:
        return [batch.first for batch in (await held.log.read_backward(before, max_bytes)).batches]

    assert await firsts(13) == await firsts(14) == await firsts(10**15) == [1, 4, 7, 10]
    assert await firsts(12) == await firsts(11) == [1, 4, 7, 10]
    assert await firsts(10) == [1, 4, 7]
    assert await firsts(4) == await firsts(3) == await firsts(2) == [1]
    assert await firsts(1) == await firsts(0) == []
    size = len((await held.batches())[-1].frames)
    assert await firsts(13, 1) == [10]
    assert await firsts(13, size + 1) == [7, 10]
    assert await firsts(12, 1) == [10]
    assert await firsts(6, 1) == [4]


async def test_the_place_of_a_time_is_found(held: OpenLog) -> None:
    await held.log.append(numbered(2))
    manual_loop().advance(1)
    await held.log.append(numbered(2, 2))
    await held.log.append(numbered(2, 4))
    manual_loop().advance(1)
    await held.log.append(numbered(2, 6))

    async def before(seconds: float, nanos: int = 0) -> int:
        return await held.log.sequence_before(EPOCH_NS + round(seconds * SECOND_NS) + nanos)

    assert await held.log.sequence_before(0) == 0
    assert await before(0) == 0
    assert await before(0, 1) == 2
    assert await before(1) == 2
    assert await before(1, 1) == await before(2) == 6
    assert await before(2, 1) == await before(10**9) == 8
    assert await held.log.sequence_before(10**30) == 8


# --- retention ------------------------------------------------------------------------------------


async def test_what_is_too_old_is_removed_from_the_oldest_on(bench: Bench) -> None:
    held = await bench.open(Retention(age_ns=10 * SECOND_NS))
    await held.append_each("a", "b", "c")
    manual_loop().advance(7)
    await held.append("d")
    await held.trim()
    # 11 seconds have passed since the first, 10 since the second, 9 since the third.
    assert held.log.window == Window(3, 4)
    result = await held.log.read(0, MUCH)
    assert (held_bodies(result.batches), result.window) == (["c", "d"], Window(3, 4))
    assert await held.log.sequence_before(0) == 2
    assert await held.log.sequence_before(EPOCH_NS + 3 * SECOND_NS) == 3
    assert (await held.append("e")).first == 5


async def test_what_is_too_much_is_removed_from_the_oldest_on(bench: Bench) -> None:
    held = await bench.open(Retention(bytes=600_000))
    for number in range(8):
        await held.append(str(number) * 100_000)
    await held.trim()
    window = held.log.window
    assert 1 < window.first < 8
    assert window.last == 8
    batches = await held.batches()
    assert [batch.first for batch in batches] == list(range(window.first, 9))
    assert held.log.size <= 600_000
    assert held.log.size > 300_000
    assert list((await held.log.read_backward(window.first, MUCH)).batches) == []
    assert list((await held.log.read_backward(2, MUCH)).batches) == []
    found = (await held.log.read_backward(window.first + 1, MUCH)).batches
    assert [batch.first for batch in found] == [window.first]


async def test_scheduled_events_push_nothing_out_of_the_log(bench: Bench) -> None:
    held = await bench.open(Retention(bytes=100_000))
    await held.append("a" * 50_000)
    await held.append("b")
    await held.log.schedule(some(*["x" * 1000] * 1000, extras=later(*[1000] * 1000)))
    await held.trim()
    assert held.log.window == Window(1, 2)
    await held.append("c" * 50_000)
    await held.trim()
    assert held.log.window == Window(2, 3)


async def test_what_is_too_much_is_known_after_a_restart(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "COUNT_BYTES", 250_000)
    for number in range(5):
        held = await surviving(bench).open(Retention(bytes=600_000))
        for _ in range(3):
            await held.append("x" * 100_000)
        await held.trim()
        await held.trim()
        last = 3 * (number + 1)
        assert held.log.window == Window(max(1, last - 4), last)
        await held.log.close()


async def test_a_log_that_is_trimmed_to_nothing_goes_on_where_it_was(bench: Bench) -> None:
    held = await bench.open(Retention(age_ns=SECOND_NS))
    log = held.log
    await held.append("a", "b")
    await held.trim()
    assert log.window == Window(3, 2)
    for reading in (log.read(0, MUCH), log.read(2, MUCH), log.read_backward(3, MUCH)):
        assert await reading == ReadResult([], Window(3, 2))
    assert await log.sequence_before(EPOCH_NS) == 2
    assert await log.sequence_before(10**30) == 2
    assert list(await log.recent_ids(0, 10)) == []
    assert (await held.append("c")).first == 3
    assert log.window == Window(3, 3)
    assert held_bodies(await held.batches()) == ["c"]


async def test_nothing_is_removed_where_there_is_no_bound(held: OpenLog) -> None:
    await held.append("a")
    manual_loop().advance(10**9)
    await held.trim()
    assert held.log.window == Window(1, 1)


async def test_events_are_taken_while_the_log_is_trimmed(bench: Bench) -> None:
    held = await bench.open(Retention(bytes=1))
    for number in range(20):
        future = held.log.append(numbered(5, 5 * number))
        await held.trim()
        assert (await future).first == 5 * number + 1
    assert held.log.window.last == 100
    assert held_sequences(held.listener.batches) == list(range(1, 101))

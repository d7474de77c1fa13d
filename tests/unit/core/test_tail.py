"""The newest batches in memory, and who is offered what of them."""

import pickle
import tracemalloc
from collections.abc import Sequence
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.core import tail as module
from switchboard_server.core.filters import EVERYTHING, Filter, Route
from switchboard_server.core.records import Batch, Drafts, Extra, build_batches
from switchboard_server.core.tail import MATCH_BYTES, Audience, Tail, assemble
from tests.support.events import PlainCodec, a_route, bodies, sequences, some
from tests.unit.core.strategies import ATTRIBUTES, FILTERS, ROUTES, brute_force

NOW = 1_700_000_000_000_000_000
ORDERS = Filter(types=("order.*",))


def a_batch(first: int, drafts: Drafts) -> Batch:
    (batch,) = build_batches([drafts], first, NOW, PlainCodec())
    return batch


class Sleeper:
    """A `Waiter` that counts."""

    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


def offered(audience: Audience) -> list[int]:
    """The sequences of all that an audience holds."""
    return [
        sequence
        for match in audience.matches.values()
        for sequence in sequences(match.batch.join(match.runs))
    ]


_BATCHES = st.lists(
    st.lists(st.tuples(ROUTES, ATTRIBUTES), min_size=1, max_size=5), min_size=1, max_size=5
)


@given(_BATCHES, st.lists(FILTERS, min_size=1, max_size=4))
def test_every_audience_is_offered_what_it_wants_of_every_batch(
    batches: list[list[tuple[Route, dict[str, str]]]], wishes: list[Filter]
) -> None:
    tail = Tail(1 << 20, 0)
    audiences = [tail.join(wish) for wish in wishes]
    events = [event for batch in batches for event in batch]
    for batch in batches:
        drafts = some(
            *["x"] * len(batch),
            routes=[route for route, _ in batch],
            extras={index: Extra(each) for index, (_, each) in enumerate(batch)},
        )
        tail.append(a_batch(tail.last + 1, drafts))
    for wish, audience in zip(wishes, audiences, strict=True):
        assert offered(audience) == [
            number
            for number, (route, attributes) in enumerate(events, 1)
            if brute_force(wish, route, attributes)
        ]


def test_equal_filters_are_one_audience_until_the_last_member_leaves() -> None:
    tail = Tail(1 << 20, 7)
    audience = tail.join(ORDERS)
    assert tail.join(Filter(types=("order.*", "order.*"))) is audience
    assert tail.join(EVERYTHING) is not audience
    assert (audience.members, audience.floor) == (2, 7)
    tail.leave(audience)
    tail.append(a_batch(8, some("a")))
    assert offered(audience) == [8]
    tail.leave(audience)
    tail.append(a_batch(9, some("b")))
    assert offered(audience) == [8]
    later = tail.join(ORDERS)
    assert later is not audience
    assert (later.floor, offered(later)) == (9, [])


def test_the_oldest_batches_leave_when_the_tail_is_full_and_the_newest_stays() -> None:
    batches = [a_batch(number, some("x" * 50)) for number in range(1, 5)]
    size = batches[0].weight + MATCH_BYTES
    tail = Tail(2 * size, 0)
    everything, orders = tail.join(EVERYTHING), tail.join(Filter(types=("none",)))
    for batch in batches[:2]:
        tail.append(batch)
    assert (tail.bytes, tail.floor, tail.last) == (2 * size, 0, 2)
    tail.append(batches[2])
    assert (tail.bytes, tail.floor, tail.last) == (2 * size, 1, 3)
    assert (everything.first, everything.floor, everything.end) == (1, 1, 3)
    assert (orders.first, orders.floor, orders.end) == (0, 0, 0)
    large = a_batch(4, some("x" * 500))
    tail.append(large)
    assert (tail.bytes, tail.floor, tail.last) == (large.weight + MATCH_BYTES, 3, 4)
    assert offered(everything) == [4]


_ONE = some("x" * 20)
_MANY = some(*("x" * 20 for _ in range(50)))
_WITH_IDS = some(*("x" * 20 for _ in range(50)), ids=[f"{number:036}" for number in range(50)])
_WITH_ATTRIBUTES = Drafts(
    [b"x" * 800],
    a_route("order.created"),
    extras={0: Extra({f"key-{number}": f"value-{number}" for number in range(64)})},
)


@pytest.mark.parametrize(
    ("drafts", "audiences"),
    [(_ONE, 0), (_ONE, 1), (_ONE, 20), (_MANY, 1), (_WITH_IDS, 1), (_WITH_ATTRIBUTES, 1)],
)
def test_a_tail_takes_no_more_memory_than_it_may_whatever_it_holds(
    drafts: Drafts, audiences: int
) -> None:
    limit = 1 << 20
    tail = Tail(limit, 0)
    for number in range(audiences):
        tail.join(Filter(types=("order.*", f"none-{number}")))
    tracemalloc.start()
    try:
        first = 1
        while tail.floor < 100:
            again = pickle.loads(pickle.dumps(drafts))  # noqa: S301 - one of its own for each
            tail.append(a_batch(first, again))
            first += len(drafts)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert limit / 3 < taken < limit * 1.3


def test_an_audience_that_came_later_does_not_lose_its_own_when_older_batches_leave() -> None:
    first, second, third = (a_batch(number, some("x")) for number in (1, 2, 3))
    tail = Tail(2 * (first.weight + 2 * MATCH_BYTES), 0)
    early = tail.join(EVERYTHING)
    tail.append(first)
    late = tail.join(Filter(types=("*",)))
    tail.append(second)
    tail.append(third)
    assert offered(early) == offered(late) == [2, 3]
    assert (early.first, late.first) == (1, 0)


def test_reading_the_tail_gives_what_follows_up_to_a_size() -> None:
    tail = Tail(1 << 20, 10)
    assert tail.read(10, 1 << 20) == []
    batches = [a_batch(first, some("a", "b")) for first in (11, 13, 15)]
    for batch in batches:
        tail.append(batch)
    size = len(batches[0].frames)
    assert tail.read(10, 1 << 20) == batches
    assert tail.read(12, 1 << 20) == batches[1:]
    assert tail.read(13, 1 << 20) == batches[1:], "a batch that holds the wanted event is whole"
    assert tail.read(16, 1 << 20) == []
    assert tail.read(10, 1) == batches[:1], "at least one"
    assert tail.read(10, size + 1) == batches[:2]


def test_who_waits_is_woken_once_by_a_match_and_by_nothing_else() -> None:
    tail = Tail(1 << 20, 0)
    audience = tail.join(ORDERS)
    sleeper, gone = Sleeper(), Sleeper()
    audience.wait(sleeper)
    audience.wait(gone)
    audience.forget(gone)
    audience.forget(gone)
    tail.append(a_batch(1, some("a", routes=a_route("user.login"))))
    assert sleeper.woken == 0
    tail.append(a_batch(2, some("a")))
    tail.append(a_batch(3, some("a")))
    assert (sleeper.woken, gone.woken) == (1, 0)


def taken(
    audience: Audience, number: int, after: int, now: int = NOW
) -> tuple[bytes, int, int, int]:
    chunk, following = audience.take(number, after, now)
    assert chunk.count == len(sequences(chunk.frames))
    return chunk.frames, chunk.count, chunk.last, following


def test_a_chunk_takes_all_matches_up_to_a_size() -> None:
    tail = Tail(1 << 20, 0)
    audience = tail.join(ORDERS)
    for first in (1, 3, 5):
        mixed = [a_route(), a_route("user.login")]
        tail.append(a_batch(first, some(str(first), "no", routes=mixed)))
    frames, total, last, following = taken(audience, 0, 0)
    assert (bodies(frames), total, last, following) == (["1", "3", "5"], 3, 6, 3)
    with mock.patch.object(module, "MAX_CHUNK_BYTES", 1):
        frames, total, last, following = taken(audience, 1, 2)
    assert (bodies(frames), last, following) == (["3"], 4, 2)


def test_members_that_run_side_by_side_share_one_chunks_bytes() -> None:
    tail = Tail(1 << 20, 0)
    audience = tail.join(EVERYTHING)
    tail.join(EVERYTHING)
    for first in (1, 2):
        tail.append(a_batch(first, some("a")))
    one, other = taken(audience, 0, 0)[0], taken(audience, 0, 0)[0]
    assert one is other
    assert sequences(one) == [1, 2]
    tail.append(a_batch(3, some("a")))
    assert sequences(taken(audience, 0, 0)[0]) == [1, 2, 3]
    assert sequences(taken(audience, 1, 1)[0]) == [2, 3]


def test_what_is_shared_is_let_go_with_the_batches_it_is_made_of() -> None:
    batches = [a_batch(number, some("x" * 50)) for number in (1, 2, 3)]
    tail = Tail(2 * (batches[0].weight + MATCH_BYTES), 0)
    audience = tail.join(EVERYTHING)
    tail.join(EVERYTHING)
    for batch in batches[:2]:
        tail.append(batch)
    taken(audience, 0, 0)
    assert audience._shared[0]
    tail.append(batches[2])
    assert not audience._shared[0]


def test_who_begins_within_a_batch_gets_the_rest_of_it() -> None:
    tail = Tail(1 << 20, 0)
    audience = tail.join(EVERYTHING)
    tail.join(EVERYTHING)
    tail.append(a_batch(1, some("a", "b", "c")))
    tail.append(a_batch(4, some("d")))
    assert audience.number_after(2) == 0
    frames, total, last, _ = taken(audience, 0, 2)
    assert (bodies(frames), total, last) == (["c", "d"], 2, 4)
    assert bodies(taken(audience, 0, 1)[0]) == ["b", "c", "d"]
    assert bodies(taken(audience, 0, 0)[0]) == ["a", "b", "c", "d"]
    assert audience.number_after(3) == 1
    assert audience.number_after(4) == audience.end == 2


def test_expired_events_are_left_out_for_each_who_asks() -> None:
    tail = Tail(1 << 20, 0)
    audience = tail.join(EVERYTHING)
    tail.join(EVERYTHING)
    tail.append(a_batch(1, some("a", "b", extras={0: Extra(ttl_ns=10)})))
    assert bodies(taken(audience, 0, 0, NOW + 9)[0]) == ["a", "b"]
    assert bodies(taken(audience, 0, 0, NOW + 10)[0]) == ["b"]
    tail.append(a_batch(3, some("c", extras={0: Extra(ttl_ns=10)})))
    frames, total, last, _ = taken(audience, 1, 2, NOW + 10)
    assert (frames, total, last) == (b"", 0, 3)


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=6), st.integers(0, 3))
def test_assembling_joins_what_lives(parts: Sequence[tuple[int, bool]], passed: int) -> None:
    matches, expected, first = [], [], 1
    for size, expires in parts:
        extras = {0: Extra(ttl_ns=2)} if expires else {}
        batch = a_batch(first, some(*["x"] * size, extras=extras))
        matches.append((batch, batch.all_runs()))
        dead = expires and passed >= 2
        expected += list(range(first + dead, first + size))
        first += size
    frames, total = assemble(matches, NOW + passed)
    assert sequences(frames) == expected
    assert total == len(expected)


def test_a_batch_that_does_not_follow_makes_everybody_look_into_the_log() -> None:
    tail = Tail(1 << 20, 0)
    audience, orders = tail.join(EVERYTHING), tail.join(Filter(types=("nothing",)))
    tail.append(a_batch(1, some("a", "b")))
    tail.append(a_batch(9, some("c")))
    assert (tail.floor, tail.last) == (8, 9)
    assert audience.floor == orders.floor == 8
    assert offered(audience) == [9]
    assert audience.number_after(8) == 1
    assert tail.read(8, 1 << 20)[0].first == 9

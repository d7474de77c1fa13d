"""Drafts, and the batches made of them, against reading everything one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.core import records
from switchboard_server.core.errors import invalid_field
from switchboard_server.core.filters import EVERYTHING, Filter, Route
from switchboard_server.core.records import (
    Batch,
    Drafts,
    Extra,
    assigned_id,
    build_batches,
    count,
    runs_of,
)
from tests.support.events import PlainCodec, a_route, bodies, read_back, sequences, some
from tests.unit.core.strategies import EXTRAS, FILTERS, ROUTES, brute_force

TIME = 1_700_000_000_000_000_000


class Item(NamedTuple):
    """One event, as a publisher sees it."""

    route: Route
    id: str
    extra: Extra | None
    body: bytes


ITEMS = st.builds(
    Item,
    ROUTES,
    st.sampled_from(["", "", "id1", "id2"]),
    st.one_of(st.none(), EXTRAS),
    st.integers(0, 90).map(bytes),
)


PLAIN = ITEMS.map(lambda item: item._replace(id="", extra=None))


@dataclass
class Call:
    """Events of one call, with the choices that a door has in putting them together."""

    items: list[Item]
    one_route: bool
    with_ids: bool
    publisher: str

    def drafts(self) -> Drafts:
        if self.one_route:
            self.items = [item._replace(route=self.items[0].route) for item in self.items]
        if not self.with_ids:
            self.items = [item._replace(id="") for item in self.items]
        routes = [item.route for item in self.items]
        return Drafts(
            [item.body for item in self.items],
            routes[0] if self.one_route else routes,
            ids=[item.id for item in self.items] if self.with_ids else None,
            extras={i: item.extra for i, item in enumerate(self.items) if item.extra is not None},
            publisher=self.publisher,
        )


CALLS = st.lists(
    st.builds(
        Call,
        st.one_of(st.lists(ITEMS, min_size=1, max_size=6), st.lists(PLAIN, min_size=1, max_size=2)),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["", "", "me"]),
    ),
    min_size=1,
    max_size=6,
)


def built(calls: Sequence[Call], first: int = 100) -> tuple[list[Item], list[Batch]]:
    waiting = [call.drafts() for call in calls]
    items = list(chain.from_iterable(call.items for call in calls))
    return items, build_batches(waiting, first, TIME, PlainCodec())


def indexes(runs: Sequence[tuple[int, int]]) -> list[int]:
    return [index for start, stop in runs for index in range(start, stop)]


@given(CALLS, st.sampled_from([1, 3, 4096]), st.sampled_from([1, 100, 300, 1 << 18]))
def test_batches_hold_every_event_once_in_order_with_all_that_is_known_of_it(
    calls: list[Call], max_events: int, max_bytes: int
) -> None:
    with (
        mock.patch.object(records, "MAX_BATCH_EVENTS", max_events),
        mock.patch.object(records, "MAX_BATCH_BYTES", max_bytes),
    ):
        items, batches = built(calls)
    publishers = [call.publisher for call in calls for _ in call.items]
    sequence = 100
    for batch in batches:
        assert batch.first == sequence
        assert batch.time_ns == TIME
        assert len(batch) > 0
        for index in range(len(batch)):
            item = items[sequence - 100]
            (told,) = read_back(batch.frame(index))
            assert (told.sequence, told.time_ns, told.body) == (sequence, TIME, item.body)
            assert told.publisher == publishers[sequence - 100]
            assert told.id == batch.ids.get(index, "") == item.id
            assert batch.route(index) == item.route
            extra = item.extra or Extra()
            assert batch.attributes.get(index, {}) == extra.attributes
            assert batch.ordering_keys.get(index, "") == extra.ordering_key
            expiry = TIME + extra.ttl_ns if extra.ttl_ns else None
            assert batch.expiries.get(index) == expiry
            sequence += 1
        assert batch.last == sequence - 1
        assert len(batch.frames) == batch.ends[-1]
        assert set(batch.routes) == {batch.route(index) for index in range(len(batch))}
        columns = (batch.ids, batch.attributes, batch.ordering_keys, batch.expiries)
        assert all(0 <= index < len(batch) for column in columns for index in column)
    assert sequence == 100 + len(items)


@given(CALLS, st.sampled_from([1, 3, 4096]), st.sampled_from([1, 100, 300, 1 << 18]))
def test_batches_are_cut_where_what_comes_next_does_not_fit_and_nowhere_else(
    calls: list[Call], max_events: int, max_bytes: int
) -> None:
    joined = records._merged([call.drafts() for call in calls])
    ends = list(accumulate(map(len, joined), initial=99))
    with (
        mock.patch.object(records, "MAX_BATCH_EVENTS", max_events),
        mock.patch.object(records, "MAX_BATCH_BYTES", max_bytes),
    ):
        _, batches = built(calls)
    for batch in batches:
        assert len(batch) <= max_events
        assert len(batch.frames) <= max_bytes or len(batch) == 1
    sizes = [len(batch.frame(index)) for batch in batches for index in range(len(batch))]
    for batch in batches[:-1]:
        # Between calls where the whole next one does not fit, within one where the next event does.
        after = batch.last + 1
        stop = next(end for end in ends if end >= after) if batch.last in ends else after
        more = sum(sizes[after - 100 : stop - 99])
        full = len(batch) + stop - batch.last > max_events
        assert full or len(batch.frames) + more > max_bytes


@given(CALLS, FILTERS, st.integers(0, 12))
def test_matching_finds_what_the_filter_matches_from_an_index_on(
    calls: list[Call], wish: Filter, start: int
) -> None:
    items, (batch,) = built(calls)
    runs = batch.matching(wish, start)
    assert indexes(runs) == [
        index
        for index, item in enumerate(items)
        if index >= start
        and brute_force(wish, item.route, item.extra.attributes if item.extra else {})
    ]
    assert all(opened < stop for opened, stop in runs)
    assert all(stop < opened for (_, stop), (opened, _) in pairwise(runs)), "runs are maximal"
    assert sequences(batch.join(runs)) == [100 + index for index in indexes(runs)]
    assert batch.size(runs) == len(batch.join(runs))


@given(CALLS, st.one_of(st.just(EVERYTHING), FILTERS), st.sampled_from([0, 1, 2 * 10**9, 10**10]))
def test_what_has_expired_is_taken_out_of_runs(
    calls: list[Call], wish: Filter, passed: int
) -> None:
    items, (batch,) = built(calls)
    runs = batch.matching(wish)
    ttls = [item.extra.ttl_ns if item.extra else 0 for item in items]
    assert indexes(batch.live(runs, TIME + passed)) == [
        index for index in indexes(runs) if not ttls[index] or passed < ttls[index]
    ]


@given(st.sets(st.integers(0, 30)))
def test_runs_join_indexes(chosen: set[int]) -> None:
    runs = runs_of(sorted(chosen))
    assert indexes(runs) == sorted(chosen)
    assert count(runs) == len(chosen)
    assert all(stop < opened for (_, stop), (opened, _) in pairwise(runs))


def test_all_events_of_a_batch_are_its_bytes_uncopied() -> None:
    (batch,) = build_batches([some("a", "b", "c")], 1, TIME, PlainCodec())
    assert batch.join(batch.all_runs()) is batch.frames
    assert batch.join(batch.matching(EVERYTHING)) is batch.frames
    assert bodies(batch.join([(0, 1), (2, 3)])) == ["a", "c"]


def test_events_expire_one_by_one() -> None:
    extras = {index: Extra(ttl_ns=ttl) for index, ttl in enumerate((1, 30, 20))}
    (batch,) = build_batches([some("a", "b", "c", "d", extras=extras)], 1, TIME, PlainCodec())
    runs = batch.all_runs()
    assert indexes(batch.live(runs, TIME + 1)) == [1, 2, 3]
    assert indexes(batch.live(runs, TIME + 20)) == [1, 3]
    assert indexes(batch.live(runs, TIME + 30)) == [3]


def test_a_run_that_lives_as_a_whole_is_not_made_anew() -> None:
    drafts = some("a", "b", extras={0: Extra(ttl_ns=5)})
    (batch,) = build_batches([drafts], 1, TIME, PlainCodec())
    runs = batch.all_runs()
    assert batch.live(runs, TIME + 4) is runs
    assert batch.live(runs, TIME + 5) == [(1, 2)]


def test_nothing_makes_no_batch() -> None:
    assert build_batches([], 1, TIME, PlainCodec()) == []


def test_a_batch_of_one_route_names_it_once() -> None:
    same = [a_route(), a_route()]
    (batch,) = build_batches([some("a", "b", routes=same)], 1, TIME, PlainCodec())
    assert batch.routes == (a_route(),)
    assert batch.route_of is None


@pytest.mark.parametrize("total", [4096, 4097, 8192, 10_000])
def test_a_commit_of_many_events_is_cut_at_the_limit(total: int) -> None:
    batches = build_batches([some(*["x"] * total)], 1, TIME, PlainCodec())
    assert [len(batch) for batch in batches] == [
        min(4096, total - done) for done in range(0, total, 4096)
    ]
    assert [batch.first for batch in batches] == list(range(1, total + 1, 4096))


def test_an_event_larger_than_a_batch_may_be_stands_alone() -> None:
    large = "x" * (300 * 1024)
    batches = build_batches([some("a", large, large, "b")], 1, TIME, PlainCodec())
    assert [bodies(batch.frames) for batch in batches] == [["a"], [large], [large], ["b"]]


def test_selected_drafts_keep_what_belongs_to_them() -> None:
    routes = [a_route("a"), a_route("b"), a_route("c")]
    extra = Extra(ordering_key="k")
    drafts = some(
        "x",
        "y",
        "z",
        routes=routes,
        ids=["1", "", "3"],
        extras={2: extra, 1: Extra()},
        refused={1: invalid_field("ttl", "is negative")},
        publisher="me",
    )
    chosen = drafts.select([0, 2])
    assert chosen.bodies == [b"x", b"z"]
    assert [chosen.route(0), chosen.route(1)] == [routes[0], routes[2]]
    assert chosen.ids == ["1", "3"]
    assert chosen.extras == {1: extra}
    assert chosen.refused == {}
    assert chosen.publisher == "me"
    shared = some("x", "y").select([1])
    assert (shared.routes, shared.ids, shared.bodies) == (a_route(), None, [b"y"])


def test_drafts_tell_their_size_and_each_route_once() -> None:
    routes = [a_route("b"), a_route("a"), a_route("b")]
    drafts = some("x", "yy", "", routes=routes)
    assert (len(drafts), drafts.size()) == (3, 3)
    assert list(drafts.distinct_routes()) == [a_route("b"), a_route("a")]
    assert list(some("x", "y").distinct_routes()) == [a_route()]


def test_the_hubs_own_ids_name_the_log_and_the_place_in_it() -> None:
    assert assigned_id("ab12", 1) == "ab12-001"
    assert assigned_id("ab12", 0xFFFF) == "ab12-ffff"

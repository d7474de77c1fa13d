"""Batches and scheduled events as rows, and back."""

from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.backends.embedded import rows
from switchboard_server.core.filters import Route
from switchboard_server.core.ports import RecentId
from switchboard_server.core.records import Batch, Drafts, Extra, build_batches
from tests.support.events import PlainCodec, some

TIME = 1_700_000_000_000_000_000
NAMES = st.text(max_size=20)
ROUTES = st.builds(Route, NAMES, NAMES, NAMES, st.integers(1, 4))
EXTRAS = st.builds(
    Extra,
    st.dictionaries(NAMES, NAMES, max_size=3),
    NAMES,
    st.one_of(st.just(0), st.integers(1, 10**21)),
    st.integers(0, 10**19),
)


@st.composite
def drafts(draw: st.DrawFn) -> Drafts:
    bodies = draw(st.lists(st.binary(max_size=30), min_size=1, max_size=6))
    size = len(bodies)
    several = st.lists(ROUTES, min_size=size, max_size=size)
    names = st.lists(NAMES, min_size=size, max_size=size)
    return Drafts(
        bodies,
        draw(st.one_of(ROUTES, several)),
        ids=draw(st.one_of(st.none(), names)),
        extras=draw(st.dictionaries(st.integers(0, size - 1), EXTRAS, max_size=size)),
        publisher=draw(NAMES),
    )


BATCHES = st.builds(
    lambda waiting, first: build_batches(waiting, first, TIME, PlainCodec())[0],
    st.lists(drafts(), min_size=1, max_size=3),
    st.integers(1, 2**62),
)


def columns(batch: Batch) -> tuple[object, ...]:
    """All that a batch holds."""
    return (
        (batch.first, batch.last, batch.time_ns, batch.frames, batch.ends, batch.routes),
        (batch.route_of, dict(batch.ids), {i: dict(a) for i, a in batch.attributes.items()}),
        (dict(batch.ordering_keys), dict(batch.expiries)),
    )


@given(BATCHES)
def test_a_batch_comes_back_as_it_was(batch: Batch) -> None:
    row = rows.from_batch(batch)
    last, first, time_ns, size, *_ = row
    assert (last, first, time_ns) == (batch.last, batch.first, TIME)
    assert size > len(batch.frames)
    back = rows.to_batch(row)
    assert back is not None
    assert columns(back) == columns(batch)


@given(BATCHES)
def test_the_ids_of_a_batch_are_read_without_its_events(batch: Batch) -> None:
    _, first, time_ns, _, _, _, header, ends, route_of, _ = rows.from_batch(batch)
    assert rows.recent_ids(first, time_ns, header, len(ends) // 4, route_of) == [
        RecentId(batch.route(index).source_service, each, batch.first + index, TIME)
        for index, each in batch.ids.items()
    ]


@given(BATCHES, st.integers(0, 10**6), st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_found(batch: Batch, place: int, bit: int) -> None:
    *head, crc, header, ends, route_of, frames = rows.from_batch(batch)
    parts = [header.encode(), ends, route_of or b"", frames]
    place %= sum(map(len, parts))
    flat = bytearray(chain.from_iterable(parts))
    flat[place] ^= 1 << bit
    cut: list[bytes] = []
    for part in parts:
        cut.append(bytes(flat[: len(part)]))
        del flat[: len(part)]
    text = cut[0].decode(errors="replace")
    damaged = (*head, crc, text, cut[1], None if route_of is None else cut[2], cut[3])
    assert rows.to_batch(damaged) is None  # type: ignore[arg-type]
    rows.recent_ids(head[1], head[2], text, len(ends) // 4, None if route_of is None else cut[2])


@given(drafts(), st.integers(1, 2**62))
def test_scheduled_events_come_back_one_by_one(waiting: Drafts, accepted: int) -> None:
    for index in range(len(waiting)):
        waiting.extras.setdefault(index, Extra(deliver_at_ns=TIME))
    found = list(rows.from_scheduled(waiting, accepted))
    assert len(found) == len(waiting)
    for index, row in enumerate(found):
        due, when, crc, header, body = row
        extra = waiting.extras[index]
        assert (due, when) == (extra.deliver_at_ns, accepted)
        given_id = waiting.ids[index] if waiting.ids else ""
        assert rows.to_scheduled((due, when, crc ^ 1, header, body)) is None
        back = rows.to_scheduled(row)
        assert back == Drafts(
            [waiting.bodies[index]],
            waiting.route(index),
            ids=[given_id] if given_id else None,
            extras={0: replace(extra, attributes=dict(extra.attributes))},
            publisher=waiting.publisher,
        )
        source = waiting.route(index).source_service
        assert rows.scheduled_id(header, accepted) == RecentId(source, given_id, 0, accepted)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"routes":[],"ids":{"0":"a"}}'])
def test_damaged_headers_do_not_hold_anybody_up(text: str) -> None:
    assert rows.recent_ids(1, TIME, text, 1, None) == []
    assert rows.recent_ids(1, TIME, text, 1, b"\x00") == []
    assert rows.to_scheduled((1, TIME, 0, text, b"")) is None
    assert rows.scheduled_id(text, TIME).id == ""


def test_a_header_holds_nothing_of_what_no_event_has() -> None:
    (batch,) = build_batches([some("a", "b")], 1, TIME, PlainCodec())
    row = rows.from_batch(batch)
    assert row[6] == '{"routes":[["order.created","shop","",2]]}'
    assert row[8] is None

"""Records of the stream: what others read of them, and what a node gets back."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard.v1 import event_pb2, subscription_pb2
from switchboard_server.backends.rabbitmq.place import Place, Verdict
from switchboard_server.backends.rabbitmq.records import (
    VERSION,
    Answers,
    Columns,
    DraftColumns,
    Marker,
    RecordError,
    columns_to_drafts,
    decode_batches,
    decode_columns,
    decode_marker,
    drafts_to_columns,
    encode_marker,
    encode_record,
    routing_keys,
)
from switchboard_server.core.filters import Route
from switchboard_server.core.records import Batch, Drafts, Extra, build_batches
from switchboard_server.wire.codec import DeliveryCodec
from tests.support.events import PlainCodec, a_route, some

NOW = 1_700_000_000_000_000_000

_TEXTS = st.text(max_size=5)
_EXTRAS = st.builds(
    Extra,
    st.dictionaries(_TEXTS, _TEXTS, max_size=2),
    _TEXTS,
    st.integers(0, 315_576_000_000 * 10**9),
    st.integers(0, 1 << 62),
    _TEXTS,
)
_ROUTES = st.builds(Route, _TEXTS, _TEXTS, _TEXTS, st.integers(1, 4))


@st.composite
def _drafts(draw: st.DrawFn) -> Drafts:
    bodies = draw(st.lists(st.binary(max_size=5), min_size=1, max_size=6))
    one = draw(st.booleans())
    count = len(bodies)
    return Drafts(
        bodies,
        draw(_ROUTES) if one else draw(st.lists(_ROUTES, min_size=count, max_size=count)),
        draw(st.none() | st.lists(_TEXTS, min_size=count, max_size=count)),
        draw(st.dictionaries(st.integers(0, count - 1), _EXTRAS, max_size=2)),
        publisher=draw(_TEXTS),
    )


def columns_of(batch: Batch) -> tuple[object, ...]:
    """All that a batch says."""
    indexes = range(len(batch))
    return (
        batch.first,
        batch.time_ns,
        batch.frames,
        list(batch.ends),
        [batch.route(index) for index in indexes],
        dict(batch.ids),
        {index: dict(each) for index, each in batch.attributes.items()},
        dict(batch.ordering_keys),
        dict(batch.expiries),
        dict(batch.correlation_ids),
    )


@given(st.lists(_drafts(), min_size=1, max_size=4), st.integers(1, 1 << 40))
def test_a_record_is_read_back_as_it_was_written(waiting: list[Drafts], first: int) -> None:
    batches = build_batches(waiting, first, NOW, PlainCodec())
    answers = [Answers("node", 7, [len(each) for each in waiting], {0: {1: 2}})]
    body = encode_record(batches, log_id="id", epoch=3, answers=answers, released=[5])
    columns = decode_columns(body)
    assert (columns.log_id, columns.epoch, columns.released) == ("id", 3, [5])
    assert (columns.first, columns.last) == (first, batches[-1].last)
    assert columns.answers == answers
    assert list(map(columns_of, decode_batches(body, columns))) == list(map(columns_of, batches))


@given(_drafts())
def test_drafts_are_received_as_they_were_sent(drafts: Drafts) -> None:
    sent = msgspec.msgpack.encode(drafts_to_columns(drafts))
    received = columns_to_drafts(msgspec.msgpack.decode(sent, type=DraftColumns))
    indexes = range(len(drafts))
    assert [received.route(index) for index in indexes] == [drafts.route(i) for i in indexes]
    assert (received.bodies, received.publisher) == (drafts.bodies, drafts.publisher)
    assert received.ids == (drafts.ids or None)
    assert received.extras == drafts.extras


def test_the_body_of_a_record_is_a_response_that_others_can_parse() -> None:
    event = event_pb2.Event(type="order.paid", source_service="shop", text="a")
    drafts = Drafts([event.SerializeToString()] * 3, a_route("order.paid"))
    batches = build_batches([drafts], 5, NOW, DeliveryCodec())
    body = encode_record(batches, log_id="id", epoch=1)
    response = subscription_pb2.SubscribeResponse.FromString(body)
    assert [each.event.sequence for each in response.deliveries] == [5, 6, 7]
    assert {each.event.text for each in response.deliveries} == {"a"}
    response.DiscardUnknownFields()
    assert response == subscription_pb2.SubscribeResponse.FromString(batches[0].frames)


@pytest.mark.parametrize("body", [b"", b"abc", b"\xff" * 50, b"\x00" * 50])
def test_what_is_no_record_is_told(body: bytes) -> None:
    with pytest.raises(RecordError):
        decode_columns(body)
    with pytest.raises(RecordError):
        decode_marker(body)


def test_columns_that_do_not_fit_the_deliveries_are_told() -> None:
    (batch,) = build_batches([some("a", "b")], 1, NOW, PlainCodec())
    body = encode_record([batch], log_id="id", epoch=1)
    with pytest.raises(RecordError, match="do not fit"):
        decode_batches(body[1:], decode_columns(body[1:]))


def test_what_a_later_version_writes_is_not_guessed_at() -> None:
    marker = Marker(VERSION + 1, "id", 1, "nonce", 0, 0, 1)
    with pytest.raises(RecordError, match="version"):
        decode_marker(encode_marker(marker))


def test_routing_keys_are_cut_to_what_amqp_holds() -> None:
    long = "ü" * 200
    batches = build_batches(
        [some("a", "b", "c", routes=[a_route("x"), a_route(long), a_route("x", "other")])],
        1,
        NOW,
        PlainCodec(),
    )
    keys = routing_keys(batches)
    assert keys == ["x", "ü" * 127]
    assert all(len(key.encode()) <= 255 for key in keys)


# --- what counts ---------------------------------------------------------------------------------


def a_record(first: int, count: int, epoch: int, log_id: str = "id") -> Columns:
    batches = build_batches([some(*["x"] * count)], first, NOW + first, PlainCodec())
    return decode_columns(encode_record(batches, log_id=log_id, epoch=epoch))


def a_marker(epoch: int, last: int = 0, nonce: str = "", log_id: str = "id") -> Marker:
    return Marker(VERSION, log_id, epoch, nonce or f"term {epoch}", last, NOW, epoch)


def test_what_an_earlier_term_writes_after_a_marker_does_not_count() -> None:
    place = Place()
    assert place.mark(a_marker(1)) is Verdict.COUNTS
    assert place.take(a_record(1, 3, 1)) is Verdict.COUNTS
    assert place.mark(a_marker(2, 3)) is Verdict.COUNTS
    assert place.take(a_record(4, 2, 1)) is Verdict.STALE
    assert place.mark(a_marker(1, 9)) is Verdict.STALE
    assert place.mark(a_marker(2, 9, "another")) is Verdict.STALE
    assert place.take(a_record(4, 5, 2)) is Verdict.COUNTS
    assert (place.last, place.epoch, place.nonce) == (8, 2, "term 2")


def test_what_follows_a_lost_record_of_a_term_does_not_count() -> None:
    place = Place()
    place.mark(a_marker(1))
    place.take(a_record(1, 1, 1))
    assert place.take(a_record(3, 1, 1)) is Verdict.STALE
    assert place.take(a_record(1, 1, 1)) is Verdict.STALE
    assert place.take(a_record(2, 1, 1)) is Verdict.COUNTS


def test_a_reader_that_begins_anywhere_goes_on_from_there() -> None:
    place = Place()
    assert place.take(a_record(70, 2, 4)) is Verdict.COUNTS
    assert place.take(a_record(72, 1, 5)) is Verdict.STALE
    assert place.mark(a_marker(5, 71)) is Verdict.COUNTS
    assert place.take(a_record(72, 1, 5)) is Verdict.COUNTS


def test_where_a_stream_lost_something_the_marker_tells_where_it_goes_on() -> None:
    place = Place()
    place.take(a_record(1, 2, 1))
    place.loose = True
    assert place.take(a_record(9, 1, 1)) is Verdict.COUNTS
    assert place.mark(a_marker(2, 20)) is Verdict.COUNTS
    assert place.last == 20
    assert place.take(a_record(21, 1, 2)) is Verdict.COUNTS


def test_another_log_is_told_and_taken_only_when_that_is_asked_for() -> None:
    place = Place()
    place.take(a_record(1, 5, 3))
    assert place.mark(a_marker(1, 0, log_id="other")) is Verdict.FOREIGN
    assert place.take(a_record(1, 1, 9, "other")) is Verdict.FOREIGN
    assert (place.log_id, place.last) == ("id", 5)
    place.begin_anew()
    assert place.mark(a_marker(1, 0, log_id="other")) is Verdict.COUNTS
    # Nobody here is told a sequence twice.
    assert place.last == 5

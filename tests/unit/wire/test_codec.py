"""Deliveries made by joining bytes, against protobuf's own serializer."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from switchboard.v1 import event_pb2, event_service_pb2, subscription_pb2
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.filters import Route
from switchboard_server.core.groups.entries import Entry
from switchboard_server.core.records import Drafts, assigned_id, build_batches
from switchboard_server.wire.codec import DeliveryCodec, event_field, tagged, timestamp, varint

ROUTE = Route("order.created", "shop", "", 2)
LOG_ID = "c0ffee42"
TIME = 1_700_000_000_123_456_789
EDGES = [1, 4095, 4096, 16_383, 16_384, 1 << 21, 1 << 28, 1 << 32, 1 << 35, 1 << 62]
LENGTHS = [0, 1, 60, 100, 127, 128, 4095, 4096, 16_383, 16_384, 1 << 21]


def a_codec() -> DeliveryCodec:
    codec = DeliveryCodec()
    codec.log_id = LOG_ID
    return codec


def expected(drafts: Drafts, first: int, time_ns: int) -> subscription_pb2.SubscribeResponse:
    """What subscribers are to parse, made the slow way."""
    response = subscription_pb2.SubscribeResponse()
    for index, body in enumerate(drafts.bodies):
        event = response.deliveries.add().event
        event.ParseFromString(body)
        event.sequence = first + index
        event.publish_time.CopyFrom(
            Timestamp(seconds=time_ns // SECOND_NS, nanos=time_ns % SECOND_NS)
        )
        event.publisher = drafts.publisher
        given_id = drafts.ids[index] if drafts.ids else ""
        event.id = given_id or assigned_id(LOG_ID, first + index)
    return response


def check(drafts: Drafts, first: int, time_ns: int = TIME) -> None:
    pieces, sizes = a_codec().encode(drafts, first, time_ns)
    data = b"".join(pieces)
    assert len(sizes) == len(drafts)
    assert sum(sizes) == len(data)
    wanted = expected(drafts, first, time_ns)
    assert subscription_pb2.SubscribeResponse.FromString(data) == wanted
    at = 0
    for size, delivery in zip(sizes, wanted.deliveries, strict=True):
        frame = data[at : at + size]
        at += size
        assert list(subscription_pb2.SubscribeResponse.FromString(frame).deliveries) == [delivery]
        page = event_service_pb2.ListEventsResponse.FromString(event_field(frame))
        assert list(page.events) == [delivery.event]


BODIES = st.builds(
    lambda text, kind, length: event_pb2.Event(
        type=kind, source_service="shop", text=text, **({"binary": b"x" * length} if length else {})
    ).SerializeToString(),
    st.text(max_size=10),
    st.sampled_from(["", "order.created"]),
    st.sampled_from([0, 0, 0, *LENGTHS[:-1]]),
)


@st.composite
def drafts(draw: st.DrawFn) -> Drafts:
    bodies = draw(st.lists(BODIES, min_size=1, max_size=8))
    ids = draw(
        st.one_of(
            st.none(),
            st.lists(
                st.one_of(st.just(""), st.text(min_size=1, max_size=255)),
                min_size=len(bodies),
                max_size=len(bodies),
            ),
        )
    )
    for index, given_id in enumerate(ids or ()):
        bodies[index] += event_pb2.Event(id=given_id).SerializeToString()
    return Drafts(bodies, ROUTE, ids=ids, publisher=draw(st.text(max_size=200)))


@given(
    drafts(),
    st.one_of(
        st.builds(lambda edge, off: max(1, edge - off), st.sampled_from(EDGES), st.integers(0, 9)),
        st.integers(1, (1 << 63) - 10),
    ),
    st.one_of(st.just(TIME), st.integers(0, 253_402_300_799 * SECOND_NS)),
)
def test_any_events_parse_as_the_deliveries_they_are(
    waiting: Drafts, first: int, time_ns: int
) -> None:
    check(waiting, first, time_ns)


@pytest.mark.parametrize("first", [1, 4090, 16_380, (1 << 21) - 3, (1 << 32) - 5])
@pytest.mark.parametrize("with_ids", [False, True])
def test_many_events_run_over_every_edge(first: int, with_ids: bool) -> None:
    bodies = [event_pb2.Event(text=str(number)).SerializeToString() for number in range(9000)]
    ids = None
    if with_ids:
        ids = ["" if number % 3 else f"id{number}" for number in range(9000)]
        bodies = [
            body + event_pb2.Event(id=given_id).SerializeToString()
            for body, given_id in zip(bodies, ids, strict=True)
        ]
    check(Drafts(bodies, ROUTE, ids=ids, publisher="me"), first)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("with_small_ones", [False, True])
def test_bodies_of_every_length_parse(length: int, with_small_ones: bool) -> None:
    for exact in range(max(0, length - 2), length + 3):
        body = b"" if exact < 2 else _body_of(exact)
        bodies = [body, b"", body] if with_small_ones else [body]
        check(Drafts(bodies, ROUTE), 4096)


def _body_of(length: int) -> bytes:
    """An event of exactly so many bytes, where that is possible."""
    for overhead in range(2, 7):
        event = event_pb2.Event(binary=b"x" * max(0, length - overhead))
        if event.ByteSize() == length:
            return event.SerializeToString()
    return event_pb2.Event(binary=b"x" * (length - 2)).SerializeToString()


@given(st.integers(0, (1 << 64) - 1))
def test_varints_are_protobufs(number: int) -> None:
    event = event_pb2.Event.FromString(b"\x78" + varint(number))
    assert event.sequence == number


@given(st.binary(max_size=300))
def test_tagged_values_are_protobufs(value: bytes) -> None:
    assert event_pb2.Event.FromString(tagged(b"\x32", value)).binary == value


@given(st.integers(0, 253_402_300_799 * SECOND_NS))
def test_a_timestamp_replaces_one_that_stands_before_it(time_ns: int) -> None:
    earlier = Timestamp(seconds=5, nanos=7).SerializeToString()
    parsed = Timestamp.FromString(earlier + timestamp(time_ns))
    assert parsed.seconds * SECOND_NS + parsed.nanos == time_ns


@given(
    st.lists(
        st.sampled_from([0, 1, 60, 100, 126, 127, 128, 4000, 5000, 20_000]), min_size=1, max_size=8
    ),
    st.sampled_from([1, 2, 127, 128, 70_000]),
)
def test_leased_deliveries_are_the_events_with_name_and_attempt(
    lengths: list[int], attempt: int
) -> None:
    codec = a_codec()
    bodies = [event_pb2.Event(type="t", binary=bytes(each)).SerializeToString() for each in lengths]
    (batch,) = build_batches([Drafts(bodies, ROUTE)], 7, TIME, codec)
    names = [f"{index:x}-19-0badc0de" for index in range(len(bodies))]
    entries = [Entry(7 + at, 2, batch=batch, index=at) for at in range(len(bodies))]
    for entry, name in zip(entries, names, strict=True):
        entry.ack_id, entry.attempts = name, attempt
    pieces, sizes = codec.lease_all(entries)
    told = subscription_pb2.SubscribeResponse.FromString(b"".join(pieces)).deliveries
    assert [each.ack_id for each in told] == names
    assert {each.attempt for each in told} == {attempt}
    assert [len(each.event.binary) for each in told] == lengths
    assert [each.event.sequence for each in told] == [7 + at for at in range(len(bodies))]
    each = len(pieces) // len(sizes)
    parts = [b"".join(pieces[each * at : each * (at + 1)]) for at in range(len(sizes))]
    assert [len(part) for part in parts] == sizes
    assert all(len(subscription_pb2.SubscribeResponse.FromString(p).deliveries) == 1 for p in parts)

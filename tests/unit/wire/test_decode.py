"""Requests read in bulk, against reading every event by itself."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from switchboard.v1 import event_pb2, event_service_pb2, subscription_pb2
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import InvalidArgumentError, Violation, invalid_field
from switchboard_server.core.filters import Filter, Route
from switchboard_server.core.records import Drafts, Extra
from switchboard_server.wire.codec import DeliveryCodec, tagged
from switchboard_server.wire.decode import (
    MAX_DURATION_SECONDS,
    MAX_TIMESTAMP_SECONDS,
    MIN_TIMESTAMP_SECONDS,
    decode_duration,
    decode_event,
    decode_events,
    decode_filter,
    decode_time,
    parse,
    parse_events,
    prefixed,
)

TIME = 1_700_000_000_000_000_000
Request = event_service_pb2.PublishBatchRequest

# --- raw bytes of events, as clients of any make and malice may send them -------------------------


def part(**fields: Any) -> bytes:
    """Bytes of some fields of an event."""
    return event_pb2.Event(**fields).SerializeToString()


NAMES = ["", "a", "order.created", "ß", "x" * 200]
TOO_LONG = "x" * 256
_USUAL = [
    *(part(type=name) for name in NAMES),
    *(part(source_service=name) for name in NAMES),
    *(part(target_service=name) for name in NAMES),
    *(part(priority=number) for number in (0, 1, 4, 9, -1)),
    *(part(content_type=name) for name in ("text/plain", "x" * 255)),
    part(text="hello"),
    part(binary=b"\x00\xff"),
    part(data={"a": {"b": [1, None, "c"]}}),
    b"\x0a\x00",  # An id, written out though it is empty.
    b"\x12\x00",  # A type, likewise.
    b"\x50\x00",  # A priority, likewise.
    b"\x78\x00",  # A sequence, likewise.
    b"\x8a\x01\x00",  # A publisher, likewise.
]
_IDS = [part(id="1"), part(id="a much longer id")]
_RARE = [
    part(attributes={"k": "v"}),
    part(attributes={"k": "w", "": ""}),
    part(ordering_key="key"),
    part(correlation_id="c"),
    part(correlation_id=TOO_LONG),
    part(content_type=TOO_LONG),
    part(deliver_at=Timestamp(seconds=TIME // SECOND_NS + 60)),
    part(deliver_at=Timestamp(nanos=5)),
    part(deliver_at=Timestamp()),
    part(deliver_at=Timestamp(seconds=-1)),
    part(deliver_at=Timestamp(seconds=MIN_TIMESTAMP_SECONDS - 1)),
    part(deliver_at=Timestamp(nanos=-1)),
    part(ttl=Duration(seconds=3)),
    part(ttl=Duration(nanos=7)),
    part(ttl=Duration()),
    part(ttl=Duration(seconds=-3)),
]
_HUBS = [
    part(sequence=77),
    part(publish_time=Timestamp(seconds=5, nanos=5)),
    part(publish_time=Timestamp()),
    part(publisher="somebody else"),
]
_UNKNOWN = [
    b"\xa0\x06\x01",  # Field 100, a varint.
    b"\xa2\x06\x03abc",  # Field 100, bytes.
    b"\xa5\x06\x01\x02\x03\x04",  # Field 100, 32 bits.
    b"\xa3\x06\x08\x01\xa4\x06",  # Field 100, a group.
]
_ENVELOPE = part(type="order.created", source_service="shop")
_PIECES = st.one_of(
    st.sampled_from(_USUAL),
    st.sampled_from(_USUAL),
    st.sampled_from(_IDS),
    st.sampled_from(_RARE),
    st.sampled_from(_HUBS),
    st.sampled_from(_UNKNOWN),
)
EVENTS = st.one_of(
    st.just(_ENVELOPE),
    st.lists(st.sampled_from([*_USUAL, *_IDS]), max_size=4).map(b"".join),
    st.lists(_PIECES, max_size=7).map(b"".join),
)


def request_of(events: Iterable[bytes], between: bytes = b"") -> bytes:
    return b"".join(tagged(b"\x0a", event) + between for event in events)


@dataclass
class Naive:
    """What is to be read of one event, by protobuf alone."""

    event: event_pb2.Event
    route: Route
    extra: Extra | None
    problems: set[str]
    scheduled: bool


def naive(raw: bytes) -> Naive:
    event = event_pb2.Event.FromString(raw)
    for name in ("sequence", "publish_time", "publisher"):
        event.ClearField(name)
    problems = {
        name for name in ("content_type", "correlation_id") if len(getattr(event, name)) > 255
    }
    ttl = event.ttl.seconds * SECOND_NS + event.ttl.nanos
    due = event.deliver_at.seconds * SECOND_NS + event.deliver_at.nanos
    if event.HasField("ttl") and ttl <= 0:
        problems.add("ttl")
    if event.deliver_at.seconds < MIN_TIMESTAMP_SECONDS or event.deliver_at.nanos < 0:
        problems.add("deliver_at")
    due = max(0, due)
    rare = event.attributes or event.ordering_key or ttl or due or event.correlation_id
    return Naive(
        event,
        Route(event.type, event.source_service, event.target_service, event.priority or 2),
        Extra(dict(event.attributes), event.ordering_key, ttl, due, event.correlation_id)
        if rare
        else None,
        problems,
        due > 0,
    )


def check(drafts: Drafts, raws: list[bytes]) -> None:
    """Compares what was read in bulk with what is to be read of each."""
    assert len(drafts) == len(raws)
    assert drafts.publisher == "me"
    wanted = [naive(raw) for raw in raws]
    good = [index for index, each in enumerate(wanted) if not each.problems]
    assert set(drafts.refused) == set(range(len(raws))) - set(good)
    for index, error in drafts.refused.items():
        assert error.violations[0].field in wanted[index].problems
    for index in good:
        each = wanted[index]
        given_id = drafts.ids[index] if drafts.ids else ""
        if each.scheduled and not each.event.id:
            each.event.id = str(uuid.UUID(given_id))
        assert given_id == each.event.id
        assert drafts.route(index) == each.route
        assert drafts.extras.get(index) == each.extra
    if not good:
        return
    # The proof is what subscribers get: exactly what was sent, and what the hub adds.
    codec = DeliveryCodec()
    codec.log_id = "log"
    pieces, _ = codec.encode(drafts.select(good), 5000, TIME)
    response = subscription_pb2.SubscribeResponse.FromString(b"".join(pieces))
    for sequence, (index, delivery) in enumerate(zip(good, response.deliveries, strict=True), 5000):
        event = wanted[index].event
        event.sequence, event.publisher = sequence, "me"
        event.publish_time.FromNanoseconds(TIME)
        event.id = event.id or f"log-{sequence:03x}"
        assert delivery.event == event


@given(
    st.one_of(
        st.lists(EVENTS, min_size=1, max_size=6),
        st.builds(lambda event, times: [event] * times, EVENTS, st.integers(1, 5)),
    ),
    st.sampled_from([b"", b"\x10\x07", b"\xa2\x06\x03abc"]),
)
def test_reading_in_bulk_is_reading_each(raws: list[bytes], between: bytes) -> None:
    raw = request_of(raws, between)
    check(decode_events(Request, raw, "me")[0], raws)


@given(EVENTS)
def test_a_single_event_is_read_as_one_of_many(raw: bytes) -> None:
    event = parse(event_service_pb2.PublishRequest, request_of([raw])).event
    check(decode_event(event, "me"), [raw])


def test_a_stream_request_is_read_likewise() -> None:
    raws = [_ENVELOPE, _ENVELOPE + part(id="7")]
    raw = b"\x10\x2a" + request_of(raws)
    drafts, request_id = decode_events(event_service_pb2.PublishStreamRequest, raw, "me")
    assert request_id == 42
    check(drafts, raws)


def test_events_that_are_alike_share_a_route_and_their_bytes_are_not_copied() -> None:
    raws = [_ENVELOPE + part(text=str(number)) for number in range(50)]
    raw = request_of(raws)
    drafts = decode_events(Request, raw, "me")[0]
    assert drafts.routes == Route("order.created", "shop", "", 2)
    assert (drafts.ids, drafts.extras, drafts.refused) == (None, {}, {})
    assert drafts.bodies == raws


def test_more_kinds_of_events_than_are_remembered_are_read_all_the_same() -> None:
    raws = [part(type=f"kind{number}", source_service="shop") for number in range(5000)]
    raw = request_of(raws)
    drafts = decode_events(Request, raw, "me")[0]
    assert [drafts.route(index).type for index in range(5000)] == [
        f"kind{number}" for number in range(5000)
    ]


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        b"\x0a\x05abc",
        b"\x0a",
        tagged(b"\x0a", b"\x12\x02\xff\xfe"),
        tagged(b"\x0a", b"\x12\x05abc"),
        b"\x00",
        tagged(b"\x0a", b"\x7b"),
    ],
)
def test_bytes_that_are_no_request_are_refused_by_name(raw: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="PublishBatchRequest") as caught:
        decode_events(Request, raw, "me")
    assert caught.value.reason == "MALFORMED_REQUEST"


def a_changed_request(payload: str, number: int, at: int, byte: int) -> bytes:
    """A request of events that are alike, with another byte somewhere."""
    value = "text" if payload == "text" else b"binary"
    raw = bytearray(request_of([_ENVELOPE + part(**{payload: value})] * number))
    raw[at % len(raw)] = byte
    return bytes(raw)


@given(
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            a_changed_request,
            st.sampled_from(["text", "binary"]),
            st.integers(1, 3),
            st.integers(0, 200),
            st.integers(0, 255),
        ),
    )
)
def test_any_bytes_are_read_or_refused_as_protobuf_says(raw: bytes) -> None:
    try:
        events = len(Request.FromString(raw).events)
    except DecodeError:
        events = -1
    if events > 0:
        assert len(decode_events(Request, raw, "me")[0]) == events
        return
    with pytest.raises(InvalidArgumentError) as caught:
        decode_events(Request, raw, "me")
    assert caught.value.reason == ("MALFORMED_REQUEST" if events < 0 else "FIELD_MISSING")


# --- filters and times ----------------------------------------------------------------------------


def test_a_filter_is_read() -> None:
    wish = event_pb2.Filter(
        types=["b", "a", "b"],
        source_services=["s*"],
        target_services=["t"],
        min_priority=event_pb2.PRIORITY_HIGH,
        attributes={"k": "v"},
    )
    assert decode_filter(wish) == Filter(("a", "b"), ("s*",), ("t",), 3, {"k": "v"})
    assert decode_filter(event_pb2.Filter()) == Filter()


def test_a_filter_is_counted_with_what_it_repeats() -> None:
    wish = event_pb2.Filter(types=["a"] * 254, attributes={"k": "v"}, source_services=["s"])
    assert decode_filter(wish).types == ("a",)
    wish.target_services.append("t")
    with pytest.raises(InvalidArgumentError, match="257 entries") as caught:
        decode_filter(wish)
    assert caught.value.reason == "TOO_LARGE"


def test_an_unknown_priority_in_a_filter_is_refused() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decode_filter(event_pb2.Filter(min_priority=5))  # type: ignore[arg-type]
    assert caught.value.violations[0].field == "filter.min_priority"


@pytest.mark.parametrize(
    ("seconds", "nanos", "expected"),
    [(0, 0, 0), (0, 1, 1), (1, 999_999_999, 1_999_999_999), (0, -1, None), (-(10**15), 0, None)],
)
def test_times_and_durations_are_nanoseconds(
    seconds: int, nanos: int, expected: int | None
) -> None:
    moment = Timestamp(seconds=seconds, nanos=nanos)
    duration = Duration(seconds=seconds, nanos=nanos)
    if expected is not None:
        assert decode_time(moment, "field") == expected
        assert decode_duration(duration, "field") == expected
        return
    with pytest.raises(InvalidArgumentError) as caught:
        decode_time(moment, "a.field")
    assert caught.value.violations[0].field == "a.field"
    with pytest.raises(InvalidArgumentError) as caught:
        decode_duration(duration, "a.field")
    assert caught.value.violations[0].field == "a.field"


def test_times_before_1970_are_the_beginning_of_all() -> None:
    first = Timestamp(seconds=MIN_TIMESTAMP_SECONDS)
    assert first.ToJsonString() == "0001-01-01T00:00:00Z"
    for moment in (first, Timestamp(seconds=-1, nanos=999_999_999)):
        assert decode_time(moment, "field") == 0
    with pytest.raises(InvalidArgumentError, match="from year 1 to 9999"):
        decode_time(Timestamp(seconds=MIN_TIMESTAMP_SECONDS - 1), "field")
    with pytest.raises(InvalidArgumentError):
        decode_duration(Duration(seconds=-1), "field")


def test_times_and_durations_have_an_end() -> None:
    last = Timestamp(seconds=MAX_TIMESTAMP_SECONDS, nanos=999_999_999)
    assert last.ToJsonString() == "9999-12-31T23:59:59.999999999Z"
    assert decode_time(last, "field") == last.ToNanoseconds()
    for seconds, nanos in ((MAX_TIMESTAMP_SECONDS + 1, 0), (0, 10**9)):
        with pytest.raises(InvalidArgumentError):
            decode_time(Timestamp(seconds=seconds, nanos=nanos), "field")
    longest = Duration(seconds=MAX_DURATION_SECONDS)
    assert decode_duration(longest, "field") == longest.ToNanoseconds()
    for seconds, nanos in ((MAX_DURATION_SECONDS + 1, 0), (0, 10**9)):
        with pytest.raises(InvalidArgumentError):
            decode_duration(Duration(seconds=seconds, nanos=nanos), "field")


def test_an_error_within_an_event_is_told_of_the_request() -> None:
    error = prefixed(invalid_field("type", "is required", reason="FIELD_MISSING"), "event")
    assert str(error) == "event.type: is required"
    assert error.reason == "FIELD_MISSING"
    assert error.violations == (Violation("event.type", "is required"),)
    whole = InvalidArgumentError(
        "TOO_LARGE", "the event is large", violations=[Violation("", "large")], metadata={"a": "b"}
    )
    error = prefixed(whole, "event")
    assert str(error) == "the event is large"
    assert error.violations == (Violation("event", "large"),)
    assert error.metadata == {"a": "b"}


@given(st.integers(0, 300))
def test_lengths_of_all_sizes_are_read(length: int) -> None:
    body = _ENVELOPE + part(text="x" * length)
    raw = request_of([body, body])
    check(decode_events(Request, raw, "me")[0], [body, body])


def nested(depth: int) -> bytes:
    """A request with an event whose JSON is a list in a list, so many times."""
    value = b""
    for _ in range(depth):
        value = tagged(b"\x32", tagged(b"\x0a", value))
    field = tagged(b"\x0a", tagged(b"\x0a", b"k") + tagged(b"\x12", value))
    return request_of([_ENVELOPE + tagged(b"\x2a", field)])


@pytest.mark.parametrize("kind", [Request, event_service_pb2.PublishRequest])
def test_what_is_nested_too_deep_to_be_delivered_is_not_accepted(kind: type[Message]) -> None:
    """A delivery holds an event a level deeper than a request, and parsers end at a level."""
    depth = 1
    while True:
        raw = nested(depth)
        try:
            parse_events(kind, raw)
        except InvalidArgumentError:
            break
        drafts, _ = decode_events(Request, raw, "me")
        pieces, _ = DeliveryCodec().encode(drafts, 1, TIME)
        assert subscription_pb2.SubscribeResponse.FromString(b"".join(pieces)).deliveries
        depth += 1
    assert 40 < depth < 55
    with pytest.raises(InvalidArgumentError, match=kind.DESCRIPTOR.full_name) as caught:
        parse_events(kind, raw)
    assert caught.value.reason == "MALFORMED_REQUEST"


def test_a_request_that_publishes_is_parsed_as_it_is() -> None:
    raw = request_of([_ENVELOPE, _ENVELOPE + part(id="1")], between=b"\xa2\x06\x03abc")
    assert parse_events(Request, raw) == Request.FromString(raw)

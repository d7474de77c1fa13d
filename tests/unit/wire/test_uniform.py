"""Requests whose events are alike are recognised, and no others."""

from google.protobuf.message import DecodeError
from hypothesis import assume, given
from hypothesis import strategies as st

from switchboard.v1 import event_pb2, event_service_pb2
from switchboard_server.core.filters import Route
from switchboard_server.wire.decode import parse_events
from switchboard_server.wire.event_requests import decode_plain, decode_publish
from switchboard_server.wire.uniform import plain_event, uniform_route

ROUTE = Route("order.created", "shop", "", 2)


def event(payload: bytes | str = b"x", **fields: object) -> event_pb2.Event:
    made = event_pb2.Event(type="order.created", source_service="shop", **fields)  # type: ignore[arg-type]
    if isinstance(payload, bytes):
        made.binary = payload
    else:
        made.text = payload
    return made


def route_of(events: list[event_pb2.Event]) -> Route | None:
    return of_bytes([each.SerializeToString() for each in events], events[0])


def of_bytes(bodies: list[bytes], first: event_pb2.Event) -> Route | None:
    return uniform_route(bodies, [len(body) for body in bodies], first)


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=20))
def test_events_that_differ_in_their_payloads_only_have_one_route(sizes: list[int]) -> None:
    assert route_of([event(bytes(size)) for size in sizes]) == ROUTE
    assert route_of([event("é" * size) for size in sizes]) == ROUTE


def test_an_event_with_anything_else_is_told_apart() -> None:
    for other in (
        event(id="1"),
        event(priority=event_pb2.PRIORITY_HIGH),
        event(attributes={"a": "b"}),
        event(target_service="till"),
        event(sequence=7),
        event(content_type="text/plain"),
        event("text"),
        event_pb2.Event(type="order.created", source_service="shop"),
        event_pb2.Event(type="order.createe", source_service="shop", binary=b"x"),
    ):
        assert route_of([event(), other]) is None
        assert route_of([other, event()]) is None


def test_a_field_after_the_payload_cannot_hide_in_it() -> None:
    hidden = event(b"x" * 10).SerializeToString() + b"\x12\x05other"
    assert of_bytes([event().SerializeToString(), hidden], event()) is None
    # One byte of payload less than the length says would need the next field to be payload.
    shifted = event(b"x" * 3).SerializeToString()[:-1] + b"\x12\x00"
    assert of_bytes([event().SerializeToString(), shifted], event()) is None


def test_what_nests_is_left_to_be_looked_at() -> None:
    nested = event_pb2.Event(type="order.created", source_service="shop")
    nested.data.update({"a": 1})
    assert route_of([nested]) is None


@given(st.data())
def test_whatever_is_recognised_parses_to_that_route(data: st.DataObject) -> None:
    plain = [event(data.draw(st.binary(max_size=40))).SerializeToString() for _ in range(3)]
    at = data.draw(st.integers(0, 2))
    place = data.draw(st.integers(0, len(plain[at]) - 1))
    changed = bytearray(plain[at])
    changed[place] = data.draw(st.integers(0, 255))
    plain[at] = bytes(changed)
    try:
        first = event_pb2.Event.FromString(plain[0])
    except DecodeError:
        assume(False)
    if of_bytes(plain, first) is not None:
        parsed = event_pb2.Event.FromString(plain[at])
        parsed.ClearField("payload")
        assert parsed == event_pb2.Event(type=first.type, source_service=first.source_service)


def request_of(one: event_pb2.Event) -> bytes:
    return event_service_pb2.PublishRequest(event=one).SerializeToString()


def learn(one: event_pb2.Event) -> None:
    decode_publish(event_service_pb2.PublishRequest(event=one), "")


@given(st.integers(0, 20_000), st.booleans())
def test_a_single_event_is_known_by_one_that_came_before(size: int, text: bool) -> None:
    learn(event("x" if text else b"x"))
    other = event("é" * size if text else bytes(size))
    found = plain_event(request_of(other))
    if other.ByteSize() < 1 << 14:
        assert found == (other.SerializeToString(), ROUTE)
    else:
        assert found is None


def test_a_single_event_unlike_those_before_is_looked_at() -> None:
    learn(event())
    assert plain_event(b"") is None
    assert plain_event(request_of(event(target_service="till"))) is None
    assert plain_event(request_of(event()) + b"\x10\x01") is None, "something follows it"
    invalid = request_of(event("xy")).replace(b"xy", b"\xff\xff")
    learn(event("xy"))
    assert plain_event(invalid) is None, "it is no UTF-8"


@given(st.data())
def test_a_single_event_is_read_without_parsing_as_it_is_with(data: st.DataObject) -> None:
    text = data.draw(st.booleans())
    learn(event("x" if text else b"x"))
    payload = data.draw(st.text(max_size=200)) if text else data.draw(st.binary(max_size=200))
    raw = bytearray(request_of(event(payload)))
    for _ in range(data.draw(st.integers(0, 2))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    drafts = decode_plain(bytes(raw), "me")
    if drafts is not None:
        request = parse_events(event_service_pb2.PublishRequest, bytes(raw))
        assert decode_publish(request, "me") == drafts

"""Requests as the core wants them.

A request that publishes hundreds of events is not read event by event. Its bytes are parsed a few
times, each time as a smaller message that knows only some of the fields (a view), which tells in
one call what all events have in common: no id, nothing rare, or one and the same route.
"""

import uuid
from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from switchboard.v1 import (
    connect_pb2,
    event_pb2,
    event_service_pb2,
    subscription_pb2,
    watch_pb2,
)
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import InvalidArgumentError, Violation, invalid_field, too_large
from switchboard_server.core.filters import MAX_NAME, Filter, Route, check_entries
from switchboard_server.core.heartbeats import DEFAULT_HEARTBEAT
from switchboard_server.core.records import Drafts, Extra
from switchboard_server.core.validation import NORMAL_PRIORITY, name_problem, oversized
from switchboard_server.wire.codec import tagged, varint
from switchboard_server.wire.uniform import uniform_route

M = TypeVar("M", bound=Message)

MIN_TIMESTAMP_SECONDS = -62_135_596_800
"""0001-01-01T00:00:00Z, the first second of one, which is Go's zero time."""
MAX_TIMESTAMP_SECONDS = 253_402_300_799
"""9999-12-31T23:59:59Z, the last second of a valid google.protobuf.Timestamp."""
MAX_DURATION_SECONDS = 315_576_000_000
"""Ten thousand years, the longest valid google.protobuf.Duration."""
MAX_EVENTS = 10_000
"""Most events of a request: the answer stays small, and nobody else waits long for them."""
MAX_REMEMBERED_ENVELOPES = 4096
"""Envelopes whose route is remembered; beyond it all are forgotten, and read as they come."""

_ENVELOPE_FIELDS = ("type", "source_service", "target_service", "priority", "content_type")
_RARE_FIELDS = (
    "attributes",
    "ordering_key",
    "correlation_id",
    "deliver_at",
    "ttl",
    "sequence",
    "publish_time",
    "publisher",
)


def parse(request: type[M], raw: bytes, name: str | None = None) -> M:
    """Parses a request.

    Args:
        request: Its type.
        raw: Its bytes.
        name: What to call it in the error; None: by its own name.

    Raises:
        InvalidArgumentError: The bytes are no such message.
    """
    try:
        return request.FromString(raw)
    except DecodeError as error:
        expected = name or request.DESCRIPTOR.full_name
        raise InvalidArgumentError(
            "MALFORMED_REQUEST",
            f"the request's bytes are not a {expected}, or hold messages more than a hundred deep; "
            "generate the client from the hub's protos, and nest `data` less than 30 deep",
        ) from error


def parse_events(request: type[M], raw: bytes) -> M:
    """Parses a request that publishes.

    Deliveries hold an event one level deeper than requests do, and protobuf ends at a hundred
    levels: what is accepted at the very limit could never be read. So the request is parsed as a
    field of another message.

    Raises:
        InvalidArgumentError: The bytes are no such message.
    """
    deeper: Any = parse(_deeper(request), tagged(b"\x0a", raw), request.DESCRIPTOR.full_name)
    inner: M = deeper.request
    return inner


def _deeper(request: type[Message]) -> type[Message]:
    """A message `{ R request = 1 }`, made once for each R."""
    described = request.DESCRIPTOR
    if known := _deeper_requests.get(described.full_name):
        return known
    file = descriptor_pb2.FileDescriptorProto(
        name=f"deeper/{described.full_name}.proto",
        package=f"switchboard.deeper.{described.name.lower()}",
        syntax="proto3",
        dependency=[described.file.name],
    )
    file.message_type.add(name="Deeper").field.add(
        name="request",
        number=1,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        type_name=f".{described.full_name}",
    )
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.Deeper"))
    return _deeper_requests.setdefault(described.full_name, made)


_deeper_requests: dict[str, type[Message]] = {}


def decode_event(event: event_pb2.Event, publisher: str) -> Drafts:
    """Drafts of a single event. Changes the event."""
    drafts = Drafts([b""], _route(event), publisher=publisher)
    _read(event, 0, drafts)
    if not drafts.bodies[0]:
        drafts.bodies[0] = event.SerializeToString()
    return drafts


def decode_events(
    request: type[event_service_pb2.PublishBatchRequest | event_service_pb2.PublishStreamRequest],
    raw: bytes,
    publisher: str,
) -> tuple[Drafts, int]:
    """Drafts of a request's events, and its `request_id`, if it has one.

    Args:
        request: Its type.
        raw: Its bytes, in which the events are field 1.
        publisher: Subject of the caller.

    Raises:
        InvalidArgumentError: The bytes are no such request, it has no event, it has too many, or
            one nests too deep to be delivered.
    """
    try:
        seen: Any = _BODIES.FromString(raw)
        bodies: list[bytes] = list(seen.events)
        first = event_pb2.Event.FromString(bodies[0] if bodies else b"")
    except DecodeError:
        parse(request, raw)  # Says of what they are no bytes.
        raise
    if not bodies:
        raise invalid_field("events", "is empty; send at least one", reason="FIELD_MISSING")
    if len(bodies) > MAX_EVENTS:
        raise too_large("events", len(bodies), MAX_EVENTS, "entries")
    drafts = Drafts(bodies, _route(first), publisher=publisher)
    if uniform_route(bodies, drafts.lengths, first) is None:
        drafts = _decode_different(parse_events(request, raw).events, bodies, raw, publisher)
    elif first.HasField("text"):
        parse(request, raw)  # Text has to be text, which was not looked at in the others.
    return drafts, seen.request_id


def _decode_different(
    events: Sequence[event_pb2.Event], bodies: list[bytes], raw: bytes, publisher: str
) -> Drafts:
    """Drafts of events that differ in more than their payloads."""
    seen = _seen_through(_HEADERS, raw)
    count = len(bodies)
    headers, first = seen.SerializeToString(), seen.events[0].SerializeToString()
    if headers == (b"\x0a" + varint(len(first)) + first) * count:
        # All headers are the same to the byte, so what holds for one holds for all.
        headers, distinct = b"\x0a" + varint(len(first)) + first, 1
    else:
        distinct = count
    if _has_any(_RARE, headers, distinct):
        return _decode_each(events, bodies, publisher)
    ids = [event.id for event in seen.events] if _has_any(_IDS, headers, distinct) else None
    routes = _routes(headers)
    if routes is None:
        return _decode_each(events, bodies, publisher)
    one = distinct == 1 or len(set(routes)) == 1
    return Drafts(bodies, routes[0] if one else routes, ids=ids, publisher=publisher)


def decode_filter(wish: event_pb2.Filter) -> Filter:
    """A filter as the core has it."""
    check_entries(
        len(wish.types)
        + len(wish.source_services)
        + len(wish.target_services)
        + len(wish.attributes)
    )
    if wish.min_priority not in event_pb2.Priority.values():
        raise invalid_field(
            "filter.min_priority", f"{wish.min_priority} is unknown; 0 (all) to 4 (critical)"
        )
    return Filter(
        types=tuple(wish.types),
        source_services=tuple(wish.source_services),
        target_services=tuple(wish.target_services),
        min_priority=wish.min_priority,
        attributes=dict(wish.attributes),
    )


def decode_time(value: Timestamp, field: str) -> int:
    """Unix nanoseconds of a timestamp; 0 for times before 1970, since nothing here is older.

    Args:
        value: The timestamp.
        field: Where it stands in the request, for the error.

    Raises:
        InvalidArgumentError: It is not a valid one.
    """
    known = MIN_TIMESTAMP_SECONDS <= value.seconds <= MAX_TIMESTAMP_SECONDS
    if not (known and 0 <= value.nanos < SECOND_NS):
        raise invalid_field(
            field, "must be a time from year 1 to 9999, with nanos from 0 to 999999999"
        )
    return max(0, value.seconds * SECOND_NS + value.nanos)


def decode_duration(value: Duration, field: str) -> int:
    """Nanoseconds of a duration.

    Args:
        value: The duration.
        field: Where it stands in the request, for the error.

    Raises:
        InvalidArgumentError: It is not a valid one, or negative.
    """
    if not (0 <= value.seconds <= MAX_DURATION_SECONDS and 0 <= value.nanos < SECOND_NS):
        raise invalid_field(field, "must be from 0 to 10000 years, with nanos from 0 to 999999999")
    return value.seconds * SECOND_NS + value.nanos


def decode_heartbeat(
    request: subscription_pb2.SubscribeRequest
    | connect_pb2.ConnectRequest
    | watch_pb2.WatchRequest,
) -> float:
    """Seconds of silence after which a stream says that it lives, as asked for or by default.

    Raises:
        InvalidArgumentError: It is no valid duration.
    """
    if not request.HasField("heartbeat_interval"):
        return DEFAULT_HEARTBEAT
    return decode_duration(request.heartbeat_interval, "heartbeat_interval") / SECOND_NS


def _route(event: event_pb2.Event) -> Route:
    return Route(
        event.type, event.source_service, event.target_service, event.priority or NORMAL_PRIORITY
    )


def _decode_each(events: Sequence[event_pb2.Event], bodies: list[bytes], publisher: str) -> Drafts:
    """Drafts of events of which some have what most have not."""
    drafts = Drafts(bodies, [_route(event) for event in events], publisher=publisher)
    for index, event in enumerate(events):
        _read(event, index, drafts)
    return drafts


def _read(event: event_pb2.Event, index: int, drafts: Drafts) -> None:
    """Reads what an event has besides its route, and takes out of it what only the hub sets."""
    changed = bool(event.sequence or event.publisher or event.HasField("publish_time"))
    if changed:
        event.ClearField("sequence")
        event.ClearField("publish_time")
        event.ClearField("publisher")
    try:
        extra = _extra(event)
    except InvalidArgumentError as error:
        extra, drafts.refused[index] = None, error
    if extra is not None:
        drafts.extras[index] = extra
        if extra.deliver_at_ns and not event.id:
            # It has no sequence yet from which the hub could make an id.
            event.id = str(uuid.uuid4())
            changed = True
    if event.id:
        if drafts.ids is None:
            drafts.ids = [""] * len(drafts)
        drafts.ids[index] = event.id
    if changed or not drafts.bodies[index]:
        drafts.bodies[index] = event.SerializeToString()


def _extra(event: event_pb2.Event) -> Extra | None:
    for name in ("content_type", "correlation_id"):
        if problem := name_problem(name, getattr(event, name)):
            raise problem
    deliver_at = decode_time(event.deliver_at, "deliver_at") if event.HasField("deliver_at") else 0
    ttl = 0
    if event.HasField("ttl"):
        ttl = decode_duration(event.ttl, "ttl")
        if not ttl:
            raise invalid_field("ttl", "is zero; make it positive, or leave it out for no limit")
    correlation_id = event.correlation_id
    if not (event.attributes or event.ordering_key or ttl or deliver_at or correlation_id):
        return None
    return Extra(dict(event.attributes), event.ordering_key, ttl, deliver_at, correlation_id)


def _view(fields: Sequence[str]) -> type[Message]:
    """A message `{ repeated V events = 1 }`, where V is Event reduced to some of its fields."""
    file = descriptor_pb2.FileDescriptorProto()
    event_pb2.DESCRIPTOR.CopyToProto(file)
    event = next(each for each in file.message_type if each.name == "Event")
    keep = [each for each in event.field if each.name in fields]
    del event.field[:], event.oneof_decl[:]
    event.field.extend(keep)
    _add_batch(
        file, descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    ).type_name = ".switchboard.v1.Event"
    return _message_class(file)


def _bodies_view() -> type[Message]:
    """A request that publishes, its events as bytes, as which they look on the wire."""
    file = descriptor_pb2.FileDescriptorProto(
        name="bodies.proto", package="switchboard.v1", syntax="proto3"
    )
    _add_batch(file, descriptor_pb2.FieldDescriptorProto.TYPE_BYTES)
    file.message_type[0].field.add(
        name="request_id",
        number=2,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
    )
    return _message_class(file)


def _add_batch(
    file: descriptor_pb2.FileDescriptorProto,
    kind: descriptor_pb2.FieldDescriptorProto.Type.ValueType,
) -> descriptor_pb2.FieldDescriptorProto:
    return file.message_type.add(name="Batch").field.add(
        name="events",
        number=1,
        type=kind,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
    )


def _message_class(file: descriptor_pb2.FileDescriptorProto) -> type[Message]:
    pool = descriptor_pool.DescriptorPool()
    for dependency in event_pb2.DESCRIPTOR.dependencies:
        pool.AddSerializedFile(dependency.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("switchboard.v1.Batch"))


_BODIES = _bodies_view()
_HEADERS = _view(("id", *_ENVELOPE_FIELDS, *_RARE_FIELDS))
_RARE, _IDS, _ENVELOPES = _view(_RARE_FIELDS), _view(("id",)), _view(_ENVELOPE_FIELDS)


def _seen_through(view: type[Message], raw: bytes) -> Any:
    seen: Any = view.FromString(raw)
    seen.DiscardUnknownFields()
    return seen


def _has_any(view: type[Message], raw: bytes, count: int) -> bool:
    """Whether any event has any of the view's fields: without, each is a tag and the length 0."""
    return bool(_seen_through(view, raw).ByteSize() != 2 * count)


def _routes(headers: bytes) -> list[Route] | None:
    """The route of each event; None where one has to be looked at more closely."""
    routes = []
    for envelope in _seen_through(_ENVELOPES, headers).events:
        key = envelope.SerializeToString()
        route = _remembered.get(key)
        if route is None:
            if len(envelope.content_type) > MAX_NAME or oversized(_route(envelope)):
                return None
            if len(_remembered) >= MAX_REMEMBERED_ENVELOPES:
                _remembered.clear()
            route = _remembered[key] = _route(envelope)
        routes.append(route)
    return routes


_remembered: dict[bytes, Route] = {}


def without_prefix(error: InvalidArgumentError, path: str) -> InvalidArgumentError:
    """The same error, told of a field of a part of a request, which is all that a caller sent.

    Args:
        error: The error.
        path: Where the part stands in the request, such as "join".
    """
    prefix = f"{path}."
    return InvalidArgumentError(
        error.reason,
        error.message.removeprefix(prefix),
        violations=[
            Violation(each.field.removeprefix(prefix), each.description)
            for each in error.violations
        ],
        metadata=error.metadata,
    )


def prefixed(error: InvalidArgumentError, path: str) -> InvalidArgumentError:
    """The same error, told of a field within a request instead of within an event.

    Args:
        error: The error.
        path: Where the event stands in the request, such as "event".
    """
    return InvalidArgumentError(
        error.reason,
        f"{path}.{error.message}" if error.violations[0].field else error.message,
        violations=[
            Violation(f"{path}.{each.field}" if each.field else path, each.description)
            for each in error.violations
        ],
        metadata=error.metadata,
    )

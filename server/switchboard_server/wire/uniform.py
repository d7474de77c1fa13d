"""Recognises requests whose events are alike but for their payloads, without reading each event.

Publishers write fields in the order of their numbers, so an event that has nothing but a route and
a payload is the route's bytes, then the payload's tag, length and bytes, and then it ends. Where
that holds of all events of a request, one route holds for all of them.
"""

from collections.abc import Sequence

from switchboard.v1 import event_pb2
from switchboard_server.core.filters import Route
from switchboard_server.core.validation import NORMAL_PRIORITY, oversized
from switchboard_server.wire.codec import varint

MAX_REMEMBERED_SHAPES = 64
"""Shapes of events that are remembered; beyond it all are forgotten, and made as they come."""
MAX_REMEMBERED_LENGTH = 2048
"""Up to this length of an event, what it must begin with is remembered."""

# Struct is left out: it nests, and how deep has to be looked at.
_TAGS = {"binary": b"\x32", "text": b"\x3a"}
_NO_EVENT = b"\x00"
"""What no event begins with: there is no field 0."""


class _Beginnings(dict[int, bytes]):
    """By an event's length: what it must begin with, so that its payload ends where it ends.

    Args:
        before: The bytes before the payload's length.
    """

    def __init__(self, before: bytes) -> None:
        self._before = before

    def __missing__(self, length: int) -> bytes:
        found = _NO_EVENT
        for size in range(1, 6):
            payload = length - len(self._before) - size
            if payload >= 0 and len(varint(payload)) == size:
                found = self._before + varint(payload)
        if length <= MAX_REMEMBERED_LENGTH:
            self[length] = found
        return found


_shapes: dict[tuple[Route, bytes], _Beginnings] = {}
_by_type: dict[bytes, tuple[Route, bytes, _Beginnings]] = {}
"""The shape that was seen last of those whose events have the same type, by its bytes."""


def plain_event(raw: bytes) -> tuple[bytes, Route] | None:
    """The event of a request that holds one, without parsing it, where the like came before.

    Args:
        raw: The bytes of a request in which the event is field 1.

    Returns:
        The event's bytes and its route, beside which it has nothing but a payload; None: it may
        have more, or be none at all.
    """
    if len(raw) < 4 or raw[0] != 0x0A:
        return None
    start, length = 2, raw[1]
    if length & 0x80:
        if raw[2] & 0x80:
            return None  # Large ones are worth a closer look.
        start, length = 3, length & 0x7F | raw[2] << 7
    body = raw[start:]
    if len(body) != length or length < 2:
        return None
    shape = _by_type.get(_type_of(body))
    if shape is None:
        return None
    route, tag, beginnings = shape
    before = beginnings[length]
    if not body.startswith(before):
        return None
    if tag == _TAGS["text"]:
        try:
            body[len(before) :].decode()
        except UnicodeDecodeError:
            return None
    return body, route


def _type_of(body: bytes) -> bytes:
    """The first field of an event, which is its type where it has nothing rare."""
    return body[: 2 + body[1]]


def uniform_route(
    bodies: Sequence[bytes], lengths: Sequence[int], first: event_pb2.Event
) -> Route | None:
    """The route that all events of a request have and nothing else but a payload.

    Args:
        bodies: The bytes of each event. Whether what is to be text is text is not looked at.
        lengths: How many these are.
        first: The first of them, parsed.

    Returns:
        The route; None: some event has more, or another one, or fields in another order.
    """
    tag = _TAGS.get(first.WhichOneof("payload") or "")
    if tag is None:
        return None
    route = Route(first.type, first.source_service, first.target_service, NORMAL_PRIORITY)
    if oversized(route):
        return None
    beginnings = _shapes.get((route, tag))
    if beginnings is None:
        if len(_shapes) >= MAX_REMEMBERED_SHAPES:
            _shapes.clear()
            _by_type.clear()
        header = event_pb2.Event(
            type=route.type,
            source_service=route.source_service,
            target_service=route.target_service,
        )
        beginnings = _shapes[route, tag] = _Beginnings(header.SerializeToString() + tag)
    if len(bodies) == 1:
        _by_type[_type_of(bodies[0])] = route, tag, beginnings
    alike = map(bytes.startswith, bodies, map(beginnings.__getitem__, lengths))
    return route if all(alike) else None

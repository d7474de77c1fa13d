"""Frames of the WebSocket bridge as bytes, both ways. Nothing here knows a socket.

What the frames are is told in `clients/web/PROTOCOL.md`.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from switchboard_server.core.errors import (
    InvalidArgumentError,
    SwitchboardError,
    invalid_field,
    too_large,
)

MAX_ID = 64
"""Longest `id` of a frame, in characters."""
MAX_DEPTH = 30
"""How deep objects and lists may nest in a frame: deeper ones fit no protobuf message."""

_OPENING = ("{", "[")

FrameId = str | int | None
"""What a client calls a frame; None: it wants no answer but for errors."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a client sent.

    Args:
        type: What it is.
        id: What the answer is to be called by.
        data: Its content.
        to: Whom it is for; None: not said.
    """

    type: str
    id: FrameId = None
    data: dict[str, Any] = field(default_factory=dict)
    to: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class BadFrame:
    """What a client sent and is no frame.

    Args:
        error: What is wrong with it.
        id: Its `id`, where that could be made out.
        is_object: Whether it was a JSON object at least.
    """

    error: SwitchboardError
    id: FrameId = None
    is_object: bool = True


def decode(message: str | bytes) -> Frame | BadFrame:
    """Reads a WebSocket message.

    Args:
        message: Its text, or the bytes of a binary message, which is no frame.
    """
    if isinstance(message, bytes):
        return _no_object("the message is binary; send JSON as text")
    try:
        given = orjson.loads(message)
    except orjson.JSONDecodeError as error:
        return _no_object(f"the message is no JSON that can be read: {error}")
    if not isinstance(given, dict):
        return _no_object("the message is JSON, but no object")
    identity = given.get("id")
    named = _is_id(identity)
    try:
        _check(given, message)
    except InvalidArgumentError as error:
        return BadFrame(error, identity if named else None)
    return Frame(given["type"], identity, given.get("data") or {}, given.get("to"))


def encode(content: dict[str, Any]) -> bytes:
    """The WebSocket frame of a JSON object."""
    return text_frame(orjson.dumps(content))


def text_frame(payload: bytes) -> bytes:
    """A whole text message as a server sends it, RFC 6455 section 5.2: final, not masked.

    Args:
        payload: The text in UTF-8.
    """
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def ack(identity: FrameId, data: dict[str, Any]) -> bytes:
    """The answer to a frame that was obeyed."""
    return encode({"type": "ack", "id": identity, "data": data})


def error(
    code: str, problem: SwitchboardError, identity: FrameId = None, close: int | None = None
) -> bytes:
    """The answer to a frame that was not obeyed, or why the connection ends.

    Args:
        code: Name of the gRPC status.
        problem: Why.
        identity: What the frame was called; None: it had no name.
        close: Close code of the connection, which ends with it; None: it goes on.
    """
    content: dict[str, Any] = {"type": "error"}
    if identity is not None:
        content["id"] = identity
    if close is not None:
        content["close"] = close
    return encode(content | error_fields(code, problem))


def error_fields(code: str, problem: SwitchboardError) -> dict[str, Any]:
    """What is told of an error.

    Args:
        code: Name of the gRPC status.
        problem: The error.
    """
    return {
        "code": code,
        "reason": problem.reason,
        "message": problem.message,
        "violations": [
            {"field": each.field, "description": each.description} for each in problem.violations
        ],
        "metadata": problem.metadata,
    }


def system(event: str, data: dict[str, Any]) -> bytes:
    """A word of the bridge about the connection."""
    return encode({"type": "system", "data": {"event": event, **data}})


def deliveries(subscription: str, content: bytes) -> bytes:
    """Events of a subscription.

    Args:
        subscription: Its name.
        content: The JSON of the list of deliveries.
    """
    return text_frame(b'%b,"deliveries":%b}' % (_event_head(subscription), content))


def control(subscription: str, word: dict[str, Any]) -> bytes:
    """A word about a subscription."""
    return text_frame(b'%b,"control":%b}' % (_event_head(subscription), orjson.dumps(word)))


@lru_cache(maxsize=1024)
def _event_head(subscription: str) -> bytes:
    return b'{"type":"event","subscription":' + orjson.dumps(subscription)


def _no_object(problem: str) -> BadFrame:
    return BadFrame(InvalidArgumentError("MALFORMED_REQUEST", problem), is_object=False)


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_ID
    return isinstance(value, int) and not isinstance(value, bool)


def _check(given: dict[str, Any], text: str) -> None:
    identity, kind, data, to = (given.get(name) for name in ("id", "type", "data", "to"))
    if identity is not None and not _is_id(identity):
        raise invalid_field("id", f"must be a string of at most {MAX_ID} characters or an integer")
    if kind is None or kind == "":
        raise invalid_field("type", "is required", reason="FIELD_MISSING")
    if not isinstance(kind, str):
        raise invalid_field("type", "must be a string")
    for name, value in (("data", data), ("to", to)):
        if value is not None and not isinstance(value, dict):
            raise invalid_field(name, "must be an object")
    # Most frames have not even as many brackets.
    if sum(map(text.count, _OPENING)) > MAX_DEPTH and (depth := _depth(given)) > MAX_DEPTH:
        raise too_large("data", depth, MAX_DEPTH, "levels of nesting")


def _depth(given: object) -> int:
    """How deep a JSON value nests: level by level, since recursion is what is to be bounded."""
    depth, level = 0, [given]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [
            inner for each in level for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return depth

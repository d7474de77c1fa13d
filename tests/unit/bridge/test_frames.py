"""Frames: what clients send, and what they are sent."""

from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from websockets.frames import Frame as LibraryFrame
from websockets.frames import Opcode

from switchboard_server.bridge import frames
from switchboard_server.bridge.frames import MAX_DEPTH, BadFrame, Frame, decode
from switchboard_server.core.errors import NotFoundError, Violation, invalid_field
from tests.unit.bridge.frame_strategies import GOOD, MESSAGES
from tests.unit.bridge.translation import payload, translate

outcomes: Counter[str] = Counter()


def text(content: Any) -> str:
    return orjson.dumps(content).decode()


@settings(max_examples=3000, deadline=None)
@given(MESSAGES)
def test_whatever_comes_is_taken_or_refused_with_a_reason(message: str | bytes) -> None:
    outcomes[translate(message)] += 1


def test_among_the_random_frames_some_are_taken_and_some_refused() -> None:
    assert {"taken", "MALFORMED_REQUEST", "INVALID_FIELD", "FIELD_MISSING"} <= outcomes.keys()


@pytest.mark.parametrize("frame", GOOD)
def test_good_frames_are_taken(frame: dict[str, Any]) -> None:
    assert translate(text(frame)) == "taken"


def test_the_frame_of_the_first_hour_is_understood() -> None:
    frame = decode('{"type": "chat", "data": {"message": "Hello, world!", "room": "general"}}')
    assert frame == Frame("chat", None, {"message": "Hello, world!", "room": "general"})


@pytest.mark.parametrize("identity", ["7", "", "x" * 64, 0, -1, 2**63 - 1])
def test_an_id_is_a_string_or_an_integer(identity: str | int) -> None:
    assert decode(text({"type": "x", "id": identity})) == Frame("x", identity)


@pytest.mark.parametrize("identity", [True, 1.5, [], {}, "x" * 65])
def test_another_id_is_refused_and_not_repeated(identity: object) -> None:
    frame = decode(text({"type": "x", "id": identity}))
    assert isinstance(frame, BadFrame)
    assert (frame.error.reason, frame.id) == ("INVALID_FIELD", None)


@pytest.mark.parametrize(
    ("content", "reason", "field"),
    [
        ({}, "FIELD_MISSING", "type"),
        ({"type": ""}, "FIELD_MISSING", "type"),
        ({"type": 5}, "INVALID_FIELD", "type"),
        ({"type": "x", "data": []}, "INVALID_FIELD", "data"),
        ({"type": "x", "data": "text"}, "INVALID_FIELD", "data"),
        ({"type": "x", "to": "general"}, "INVALID_FIELD", "to"),
    ],
)
def test_a_frame_with_a_wrong_member_is_refused_by_its_id(
    content: dict[str, object], reason: str, field: str
) -> None:
    frame = decode(text({**content, "id": 7}))
    assert isinstance(frame, BadFrame)
    assert (frame.error.reason, frame.id, frame.is_object) == (reason, 7, True)
    assert [each.field for each in frame.error.violations] == [field]


@pytest.mark.parametrize(
    "message",
    [
        *("", "hello", "[]", "null", '"text"', "5", "NaN", '{"type": NaN}', '{"a": 1', "{'a': 1}"),
        *('{"type": "\\ud800"}', "[" * 100_000, '{"a":' * 5000, b'{"type": "chat"}', b"\xff"),
    ],
)
def test_what_is_no_json_object_is_told_so(message: str | bytes) -> None:
    frame = decode(message)
    assert isinstance(frame, BadFrame)
    assert (frame.error.reason, frame.is_object) == ("MALFORMED_REQUEST", False)


def nested(levels: int) -> str:
    return '{"type": "x", "data": {"a": ' + "[" * (levels - 2) + "]" * (levels - 2) + "}}"


def test_frames_nest_only_so_deep() -> None:
    assert isinstance(decode(nested(MAX_DEPTH)), Frame)
    frame = decode(nested(MAX_DEPTH + 1))
    assert isinstance(frame, BadFrame)
    assert frame.error.reason == "TOO_LARGE"
    assert frame.error.metadata == {"limit": str(MAX_DEPTH), "actual": str(MAX_DEPTH + 1)}


def test_many_brackets_side_by_side_are_no_depth() -> None:
    assert isinstance(decode(text({"type": "x", "data": {"list": [[]] * 1000}})), Frame)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 100_000])
def test_a_frame_is_what_the_library_would_have_made(size: int) -> None:
    expected = LibraryFrame(Opcode.TEXT, b"x" * size).serialize(mask=False)
    assert frames.text_frame(b"x" * size) == expected


def test_an_error_tells_what_the_rpc_would() -> None:
    error = invalid_field("room", "is required", reason="FIELD_MISSING")
    assert payload(frames.error("INVALID_ARGUMENT", error, 7)) == {
        "type": "error",
        "id": 7,
        "code": "INVALID_ARGUMENT",
        "reason": "FIELD_MISSING",
        "message": "room: is required",
        "violations": [{"field": "room", "description": "is required"}],
        "metadata": {},
    }
    nameless = payload(frames.error("NOT_FOUND", NotFoundError("ROOM_NOT_FOUND", "none")))
    assert "id" not in nameless
    assert error.violations == (Violation("room", "is required"),)


def test_events_are_joined_from_json_that_exists() -> None:
    frame = frames.deliveries('my "orders"', b'[{"event":{"sequence":"5"}}]')
    assert payload(frame) == {
        "type": "event",
        "subscription": 'my "orders"',
        "deliveries": [{"event": {"sequence": "5"}}],
    }
    assert payload(frames.control("s", {"caught_up": {"position": "41"}})) == {
        "type": "event",
        "subscription": "s",
        "control": {"caught_up": {"position": "41"}},
    }

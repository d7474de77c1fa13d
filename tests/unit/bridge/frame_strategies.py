"""Frames for hypothesis: random ones, and good ones with something changed."""

from typing import Any

import orjson
from hypothesis import strategies as st

WORDS = st.sampled_from(
    [
        "",
        "a",
        "general",
        "order.*",
        "EARLIEST",
        "2026-01-01T00:00:00Z",
        "30s",
        "-1s",
        "1e400s",
        "é€😀",
    ]
)
NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.text(max_size=20))
KEYS = st.one_of(
    st.sampled_from(
        [
            *(
                "room",
                "rooms",
                "recover_after",
                "epoch",
                "offset",
                "event",
                "events",
                "data",
                "type",
            ),
            *("filter", "types", "start_at", "after_sequence", "after_time", "ttl", "deliver_at"),
            *("attributes", "priority", "users", "all", "page_size", "page_token", "what", "token"),
            *("heartbeat_interval", "heartbeatInterval", "binary", "text", "group", "mode"),
        ]
    ),
    st.text(max_size=8),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
TYPES = st.one_of(
    st.sampled_from(
        [
            *("join", "leave", "presence", "publish", "subscribe", "unsubscribe", "acknowledge"),
            *("reject", "extend", "call", "list", "heartbeat", "refresh", "auth", "chat", "ack"),
        ]
    ),
    SCALARS,
)
FRAMES = st.fixed_dictionaries(
    {},
    optional={
        "type": TYPES,
        "id": st.one_of(SCALARS, VALUES),
        "data": st.one_of(st.dictionaries(KEYS, VALUES, max_size=5), VALUES),
        "to": VALUES,
        "more": VALUES,
    },
)


_EVENT = {
    "type": "order.created",
    "source_service": "shop",
    "data": {"order": 1, "lines": [{"sku": "x"}, None, True, 1.5]},
    "attributes": {"trace": "1"},
    "priority": "PRIORITY_HIGH",
    "ttl": "30s",
}
GOOD: list[dict[str, Any]] = [
    {"type": "chat", "data": {"message": "hi", "room": "general"}},
    {"type": "notice", "data": {"n": 1}, "to": {"users": ["ann"], "all": False}},
    {"type": "join", "data": {"room": "a", "recover_after": {"epoch": "e", "offset": "3"}}},
    {"type": "join", "data": {"room": "a", "presenceNotices": True}},
    {"type": "leave", "data": {"room": "a"}},
    {"type": "presence", "data": {"room": "a", "users": ["ann"], "page_size": 5}},
    {"type": "publish", "data": _EVENT},
    {"type": "publish", "data": {"events": [_EVENT, {**_EVENT, "id": "7"}]}},
    {"type": "subscribe", "data": {"subscription": "s", "filter": {"types": ["order.*"]}}},
    {"type": "subscribe", "data": {"after_sequence": "7", "heartbeat_interval": "5s"}},
    {"type": "subscribe", "data": {"after_time": "2026-01-01T00:00:00.5Z", "group": ""}},
    {"type": "acknowledge", "data": {"group": "g", "ack_ids": ["1"]}},
    {"type": "reject", "data": {"group": "g", "ack_ids": ["1"], "retry_after": "1s"}},
    {"type": "extend", "data": {"group": "g", "ack_ids": ["1"], "extension": "60s"}},
    {"type": "call", "data": {"event": _EVENT}},
    {"type": "list", "data": {"what": "events", "order": "LIST_ORDER_OLDEST_FIRST"}},
    {"type": "heartbeat"},
]
"""Frames that are taken."""


@st.composite
def nearly_good(draw: st.DrawFn) -> str:
    """The text of a good frame, of which at most one value, somewhere, is another."""
    frame = orjson.loads(orjson.dumps({"id": 1, **draw(st.sampled_from(GOOD))}))
    place: Any = frame
    for _ in range(draw(st.integers(0, 4))):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.integers(0, 3)) == 0:
            place[key] = draw(VALUES)
            break
        place = inner
    return orjson.dumps(frame).decode()


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """The text of a frame with something cut out, put in or doubled."""
    text = orjson.dumps(draw(FRAMES)).decode()
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 12)))
        middle = draw(
            st.sampled_from(
                ["", '"', "{", "}", "[", "]", ",", "\\", "\\ud800", "1e999", "NaN", "\0"]
            )
        )
        text = text[:start] + middle + draw(st.sampled_from(["", text[start:end] * 2])) + text[end:]
    return text


TEXTS = st.one_of(
    nearly_good(),
    nearly_good(),
    FRAMES.map(lambda frame: orjson.dumps(frame).decode()),
    mutated(),
    st.text(max_size=80),
    st.integers(1, 3000).map(lambda depth: '{"type":"x","data":' + "[" * depth + "]" * depth + "}"),
    st.integers(1, 3000).map(lambda depth: "[" * depth),
)
MESSAGES = st.one_of(TEXTS, st.binary(max_size=20))

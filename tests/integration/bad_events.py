"""Events that the hub must refuse, whichever rpc they come through."""

import time
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from switchboard.v1.event_pb2 import Event
from tests.integration.client import an_event

DAY = 24 * 3600
LONG = "x" * 256


def _at(seconds: int, nanos: int = 0) -> dict[str, Any]:
    return {"deliver_at": Timestamp(seconds=seconds, nanos=nanos)}


def _ttl(seconds: int, nanos: int = 0) -> dict[str, Any]:
    return {"ttl": Duration(seconds=seconds, nanos=nanos)}


def _attributes(count: int) -> dict[str, Any]:
    return {"attributes": {str(number): "" for number in range(count)}}


_FIELDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no type": ({"kind": ""}, "type", "FIELD_MISSING"),
    "no source": ({"source": ""}, "source_service", "FIELD_MISSING"),
    "long id": ({"id": "i" * 300}, "id", "TOO_LARGE"),
    "long type": ({"kind": LONG}, "type", "TOO_LARGE"),
    "long source": ({"source": LONG}, "source_service", "TOO_LARGE"),
    "long target": ({"target_service": LONG}, "target_service", "TOO_LARGE"),
    "long content type": ({"content_type": LONG}, "content_type", "TOO_LARGE"),
    "long ordering key": ({"ordering_key": LONG}, "ordering_key", "TOO_LARGE"),
    "long correlation id": ({"correlation_id": LONG}, "correlation_id", "TOO_LARGE"),
    "star in type": ({"kind": "order.*"}, "type", "INVALID_FIELD"),
    "star in source": ({"source": "a*b"}, "source_service", "INVALID_FIELD"),
    "star in target": ({"target_service": "*"}, "target_service", "INVALID_FIELD"),
    "line feed in type": ({"kind": "order\ncreated"}, "type", "INVALID_FIELD"),
    "zero byte in source": ({"source": "shop\0"}, "source_service", "INVALID_FIELD"),
    "unknown priority": ({"priority": 99}, "priority", "INVALID_FIELD"),
    "negative priority": ({"priority": -1}, "priority", "INVALID_FIELD"),
    "many attributes": (_attributes(65), "attributes", "TOO_LARGE"),
    "attribute without key": ({"attributes": {"": "v"}}, "attributes", "INVALID_FIELD"),
    "long attribute key": ({"attributes": {"k" * 129: "v"}}, "attributes", "INVALID_FIELD"),
    "long attribute": ({"attributes": {"k": "v" * 1025}}, "attributes", "INVALID_FIELD"),
    "time before year 1": (_at(-62_135_596_801), "deliver_at", "INVALID_FIELD"),
    "time after 9999": (_at(253_402_300_800), "deliver_at", "INVALID_FIELD"),
    "time of the end of all times": (_at(2**63 - 1), "deliver_at", "INVALID_FIELD"),
    "time with negative nanos": (_at(1, -1), "deliver_at", "INVALID_FIELD"),
    "time with many nanos": (_at(1, 1_000_000_000), "deliver_at", "INVALID_FIELD"),
    "time in 367 days": (_at(int(time.time()) + 367 * DAY), "deliver_at", "INVALID_FIELD"),
    "time in 9999": (_at(253_402_300_799), "deliver_at", "INVALID_FIELD"),
    "negative ttl": (_ttl(-1), "ttl", "INVALID_FIELD"),
    "zero ttl": (_ttl(0), "ttl", "INVALID_FIELD"),
    "ttl of two signs": (_ttl(1, -1), "ttl", "INVALID_FIELD"),
    "ttl with many nanos": (_ttl(0, 1_000_000_000), "ttl", "INVALID_FIELD"),
    "ttl of 10001 years": (_ttl(315_576_000_001), "ttl", "INVALID_FIELD"),
    "ttl of ever": (_ttl(2**63 - 1), "ttl", "INVALID_FIELD"),
    "large payload": ({"binary": b"." * (1024 * 1024)}, "", "TOO_LARGE"),
}

BAD_EVENTS: dict[str, tuple[Event, str, str]] = {
    name: (an_event(**fields), field, reason) for name, (fields, field, reason) in _FIELDS.items()
}
"""By name: an event, the field of it that is to blame ("": the event itself), and the reason."""


def part(number: int, content: bytes) -> bytes:
    """A field of a message as bytes, which need not be what the field's type allows."""
    head, length = number << 3 | 2, len(content)
    out = bytearray([head])
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*out, length]) + content


NOT_UTF8 = an_event("").SerializeToString() + part(2, b"order\xff")
"""An event whose type is no text."""


def nested(depth: int) -> Event:
    """An event whose data holds lists within lists."""
    event = an_event()
    value = event.data.fields["list"]
    for _ in range(depth):
        value = value.list_value.values.add()
    value.bool_value = True
    return event


GARBAGE = {
    "noise": b"\xff\xfe\xfd",
    "cut off": b"\x0a\x7fabc",
    "a wrong wire type": b"\x0f",
    "a field of number zero": b"\x00\x01",
    "text": b'{"event": {"type": "order.created"}}',
    "not UTF-8": part(1, NOT_UTF8),
    "a deep structure": part(1, nested(500).SerializeToString()),
    "a structure of five hundred thousand levels": part(
        1, b"\x2a\x02\x0a\x00" * 4 + b"\x2b" * 500_000
    ),
}
"""What is no request to publish."""

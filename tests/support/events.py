"""Events without a wire: a codec that can be read back, and short ways to make events."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.filters import Route
from switchboard_server.core.records import Drafts, Extra

_HEAD = struct.Struct(">QQHHI")


class Told(NamedTuple):
    """A delivered event, read back."""

    sequence: int
    time_ns: int
    id: str
    publisher: str
    body: bytes


class PlainCodec:
    """A `Codec` of fixed heads: sequence, time, and lengths of id, publisher and body."""

    def encode(
        self, drafts: Drafts, first_sequence: int, time_ns: int
    ) -> tuple[list[bytes], list[int]]:
        """See `Codec.encode`."""
        pieces: list[bytes] = []
        sizes: list[int] = []
        publisher = drafts.publisher.encode()
        for index, body in enumerate(drafts.bodies):
            name = (drafts.ids[index] if drafts.ids else "").encode()
            head = _HEAD.pack(first_sequence + index, time_ns, len(name), len(publisher), len(body))
            pieces += (head, name + publisher, body)
            sizes.append(len(head) + len(name) + len(publisher) + len(body))
        return pieces, sizes


def read_back(frames: bytes | Iterable[bytes]) -> list[Told]:
    """The events in some encoded bytes, in order."""
    data = frames if isinstance(frames, bytes) else b"".join(frames)
    events, at = [], 0
    while at < len(data):
        sequence, time_ns, *lengths = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        parts = []
        for length in lengths:
            parts.append(data[at : at + length])
            at += length
        events.append(Told(sequence, time_ns, parts[0].decode(), parts[1].decode(), parts[2]))
    assert at == len(data)
    return events


def bodies(frames: bytes | Iterable[bytes]) -> list[str]:
    """The bodies of the events in some encoded bytes, as text."""
    return [event.body.decode() for event in read_back(frames)]


def sequences(frames: bytes | Iterable[bytes]) -> list[int]:
    """The sequences of the events in some encoded bytes."""
    return [event.sequence for event in read_back(frames)]


def a_route(
    kind: str = "order.created", source: str = "shop", target: str = "", priority: int = 2
) -> Route:
    """A route that the hub takes."""
    return Route(kind, source, target, priority)


def some(
    *texts: str,
    routes: Route | list[Route] | None = None,
    ids: Sequence[str] | None = None,
    extras: Mapping[int, Extra] | None = None,
    refused: Mapping[int, SwitchboardError] | None = None,
    publisher: str = "",
) -> Drafts:
    """Drafts with these bodies."""
    return Drafts(
        [text.encode() for text in texts],
        routes or a_route(),
        ids=None if ids is None else list(ids),
        extras=dict(extras or {}),
        refused=dict(refused or {}),
        publisher=publisher,
    )


def numbered(count: int, start: int = 0, routes: Route | list[Route] | None = None) -> Drafts:
    """So many drafts, whose bodies are their numbers."""
    return some(*map(str, range(start, start + count)), routes=routes)

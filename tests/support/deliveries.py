"""Deliveries of groups without a wire: each says what it is named before its event's bytes."""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from switchboard_server.core.groups.entries import Entry
from tests.support.events import PlainCodec, read_back

_HEAD = struct.Struct(">II")


@dataclass(frozen=True)
class Got:
    """A delivery as its member sees it."""

    body: str
    sequence: int
    ack_id: str
    attempt: int


class TellingCodec(PlainCodec):
    """Puts what each delivery is named before its bytes."""

    def lease_all(self, entries: Sequence[Entry]) -> tuple[list[bytes], list[int]]:
        """See `LeaseCodec.lease_all`."""
        frames = []
        for each in entries:
            assert each.batch is not None
            head = json.dumps((each.ack_id, each.attempts)).encode()
            frame = each.batch.frame(each.index)
            frames.append(_HEAD.pack(len(head), len(frame)) + head + frame)
        return frames, [len(frame) for frame in frames]


def deliveries(frames: bytes) -> list[Got]:
    """What a chunk holds."""
    found, at = [], 0
    while at < len(frames):
        head, body = _HEAD.unpack_from(frames, at)
        at += _HEAD.size
        ack_id, attempt = json.loads(frames[at : at + head])
        (told,) = read_back(frames[at + head : at + head + body])
        found.append(Got(told.body.decode(), told.sequence, ack_id, attempt))
        at += head + body
    return found

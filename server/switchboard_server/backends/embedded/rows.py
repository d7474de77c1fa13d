"""Batches and scheduled events as the rows of their tables, and back."""

from __future__ import annotations  # array[int] is for type checkers only

import json
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

from switchboard_server.backends.arrays import from_little, to_little
from switchboard_server.core.filters import Route
from switchboard_server.core.ports import RecentId
from switchboard_server.core.records import Batch, Drafts, Extra

Row = tuple[int, int, int, int, int, int, str, bytes, bytes | None, bytes]
"""A row of the table `batches`."""
ScheduledRow = tuple[int, int, int, str, bytes]
"""A row of the table `scheduled`, without its number."""

ROW_BYTES = 40
"""What a row takes besides its variable columns, about."""

DAMAGE = (ValueError, LookupError, TypeError, AttributeError)
"""What goes wrong with JSON that is not what was written."""


def from_batch(batch: Batch) -> Row:
    """The row of a batch."""
    header: dict[str, Any] = {"routes": batch.routes}
    for name in ("ids", "attributes", "ordering_keys", "expiries"):
        if column := getattr(batch, name):
            header[name] = column
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    ends = to_little(batch.ends)
    route_of = None if batch.route_of is None else to_little(batch.route_of)
    crc = _crc(text, ends, route_of, batch.frames)
    frames = batch.frames
    size = ROW_BYTES + len(text) + len(ends) + len(route_of or b"") + len(frames)
    priorities = 0
    for route in batch.routes:
        priorities |= 1 << route.priority
    return (
        *(batch.last, batch.first, batch.time_ns, size, priorities, crc),
        *(text, ends, route_of, frames),
    )


def to_batch(row: Row) -> Batch | None:
    """The batch of a row; None: the row is not as it was written."""
    _, first, time_ns, _, _, crc, text, ends, route_of, frames = row
    try:
        if crc != _crc(text, ends, route_of, frames):
            return None
    except DAMAGE:  # A column has become one of another type.
        return None
    header = json.loads(text)
    return Batch(
        first=first,
        time_ns=time_ns,
        frames=frames,
        ends=from_little("I", ends),
        routes=tuple(Route(*route) for route in header["routes"]),
        route_of=None if route_of is None else from_little("H", route_of),
        **{
            name: {int(index): value for index, value in header[name].items()}
            for name in ("ids", "attributes", "ordering_keys", "expiries")
            if name in header
        },
    )


def recent_ids(
    first: int, time_ns: int, text: str, count: int, route_of: bytes | None
) -> list[RecentId]:
    """The ids that the publishers of a batch's events gave."""
    try:
        header = json.loads(text)
        numbers = array("H", bytes(2 * count)) if route_of is None else from_little("H", route_of)
        return [
            RecentId(header["routes"][numbers[int(index)]][1], each, first + int(index), time_ns)
            for index, each in header.get("ids", {}).items()
        ]
    except DAMAGE:
        return []  # Whoever reads the batch is told that it is lost.


def from_scheduled(drafts: Drafts, accepted_ns: int) -> Iterator[ScheduledRow]:
    """The rows of scheduled events."""
    for index, body in enumerate(drafts.bodies):
        extra = drafts.extras[index]
        header = {
            "route": drafts.route(index),
            "id": drafts.ids[index] if drafts.ids else "",
            "extra": astuple(extra),
            "publisher": drafts.publisher,
        }
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
        due_ns = extra.deliver_at_ns
        yield due_ns, accepted_ns, _scheduled_crc(due_ns, accepted_ns, text, body), text, body


def to_scheduled(row: ScheduledRow) -> Drafts | None:
    """The drafts of a scheduled event's row; None: the row is not as it was written."""
    due_ns, accepted_ns, crc, text, body = row
    try:
        if crc != _scheduled_crc(due_ns, accepted_ns, text, body):
            return None
        header = json.loads(text)
        return Drafts(
            bodies=[body],
            routes=Route(*header["route"]),
            ids=[header["id"]] if header["id"] else None,
            extras={0: Extra(*header["extra"])},
            publisher=header["publisher"],
        )
    except DAMAGE:
        return None


def scheduled_id(text: str, accepted_ns: int) -> RecentId:
    """The id of a scheduled event; empty where its publisher gave none, or it cannot be read."""
    try:
        header = json.loads(text)
        return RecentId(header["route"][1], header["id"], 0, accepted_ns)
    except DAMAGE:
        return RecentId("", "", 0, accepted_ns)


def _crc(text: str, ends: bytes, route_of: bytes | None, frames: bytes) -> int:
    return zlib.crc32(
        frames, zlib.crc32(route_of or b"", zlib.crc32(ends, zlib.crc32(text.encode())))
    )


def _scheduled_crc(due_ns: int, accepted_ns: int, text: str, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(text.encode(), zlib.crc32(b"%d %d" % (due_ns, accepted_ns))))

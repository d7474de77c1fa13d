"""Writing records into a stream that the holder of a seat reads back."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable

from switchboard_server.backends.rabbitmq.track import READ_SECONDS, Kind, Track
from switchboard_server.backends.rabbitmq.waiting import answered

ENTRY_BYTES = 256 * 1024
"""Most bytes of records that an entry holds."""
IN_FLIGHT = 2
"""Entries that are written and not read yet, while others gather."""

Records = Iterable[bytes] | AsyncIterable[bytes]


def write(track: Track, records: list[bytes]) -> "asyncio.Future[int]":
    """Writes records, of which only one that stands alone may be larger than an entry.

    RabbitMQ refuses messages beyond a size that differs by version and configuration.
    """
    first = records[0]
    if len(first) > ENTRY_BYTES:
        *starts, last = range(0, len(first), ENTRY_BYTES)
        for start in starts:
            track.write(Kind.PART, records=[first[start : start + ENTRY_BYTES]])
        records = [first[last:]]
    return track.write(Kind.RECORDS, records=records)


async def fill(track: Track, records: Records) -> None:
    """Writes records and waits until they have been read, many at a time.

    Raises:
        UnavailableError: They were not.
    """
    taken: list[bytes] = []
    size = 0
    writing: deque[asyncio.Future[int]] = deque()
    async for record in _each(records):
        if size and size + len(record) > ENTRY_BYTES:
            writing.append(write(track, taken))
            taken, size = [], 0
        taken.append(record)
        size += len(record)
        if len(writing) > 2 * IN_FLIGHT:
            await answered(writing.popleft(), f"writing to {track.queue}", READ_SECONDS)
    if taken:
        writing.append(write(track, taken))
    for each in writing:
        await answered(each, f"writing to {track.queue}", READ_SECONDS)


async def _each(records: Records) -> AsyncIterator[bytes]:
    if isinstance(records, AsyncIterable):
        async for record in records:
            yield record
    else:
        for record in records:
            yield record

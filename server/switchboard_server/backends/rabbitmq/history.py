"""Reads what the stream holds: ranges by sequence, places by time, and how far back it goes."""

import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from switchboard_server.backends.rabbitmq.index import Index, Spot
from switchboard_server.backends.rabbitmq.place import Place, Verdict
from switchboard_server.backends.rabbitmq.records import (
    TERM,
    Columns,
    RecordError,
    decode_batches,
    decode_columns,
    decode_marker,
)
from switchboard_server.backends.rabbitmq.stream import FEW, Found, Scan, Start, StreamReader
from switchboard_server.core.ports import ReadResult, RecentId, Window
from switchboard_server.core.records import Batch

NEAR = 192
"""Reading begins at most about so many messages before what is wanted."""
BEHIND = 16
"""So many messages before a spot that was found by trying, reading begins: it may be one that does
not count."""

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Reading:
    """A record that counts, and where it stands."""

    offset: int
    columns: Columns
    body: bytes

    def batches(self) -> list[Batch]:
        return decode_batches(self.body, self.columns)


class History:
    """The log's past.

    Args:
        reader: Reads the stream.
        window: Tells what is retained, as far as it is known.
        trimmed: Takes the sequence of the first retained event, where reading has found another.

    Attributes:
        first_offset: Where the stream begins, as far as it is known.
        index: Where in the stream sequences are, as far as that is known.
    """

    def __init__(
        self,
        reader: StreamReader,
        window: Callable[[], Window],
        trimmed: Callable[[int], None],
    ) -> None:
        self.index = Index()
        self.first_offset = 0
        self._reader = reader
        self._window = window
        self._trimmed = trimmed

    def begin_anew(self) -> None:
        """Forgets where anything stands: the stream is another one.

        A reader that begins beyond the end of a stream waits in vain.
        """
        self.index.clear()
        self.first_offset = 0

    async def look(self) -> None:
        """Finds out where the stream begins.

        Raises:
            UnavailableError: The stream cannot be read now.
        """
        place = Place()
        async with self._reader.scan("first", FEW) as scan:
            message = await scan.next()
            self.first_offset = message.offset
            self.index.trim(message.offset)
            while (first := _beginning(place, message)) is None:
                message = await scan.next()
        self._trimmed(first)

    async def read(self, after: int, max_bytes: int, priority: int) -> ReadResult:
        """See `EventLog.read`."""
        window = self._window()
        wanted, size, found = max(after + 1, window.first), 0, list[Batch]()
        if wanted > window.last:
            return ReadResult([], window)
        upto = wanted - 1
        async with aclosing(self._batches(wanted, window.last)) as batches:
            async for batch in batches:
                if batch.first > upto + 1:
                    if not found:
                        return self._hole(upto + 1, batch.first)
                    break
                upto = batch.last
                if not priority or any(route.priority == priority for route in batch.routes):
                    found.append(batch)
                    size += len(batch.frames)
                    if size >= max_bytes:
                        break
        return ReadResult(found, self._window())

    def _hole(self, wanted: int, first: int) -> ReadResult:
        """What is told of events that are not in the stream, though older ones may be."""
        window = self._window()
        if window.first > wanted:
            return ReadResult([], window)
        return ReadResult([], window, (wanted, first - 1))

    async def read_backward(self, before: int, max_bytes: int) -> ReadResult:
        """See `EventLog.read_backward`."""
        window = self._window()
        last = min(before - 1, window.last)
        if last < window.first:
            return ReadResult([], window)
        found: deque[Batch] = deque()
        size, reach = 0, NEAR
        start = await self._offset_of(last)
        while True:
            async with aclosing(self._batches_from(start, last)) as batches:
                part = [batch async for batch in batches if batch.last >= window.first]
            upto = found[0].first if found else last + 1
            for batch in reversed(part):
                if batch.first < upto and size < max_bytes:
                    found.appendleft(batch)
                    size += len(batch.frames)
            if size >= max_bytes or start <= self.first_offset:
                break
            last = found[0].first - 1 if found else last
            if last < window.first:
                break
            start, reach = max(self.first_offset, start - reach), 2 * reach
        if not found:
            return ReadResult([], self._window())
        return ReadResult(list(found), self._window())

    async def sequence_before(self, time_ns: int) -> int:
        """See `EventLog.sequence_before`."""
        window = self._window()
        before = window.first - 1
        if window.last < window.first:
            return window.last
        spot, following = self.index.around_time(time_ns)
        start = await self._narrow(spot, following, lambda each: each.time_ns < time_ns)
        async with aclosing(self._readings(start, window.last)) as readings:
            async for reading in readings:
                if reading.columns.time_ns >= time_ns:
                    break
                before = max(before, reading.columns.last)
        return before

    async def recent_ids(self, since_ns: int, limit: int) -> Sequence[RecentId]:
        """See `EventLog.recent_ids`; those of scheduled events are not among them."""
        window = self._window()
        found: deque[RecentId] = deque(maxlen=limit)
        if window.last < window.first:
            return found
        spot, following = self.index.around_time(since_ns)
        start = await self._narrow(spot, following, lambda each: each.time_ns < since_ns)
        async with aclosing(self._readings(start, window.last)) as readings:
            async for reading in readings:
                if reading.columns.time_ns >= since_ns and reading.columns.first >= window.first:
                    found.extend(_ids_of(reading.columns))
        return found

    async def released_since(self, after: int) -> set[int]:
        """Which scheduled events have entered the log after a sequence.

        Raises:
            UnavailableError: The stream cannot be read now.
        """
        window = self._window()
        found: set[int] = set()
        if max(after + 1, window.first) > window.last:
            return found
        start = await self._offset_of(max(after + 1, window.first))
        async with aclosing(self._readings(start, window.last)) as readings:
            async for reading in readings:
                found.update(reading.columns.released)
        return found

    async def _batches(self, first: int, last: int) -> AsyncGenerator[Batch, None]:
        """The batches that hold events of a range."""
        start = await self._offset_of(first)
        async with aclosing(self._batches_from(start, last)) as batches:
            async for batch in batches:
                if batch.last >= first:
                    yield batch

    async def _batches_from(self, start: int, last: int) -> AsyncGenerator[Batch, None]:
        """The batches from an offset on, up to that which holds a sequence."""
        async with aclosing(self._readings(start, last)) as readings:
            async for reading in readings:
                for batch in reading.batches():
                    if batch.first <= last:
                        yield batch

    async def _readings(self, start: int, last: int) -> AsyncGenerator[_Reading, None]:
        """What counts from an offset on, up to what holds or passes a sequence."""
        async with self._reader.scan(max(start, self.first_offset)) as scan:
            async for reading in self._records(scan):
                if reading.columns.first <= last:
                    yield reading
                if reading.columns.last >= last:
                    return

    async def _records(self, scan: Scan) -> AsyncGenerator[_Reading, None]:
        """What counts, of that which is read."""
        place = Place()
        while True:
            message = await scan.next()
            try:
                if message.type == TERM:
                    marker = decode_marker(message.body)
                    if place.mark(marker) is Verdict.FOREIGN:
                        place.begin_anew()
                        place.mark(marker)
                    continue
                columns = decode_columns(message.body)
            except RecordError as error:
                _logger.warning("message %d of the log: %s", message.offset, error)
                continue
            verdict = place.take(columns)
            if verdict is Verdict.COUNTS:
                yield _Reading(message.offset, columns, message.body)

    async def _offset_of(self, sequence: int) -> int:
        """Where to begin reading in order to find a sequence."""
        spot, following = self.index.around(sequence)
        return await self._narrow(spot, following, lambda each: each.first <= sequence)

    async def _narrow(
        self, low: Spot | None, high: Spot | None, before: Callable[[Spot], bool]
    ) -> int:
        """Finds an offset near before what is wanted by trying in between, which is remembered."""
        start = self.first_offset if low is None else low.offset
        if high is None:
            return start
        stop = high.offset
        while stop - start > NEAR:
            middle = (start + stop) // 2
            spot = await self._try(middle)
            if spot is None or spot.offset >= stop:
                stop = middle
            elif before(spot):
                self.index.add(spot)
                start = spot.offset
            else:
                self.index.add(spot)
                stop = spot.offset if spot.offset < stop else middle
        return max(self.first_offset, start - (0 if low and start == low.offset else BEHIND))

    async def _try(self, start: Start) -> Spot | None:
        """The first record at or after an offset."""
        async with self._reader.scan(start, FEW) as scan:
            for _ in range(BEHIND):
                message = await scan.next()
                if message.type != TERM:
                    columns = decode_columns(message.body)
                    return Spot(columns.first, columns.time_ns, message.offset)
        return None


def _ids_of(columns: Columns) -> list[RecentId]:
    return [
        RecentId(batch.route(index).source_service, each, batch.first + index, columns.time_ns)
        for batch in columns.batches
        for index, each in sorted(batch.ids.items())
    ]


def _beginning(place: Place, message: Found) -> int | None:
    """The sequence with which a stream begins, from its first message; None: it does not tell."""
    try:
        if message.type == TERM:
            marker = decode_marker(message.body)
            return marker.last + 1
        columns = decode_columns(message.body)
    except RecordError:
        return None
    return columns.first if place.take(columns) is Verdict.COUNTS else None

"""Reading the log's history a page at a time."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from switchboard_server.core.clock import Clock
from switchboard_server.core.filters import EVERYTHING, Filter
from switchboard_server.core.paging import make_token, page_limit, read_token
from switchboard_server.core.ports import EventLog, ReadResult
from switchboard_server.core.records import Batch

MAX_PAGE_BYTES = 2 * 1024 * 1024
"""A page takes no further event once it holds this many bytes: it stays below gRPC's 4 MiB."""
MAX_SCAN_BYTES = 32 * 1024 * 1024
"""How much of the log one page looks through at most."""
READ_BYTES = 1024 * 1024
"""How much of the log is read at once."""


@dataclass(frozen=True, slots=True)
class Query:
    """What of the history is wanted.

    Args:
        filter: Which events.
        start_ns: Only what entered the log at or after this Unix time; None: no bound.
        end_ns: Only what entered the log before this Unix time; None: no bound.
        newest_first: Which end comes first.
        page_size: Most events of the page, 1 to 1000; 0: 100.
        page_token: Where the page before ended; empty: the first page.
    """

    filter: Filter = EVERYTHING
    start_ns: int | None = None
    end_ns: int | None = None
    newest_first: bool = True
    page_size: int = 0
    page_token: str = ""


@dataclass(slots=True)
class Page:
    """Part of the history.

    Attributes:
        frames: The encoded events, in the query's order.
        next_page_token: Asks for the next page; empty: there is none.
    """

    frames: list[bytes] = field(default_factory=list)
    next_page_token: str = ""


async def list_page(log: EventLog, query: Query, clock: Clock) -> Page:
    """Reads one page.

    Args:
        log: The log.
        query: What is wanted.
        clock: Unix time in nanoseconds; what has expired by it is left out.

    Raises:
        InvalidArgumentError: The page size or the token is not allowed.
        UnavailableError: The log cannot be read now.
    """
    lister = _Lister(log, query, clock(), page_limit(query.page_size))
    await lister.bound()
    return await lister.run()


class _Lister:
    """The reading of one page; `low` and `high` bound what is still wanted, both exclusive."""

    def __init__(self, log: EventLog, query: Query, now_ns: int, limit: int) -> None:
        self.log = log
        self.query = query
        self.now_ns = now_ns
        self.page = Page()
        self.limit = limit
        self.bytes = 0
        self.low = 0
        self.high = 0

    async def bound(self) -> None:
        query, log = self.query, self.log
        self.low = 0 if query.start_ns is None else await log.sequence_before(query.start_ns)
        last = log.window.last if query.end_ns is None else await log.sequence_before(query.end_ns)
        self.high = last + 1
        if query.page_token:
            position = _read_token(query, log.log_id)
            if query.newest_first:
                self.high = min(self.high, position)
            else:
                self.low = max(self.low, position)

    async def run(self) -> Page:
        scanned = 0
        while self.low + 1 < self.high:
            if self._full() or scanned >= MAX_SCAN_BYTES:
                position = self.high if self.query.newest_first else self.low
                self.page.next_page_token = _make_token(self.query, self.log.log_id, position)
                break
            scanned += await (self._step_down() if self.query.newest_first else self._step_up())
        return self.page

    async def _step_up(self) -> int:
        result = await self.log.read(self.low, READ_BYTES)
        if self._unreadable(result):
            return 0
        for batch in result.batches:
            for index in self._wanted(batch):
                if self._full():
                    return _size(result)
                self._take(batch, index)
                self.low = batch.first + index
            self.low = max(self.low, batch.last)
        return _size(result)

    async def _step_down(self) -> int:
        result = await self.log.read_backward(self.high, READ_BYTES)
        if self._unreadable(result):
            return 0
        for batch in reversed(result.batches):
            for index in reversed(list(self._wanted(batch))):
                if self._full():
                    return _size(result)
                self._take(batch, index)
                self.high = batch.first + index
            self.high = min(self.high, batch.first)
        return _size(result)

    def _unreadable(self, result: ReadResult) -> bool:
        """Moves past what is gone; whether that is all there was to do."""
        if result.lost is not None:
            if self.query.newest_first:
                self.high = min(self.high, result.lost[0])
            else:
                self.low = max(self.low, result.lost[1])
        elif not result.batches:
            self.low = self.high
        else:
            return False
        return True

    def _wanted(self, batch: Batch) -> Iterator[int]:
        start = max(0, self.low + 1 - batch.first)
        for opened, stop in batch.live(batch.matching(self.query.filter, start), self.now_ns):
            for index in range(opened, stop):
                if batch.first + index >= self.high:
                    return
                yield index

    def _take(self, batch: Batch, index: int) -> None:
        frame = batch.frame(index)
        self.page.frames.append(frame)
        self.bytes += len(frame)

    def _full(self) -> bool:
        return len(self.page.frames) >= self.limit or self.bytes >= MAX_PAGE_BYTES


def _size(result: ReadResult) -> int:
    return sum(len(batch.frames) for batch in result.batches)


_POSITION = struct.Struct(">Q")


def _asked(query: Query, log_id: str) -> object:
    return (log_id, query.filter.key, query.start_ns, query.end_ns, query.newest_first)


def _make_token(query: Query, log_id: str, position: int) -> str:
    return make_token(_POSITION.pack(position), _asked(query, log_id))


def _read_token(query: Query, log_id: str) -> int:
    return int(_POSITION.unpack(read_token(query.page_token, _asked(query, log_id)))[0])

"""What the holders of a seat have to know, kept in RabbitMQ's streams from one to the next."""

import asyncio
import logging
from collections import deque
from collections.abc import (
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from typing import Any

from switchboard_server.backends.rabbitmq.filling import (
    ENTRY_BYTES,
    IN_FLIGHT,
    Records,
    fill,
    write,
)
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.seat import Term
from switchboard_server.backends.rabbitmq.topology import STREAM, Topology
from switchboard_server.backends.rabbitmq.track import READ_SECONDS, Entry, Kind, Track
from switchboard_server.backends.rabbitmq.waiting import failed, unavailable
from switchboard_server.core.errors import UnavailableError

COMPACT_BYTES = 8 * 1024 * 1024
"""Below this, compacting is not worth it."""
COMPACT_FACTOR = 4
"""How many times as large as its live part a journal may be."""

INDEX = {
    **STREAM,
    "x-max-length-bytes": 4_000_000,
    "x-stream-max-segment-size-bytes": 1_000_000,
}
"""Arguments of the stream that says where a journal is. Every holder writes it down anew, so that
what is older is not needed."""

_FEW = 100
_ROUNDS = 5

Replay = Callable[[Sequence[bytes]], None]

_logger = logging.getLogger(__name__)


class Journal:
    """The journal of a seat, in one term.

    Records are in a stream that is made anew, with what is still live, when it has grown. Each has
    a name of its own, never used again, so that a former holder that does not know cannot do harm
    by removing one. Another stream, the index, says which one it is; a term begins there, and is
    numbered by its place there.

    Args:
        link: The connection.
        topology: The names.
        term: The term. It ends where the journal cannot be written or read.
    """

    def __init__(self, link: Link, topology: Topology, term: Term) -> None:
        self._link = link
        self._topology = topology
        self._term = term
        self._index = Track(link, term, topology.journal(term.seat, "index"), self._read_index)
        self._data: Track | None = None
        self._point = ""
        self._intents: set[str] = set()
        self._replay: Replay | None = None
        self._waiting: deque[tuple[bytes, asyncio.Future[None]]] = deque()
        self._in_flight: set[asyncio.Future[int]] = set()
        self._copies: list[bytes] | None = None
        self._later: deque[tuple[bytes, asyncio.Future[None]]] | None = None
        self._error: Exception | None = None
        self._parts: list[bytes] = []
        self._live_size = 0
        self._generation = 0
        term.on_end(self._fail)

    @property
    def size(self) -> int:
        """Bytes that the journal has."""
        return 0 if self._data is None else self._data.size

    @property
    def should_compact(self) -> bool:
        """Whether it has grown so much that it should be made anew."""
        grown = self.size > max(COMPACT_BYTES, COMPACT_FACTOR * self._live_size)
        return grown and self._copies is None

    async def open(self, replay: Replay) -> None:
        """Begins the term, for which it sets the epoch, and reads what there is.

        Args:
            replay: Takes the records of all terms before, in order, some at a time. Must not block
                for long.

        Raises:
            UnavailableError: It cannot be read, or another node has taken the seat meanwhile.
        """
        await self._declare(self._index.queue, INDEX)
        await self._index.open()
        await self._index.written(Kind.TERM)
        left, point = self._intents - {self._point}, self._point
        if point:
            self._replay = replay
            self._data = await self._track(point)
            await self._data.written(Kind.TERM)
            self._replay = None
            if self._error is not None:
                raise self._error
            await self._point_to(point)
        else:
            self._data = await self._make(())
        for name in left:
            await self._remove(name)
        self._check()

    def append(self, record: bytes) -> asyncio.Future[None]:
        """Keeps a record, after those before it.

        Returns:
            Answers when every later holder will read it. Fails with UnavailableError when nobody
            knows, and the term has ended. Cancelling it takes nothing back.
        """
        if self._term.ended.is_set():
            return failed(unavailable(self._text()))
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._later is not None:
            self._later.append((record, outcome))
            return outcome
        if self._copies is not None:
            self._copies.append(record)
        self._waiting.append((record, outcome))
        if len(self._waiting) == 1:
            # Whatever else is appended in this turn of the loop goes with it.
            asyncio.get_running_loop().call_soon(self._pump)
        return outcome

    def give_up(self, reason: str) -> None:
        """Ends the term, for the node cannot do what its holder has to."""
        self._term.end(reason)

    def compact(self, live: Records) -> Coroutine[Any, Any, None]:
        """Makes the journal anew. Appending goes on meanwhile.

        Args:
            live: Records that stand for all that was appended before this call, and for nothing
                that is appended after it, even before the answer is awaited. Read little by little.

        Raises:
            UnavailableError: It could not be done, and the term has ended.
        """
        if self._copies is not None:
            raise RuntimeError("the journal is being made anew")
        self._copies = []
        return self._compact(live)

    async def close(self) -> None:
        """Lets go of it. What waits fails."""
        self._fail()
        for track in (self._index, self._data):
            if track is not None:
                await track.close()

    async def _compact(self, live: Records) -> None:
        old = self._data
        try:
            self._data = await self._make(live)
        except BaseException as error:
            self._term.end(f"its journal could not be made anew: {error}")
            raise
        finally:
            self._copies = None
            if self._later is not None:
                self._waiting, self._later = self._later, None
            if self._term.ended.is_set():
                self._fail()
            self._pump()
        if old is not None:
            await old.close()
            await self._remove(old.queue)

    async def _make(self, live: Records) -> Track:
        """Makes a stream of live records, and points to it."""
        self._generation += 1
        name = self._topology.journal(self._term.seat, f"{self._term.epoch}-{self._generation}")
        await self._index.written(Kind.INTENT, name=name)
        await self._declare(name, STREAM)
        track = await self._track(name)
        await track.written(Kind.TERM)
        await fill(track, live)
        if self._copies is not None:
            await self._catch_up(track)
        self._live_size = track.size
        await self._point_to(name)
        self._check()
        return track

    async def _point_to(self, name: str) -> None:
        await self._index.written(Kind.POINT, name=name, records=[b"%d" % self._live_size])

    async def _catch_up(self, track: Track) -> None:
        """Writes what was appended meanwhile, the rest of it while nothing is."""
        for _ in range(_ROUNDS):
            copies, self._copies = self._copies or [], []
            await fill(track, copies)
            if len(copies) < _FEW:
                break
        self._later = deque()
        while self._waiting or self._in_flight:
            await asyncio.wait(self._in_flight or [asyncio.create_task(asyncio.sleep(0))])
            self._check()
        await fill(track, self._copies or ())

    def _pump(self) -> None:
        while (
            self._waiting
            and len(self._in_flight) < IN_FLIGHT
            and self._data is not None
            and not self._term.ended.is_set()
        ):
            taken: list[tuple[bytes, asyncio.Future[None]]] = []
            size = 0
            while self._waiting and (not taken or size + len(self._waiting[0][0]) <= ENTRY_BYTES):
                taken.append(self._waiting.popleft())
                size += len(taken[-1][0])
            records = [record for record, _ in taken]
            self._follow(write(self._data, records), [outcome for _, outcome in taken])

    def _follow(
        self, writing: "asyncio.Future[int]", outcomes: "list[asyncio.Future[None]]"
    ) -> None:
        """Answers who waits for what is written."""
        self._in_flight.add(writing)

        def done(_: object) -> None:
            self._in_flight.discard(writing)
            late.cancel()
            error = writing.exception()
            for outcome in outcomes:
                if outcome.done():
                    continue
                if error is None:
                    outcome.set_result(None)
                else:
                    outcome.set_exception(error)
                    outcome.exception()
            self._pump()

        loop = asyncio.get_running_loop()
        late = loop.call_later(READ_SECONDS, self._term.end, "its journal is not read back")
        writing.add_done_callback(done)

    def _read_index(self, entry: Entry, offset: int) -> None:
        if entry.kind == Kind.TERM:
            if entry.nonce == self._term.nonce:
                self._term.epoch = offset + 1
        elif self._term.epoch and entry.epoch != self._term.epoch:
            return  # Of a later term: this one ends.
        elif entry.kind == Kind.INTENT:
            self._intents.add(entry.name)
        elif entry.kind == Kind.GONE:
            self._intents.discard(entry.name)
        elif entry.kind == Kind.POINT:
            self._intents.add(entry.name)
            self._point = entry.name
            self._live_size = int(entry.records[0]) if entry.records else 0

    def _read_data(self, entry: Entry, offset: int) -> None:
        if entry.kind == Kind.TERM:
            self._parts.clear()  # Whoever began a record did not finish it.
        if self._replay is None or self._error is not None:
            return
        if entry.kind == Kind.PART:
            self._parts += entry.records
        if entry.kind != Kind.RECORDS:
            return
        records = entry.records
        if self._parts:
            records = [b"".join([*self._parts, records[0]]), *records[1:]]
            self._parts.clear()
        try:
            self._replay(records)
        except Exception as error:
            self._error = error

    async def _track(self, name: str) -> Track:
        track = Track(self._link, self._term, name, self._read_data)
        await track.open()
        return track

    async def _remove(self, name: str) -> None:
        try:
            channel = await self._link.channel()
            try:
                await channel.delete_queue(name)
            finally:
                await channel.close()
            await self._index.written(Kind.GONE, name=name)
        except UnavailableError as error:
            _logger.warning("%s, which is not needed any more, stays: %s", name, error.message)

    async def _declare(self, name: str, arguments: Mapping[str, Any]) -> None:
        channel = await self._link.channel()
        try:
            await channel.declare_queue(name, arguments)
        finally:
            await channel.close()

    def _check(self) -> None:
        if self._term.ended.is_set():
            raise unavailable(self._text())

    def _text(self) -> str:
        return f"{self._term.seat} is not held here: {self._term.reason}"

    def _fail(self) -> None:
        waiting = [*self._waiting, *(self._later or ())]
        self._waiting.clear()
        for _, outcome in waiting:
            if not outcome.done():
                outcome.set_exception(unavailable(self._text()))
                outcome.exception()

"""Keeps events until they are due, in the journal of the seat of who numbers.

Each enters the log once, whichever node holds the seat then: before some are released, the journal
says which, and how far the log was; the record that holds them names them; and only when it has
been read does the journal say that they are gone. A new holder that finds some begun looks for them
in the log from there on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import chain, islice
from operator import attrgetter

from switchboard_server.backends.clocks import Alarm
from switchboard_server.backends.rabbitmq.entries import Entry
from switchboard_server.backends.rabbitmq.journal import Journal
from switchboard_server.backends.rabbitmq.records import columns_to_drafts, drafts_to_columns
from switchboard_server.backends.rabbitmq.scheduled import (
    Begun,
    Gone,
    Row,
    Rows,
    Scheduled,
    decode,
    encode,
    record_of,
    rows_of,
)
from switchboard_server.backends.rabbitmq.sequencing import Sequencer
from switchboard_server.core.clock import Clock
from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.idempotency import SCHEDULED, Key
from switchboard_server.core.ports import RecentId

MAX_RELEASED = 1000
"""Most events that are released at a time."""
REMEMBERED = 10_000
"""Requests that are known again when they are sent twice, though all of their events are gone."""

_logger = logging.getLogger(__name__)


ReleasedSince = Callable[[int], Awaitable[set[int]]]
"""Which scheduled events have entered the log after a sequence."""


class Schedule:
    """The scheduled events, while this node holds the seat.

    Args:
        sequencer: Numbers them when they are due.
        clock: Unix time in nanoseconds.
        remembered: Takes the ids of what is scheduled.
        last: Tells how far the log has been read.
    """

    def __init__(
        self,
        sequencer: Sequencer,
        clock: Clock,
        remembered: Callable[[Sequence[RecentId]], None],
        last: Callable[[], int],
    ) -> None:
        self._sequencer = sequencer
        self._clock = clock
        self._remembered = remembered
        self._last = last
        self._alarm = Alarm(self._ring, clock)
        self._journal: Journal | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._reset()

    def _reset(self) -> None:
        self._rows: dict[int, Row] = {}
        self._due: list[tuple[int, int]] = []
        self._next_row = 1
        self._begun: dict[int, int] = {}
        self._answered: dict[tuple[str, int], dict[int, int]] = {}
        self._releasing: set[int] = set()

    # --- the term -----------------------------------------------------------------------------

    async def open(self, journal: Journal) -> None:
        """Reads what is scheduled.

        Raises:
            UnavailableError: The journal cannot be read.
        """
        self._reset()
        await journal.open(self._replay)
        self._journal = journal

    async def begin(self, released_since: ReleasedSince) -> None:
        """Goes on where the last holder was, once the log has been read to its end.

        Raises:
            UnavailableError: The log cannot be read.
        """
        if self._begun:
            gone = await released_since(min(self._begun.values()))
            self._forget([row for row in self._begun if row in gone])
            self._begun.clear()
        self._remembered(self.recent_ids())
        for row in self._rows.values():
            heappush(self._due, (row.due_ns, row.row))
        self._arm()

    async def end(self) -> None:
        """Lets go of everything; the next holder reads it."""
        self._alarm.cancel()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        journal, self._journal = self._journal, None
        if journal is not None:
            await journal.close()
        self._reset()

    @property
    def busy(self) -> bool:
        """Whether something is on its way to the journal or into the log."""
        return bool(self._tasks or self._releasing)

    def recent_ids(self) -> list[RecentId]:
        """The ids of what is scheduled, in the order in which it was."""
        found = []
        for row in sorted(self._rows.values(), key=attrgetter("row")):
            key = row.key
            if key is not None:
                found.append(RecentId(*key, SCHEDULED, row.origin.accepted_ns))
        return found

    # --- what is scheduled --------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Keeps events; answers when every later holder will know them."""
        if self._journal is None:
            return
        known = self._answered.get((entry.node, entry.number))
        if known is not None:
            self._sequencer.sifter.settle(entry, known)
            return
        drafts, duplicates = entry.drafts, {}
        if drafts.ids is not None:
            duplicates = self._sequencer.sifter.duplicates(drafts, SCHEDULED)
            fresh = [index for index in range(len(drafts)) if index not in duplicates]
            if not fresh:
                self._sequencer.sifter.settle(entry, duplicates)
                return
            drafts = drafts.select(fresh) if duplicates else drafts
        scheduled = Scheduled(
            self._next_row,
            self._clock(),
            entry.node,
            entry.number,
            drafts_to_columns(drafts),
            duplicates,
        )
        try:
            rows = rows_of(scheduled, drafts)
        except Exception as error:  # A defect must fail this call, not all later ones.
            entry.fail(error)
            return
        self._next_row += len(drafts)
        self._rows.update((row.row, row) for row in rows)
        keys = [key for key in (row.key for row in rows) if key is not None]
        self._sequencer.sifter.begin_keys(keys, SCHEDULED)
        self._start(self._keep(self._journal, entry, scheduled, rows, keys))

    async def _keep(
        self,
        journal: Journal,
        entry: Entry,
        scheduled: Scheduled,
        rows: Sequence[Row],
        keys: Sequence[Key],
    ) -> None:
        await journal.append(encode(scheduled))
        self._sequencer.sifter.end_keys(keys)
        self._remembered([RecentId(*key, SCHEDULED, scheduled.accepted_ns) for key in keys])
        self._remember(scheduled)
        for row in rows:
            heappush(self._due, (row.due_ns, row.row))
        self._sequencer.sifter.settle(entry, scheduled.duplicates)
        self._arm()
        if journal.should_compact:
            await journal.compact(self._live())

    # --- what is due --------------------------------------------------------------------------

    def released(self, rows: Iterable[int]) -> None:
        """Takes notice that events are in the log."""
        gone = [row for row in rows if row in self._rows]
        if not gone or self._journal is None:
            return
        self._forget(gone)
        self._journal.append(encode(Gone(gone)))
        self._releasing.difference_update(gone)
        if not self._releasing:
            self._arm()

    def _arm(self) -> None:
        """Sets the alarm for the event that is due next."""
        while self._due and self._due[0][1] not in self._rows:
            heappop(self._due)
        if self._due and not self._releasing and self._journal is not None:
            self._alarm.set(self._due[0][0])

    def _ring(self) -> None:
        if self._journal is not None and not self._releasing:
            self._start(self._release(self._journal))

    async def _release(self, journal: Journal) -> None:
        """Has what is due numbered."""
        now = self._clock()
        rows: list[Row] = []
        while self._due and self._due[0][0] <= now and len(rows) < MAX_RELEASED:
            row = self._rows.get(heappop(self._due)[1])
            if row is not None and row.row not in self._releasing:
                self._releasing.add(row.row)
                rows.append(row)
        if not rows:
            self._arm()
            return
        await journal.append(encode(Begun([row.row for row in rows], self._last())))
        for row in rows:
            self._sequencer.add(
                Entry("", 0, row.drafts, _nothing, self._defect(row), released=[row.row])
            )

    def _defect(self, row: Row) -> Callable[[Exception], None]:
        def defect(error: Exception) -> None:
            """Passes over an event that cannot be numbered, so that it does not hold up others."""
            _logger.error("scheduled event %d is lost", row.row, exc_info=error)
            self.released([row.row])

        return defect

    # --- the journal --------------------------------------------------------------------------

    def _replay(self, records: Sequence[bytes]) -> None:
        for record in records:
            each = decode(record)
            if isinstance(each, Scheduled):
                self._next_row = max(self._next_row, each.row + len(each.drafts.bodies))
                self._remember(each)
                for row in rows_of(each, columns_to_drafts(each.drafts)):
                    self._rows[row.row] = row
            elif isinstance(each, Begun):
                self._begun.update(dict.fromkeys(each.rows, each.last))
            elif isinstance(each, Gone):
                self._forget(each.rows)
            else:
                self._next_row = max(self._next_row, each.row)

    def _remember(self, scheduled: Scheduled) -> None:
        self._answered[scheduled.node, scheduled.number] = scheduled.duplicates
        if len(self._answered) > REMEMBERED + len(self._rows):
            for key in list(islice(self._answered, REMEMBERED // 10)):
                del self._answered[key]

    def _forget(self, rows: Iterable[int]) -> None:
        for row in rows:
            self._rows.pop(row, None)
            self._begun.pop(row, None)

    def _live(self) -> Iterator[bytes]:
        """The records that say what waits now, encoded as they are read."""
        rows = list(self._rows.values())
        words: list[Rows | Begun] = [Rows(self._next_row)]
        if self._releasing:
            words.append(Begun(list(self._releasing), self._last()))
        return chain(map(encode, words), map(record_of, rows))

    def _start(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except SwitchboardError as error:
                # The term has ended with it; who waits asks the next holder.
                _logger.debug("scheduling: %s", error.message)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _nothing(_: object) -> None:
    """Nobody waits for it."""

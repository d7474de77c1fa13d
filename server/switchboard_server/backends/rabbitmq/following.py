"""Makes of what the tail reads what this node knows of the log."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from switchboard_server.backends.rabbitmq.index import Index, Spot
from switchboard_server.backends.rabbitmq.place import Place, Verdict
from switchboard_server.backends.rabbitmq.records import (
    TERM,
    Columns,
    Marker,
    RecordError,
    decode_batches,
    decode_columns,
    decode_marker,
)
from switchboard_server.backends.rabbitmq.sequencing import Sequencer
from switchboard_server.backends.rabbitmq.stream import Found
from switchboard_server.core.ports import Window
from switchboard_server.core.records import Batch

_logger = logging.getLogger(__name__)


class Followed(Protocol):
    """Who is told what is in the log now. Must not block and must not raise."""

    def stored(self, columns: Columns, batches: Sequence[Batch]) -> None:
        """Takes the next record."""

    def term_began(self) -> None:
        """Takes notice that a marker was read."""

    def identified(self, log_id: str) -> None:
        """Takes the id of the log."""

    def lost_its_place(self, *, skipped: bool) -> None:
        """Takes notice that what was written meanwhile is not read here.

        Args:
            skipped: Retention has removed it; otherwise the stream has lost it, or is another one.
        """

    def fell_behind(self, last: int) -> None:
        """Takes notice that the log goes on before a sequence that was read already."""

    def attached(self, problem: str | None) -> None:
        """See `TailListener.attached`."""


class Follower:
    """A `TailListener` that finds out what of all that is written counts.

    Args:
        place: How far the log has been read; moved on here.
        sequencer: Knows its own records without reading them.
        index: Is told where records stand.
        followed: Who is told.

    Attributes:
        window: What is retained, as far as it is known.
        caught_up: Set when all has been read that was there when reading began.
        record_bytes: Bytes of the records that were read, and how many.
    """

    def __init__(
        self, place: Place, sequencer: Sequencer, index: Index, followed: Followed
    ) -> None:
        self.window = Window(1, 0)
        self.caught_up = asyncio.Event()
        self.record_bytes = (0, 0)
        self._place = place
        self._sequencer = sequencer
        self._index = index
        self._followed = followed
        self._log_id = ""
        self._replaced = False
        self._looked = False

    def take(self, message: Found, *, newest: bool) -> None:
        """See `TailListener.take`."""
        try:
            if message.type == TERM:
                self._take_marker(decode_marker(message.body))
            else:
                self._take_record(message, decode_columns(message.body))
        except RecordError as error:
            text = "message %d of the log is passed over: %s"
            _logger.error(text, message.offset, error)  # noqa: TRY400 - all is said
        if newest and self._place.log_id:
            self.caught_up.set()

    def skipped(self) -> None:
        """See `TailListener.skipped`."""
        self._place.loose = True
        self._followed.lost_its_place(skipped=True)

    def replaced(self) -> None:
        """See `TailListener.replaced`."""
        self._replaced = self._place.loose = True
        if self._sequencer.term is not None:
            self._sequencer.term.end("the stream was replaced")
        self._followed.lost_its_place(skipped=False)

    def attached(self, problem: str | None) -> None:
        """See `TailListener.attached`."""
        self._followed.attached(problem)

    def trimmed(self, first: int) -> None:
        """Takes notice of where the log begins."""
        # Until somebody has looked, it seems to begin where this node began to read.
        known = self.window.first if self._looked else first
        self._looked = True
        last = self.window.last
        self.window = Window(min(max(first, known), last + 1), last)

    def _take_record(self, message: Found, columns: Columns) -> None:
        verdict = self._place.take(columns)
        if verdict is Verdict.FOREIGN and self._adopt():
            verdict = self._place.take(columns)
        if verdict is not Verdict.COUNTS:
            self._sequencer.missed(columns)
            return
        self._identify()
        batches = self._sequencer.own(columns) or decode_batches(message.body, columns)
        first = columns.first if not self.window.last else self.window.first
        self.window = Window(first, columns.last)
        size = len(message.body)
        self.record_bytes = (self.record_bytes[0] + size, self.record_bytes[1] + 1)
        self._index.pass_by(Spot(columns.first, columns.time_ns, message.offset), size)
        self._followed.stored(columns, batches)
        self._sequencer.learned(columns)

    def _take_marker(self, marker: Marker) -> None:
        before = self._place.last
        verdict = self._place.mark(marker)
        if verdict is Verdict.FOREIGN and self._adopt():
            self._place.mark(marker)
            if marker.last < before:
                self._followed.fell_behind(before)
        self._identify()
        last = self._place.last
        if last > self.window.last:
            # Where nothing of it was read here, it begins with what comes.
            self.window = Window(self.window.first if self.window.last else last + 1, last)
        self._sequencer.marked(marker)
        self._followed.term_began()

    def _adopt(self) -> bool:
        """Takes the log that the stream holds now for this one, if the stream was replaced."""
        if not self._replaced:
            return False
        self._replaced = False
        self._place.begin_anew()
        return True

    def _identify(self) -> None:
        if self._place.log_id != self._log_id:
            self._log_id = self._place.log_id
            self._followed.identified(self._log_id)

"""Where a reader of the stream is, and what of it counts.

Of all that is written, only this much is in the log: a marker begins a term if its epoch is higher
than that of the one before; a record is stored if it is of the present term and follows the record
before it. All who read come to the same result, wherever they began: a node that lost the seat and
does not know yet may write what it likes.
"""

from dataclasses import dataclass
from enum import Enum

from switchboard_server.backends.rabbitmq.records import Columns, Marker


class Verdict(Enum):
    """What becomes of a record or a marker."""

    COUNTS = "counts"
    STALE = "stale"
    """It was not stored, or has been read before."""
    FOREIGN = "foreign"
    """It is of another log: the stream was made anew."""


@dataclass(slots=True)
class Place:
    """A place in the stream.

    Attributes:
        log_id: Id of the log; empty: nothing has been read.
        epoch: The present term.
        nonce: Its name; empty where its marker has not been read.
        term: Its number among the terms of the seat; 0 likewise.
        last: Sequence of the last event.
        time_ns: When it entered the log.
        loose: Whether something may be missing before what comes next.
    """

    log_id: str = ""
    epoch: int = 0
    nonce: str = ""
    term: int = 0
    last: int = 0
    time_ns: int = 0
    loose: bool = True

    def take(self, columns: Columns) -> Verdict:
        """Moves on over a record."""
        if self.log_id and columns.log_id != self.log_id:
            return Verdict.FOREIGN
        if columns.epoch < self.epoch or columns.first <= self.last:
            return Verdict.STALE
        if not self.loose and (columns.epoch > self.epoch or columns.first != self.last + 1):
            # Something before it did not get here: its node will see that, and begin another term.
            return Verdict.STALE
        if columns.epoch != self.epoch:
            self.nonce, self.term = "", 0
        self.log_id, self.epoch, self.loose = columns.log_id, columns.epoch, False
        self.last, self.time_ns = columns.last, columns.time_ns
        return Verdict.COUNTS

    def mark(self, marker: Marker) -> Verdict:
        """Moves on over a marker."""
        if self.log_id and marker.log_id != self.log_id:
            return Verdict.FOREIGN
        same = marker.epoch == self.epoch and self.nonce in ("", marker.nonce)
        if marker.epoch <= self.epoch and not same:
            return Verdict.STALE
        self.log_id, self.epoch = marker.log_id, marker.epoch
        self.nonce, self.term = marker.nonce, marker.term
        self.loose = False
        # Higher than what was read only where the stream has lost what came between.
        self.last = max(self.last, marker.last)
        self.time_ns = max(self.time_ns, marker.time_ns)
        return Verdict.COUNTS

    def begin_anew(self) -> None:
        """The stream is another one; sequences go on from where they were."""
        self.log_id, self.nonce, self.epoch, self.term, self.loose = "", "", 0, 0, True

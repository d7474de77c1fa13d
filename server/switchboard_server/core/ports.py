"""What the hub asks of a backend: to store and to carry. Fan-out to subscribers is the hub's."""

from asyncio import Future
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from switchboard_server.core.records import Batch, Drafts
from switchboard_server.core.stats import Histogram


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a log promises, read by the conformance tests and the README's table.

    Args:
        name: Name of the backend.
        durable: What an answered append survives, in words.
        survives_restart: Whether a new process finds the events again.
        contiguous: Whether sequences grow by one without holes.
    """

    name: str
    durable: str
    survives_restart: bool
    contiguous: bool


NO_DUPLICATES: Mapping[int, int] = MappingProxyType({})
"""What a log answers that takes no events of other nodes."""


@dataclass(frozen=True, slots=True)
class Appended:
    """Where accepted events stand.

    Args:
        first: Sequence of the first event that was stored; the others follow. 0: none was.
        time_ns: When they entered the log, Unix time in nanoseconds.
        duplicates: By index, the sequence of an event that was accepted before through another
            node, and so not stored again (0: it is scheduled).
    """

    first: int
    time_ns: int
    duplicates: Mapping[int, int] = field(default_factory=lambda: NO_DUPLICATES)


@dataclass(slots=True, eq=False)
class Lane:
    """Calls whose events enter the log one behind the other, such as those of one stream.

    Once one has failed, none behind it enters the log unless it does all the same: so who begins
    again with the one that failed, under the same ids, finds all of them in their order.

    Attributes:
        error: Why the first one that failed did; None: none has. The log sets it in the moment in
            which it fails a call, and is given no further call then.
        held: A call waits for what other calls have on their way, and has not come to the log yet.
    """

    error: BaseException | None = None
    held: bool = False

    def fail(self, error: BaseException) -> None:
        """Takes notice that a call has failed."""
        self.error = self.error or error


@dataclass(frozen=True, slots=True)
class Window:
    """What the log retains.

    Args:
        first: Sequence of the oldest event that is retained; one more than `last` where none is.
        last: Sequence of the newest event ever appended; 0: none yet.
    """

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Part of the log.

    Args:
        batches: In ascending order; the first may begin before what was asked for, none lies wholly
            before it.
        window: What the log retained at the time of reading: events asked for and older than
            `window.first` are gone.
        lost: First and last sequence of what comes next and cannot be read back as it was written;
            there are no batches then, and reading goes on after it.
    """

    batches: Sequence[Batch]
    window: Window
    lost: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class RecentId:
    """An idempotency key that the log remembers over a restart.

    Args:
        source_service: The event's source.
        id: The id that its publisher gave.
        sequence: The event's sequence; 0: it is scheduled and has none yet.
        time_ns: When it was accepted, Unix time in nanoseconds.
    """

    source_service: str
    id: str
    sequence: int
    time_ns: int


class LogListener(Protocol):
    """What a log tells the hub. Called in the event loop; must not block and must not raise."""

    def appended(self, batches: Sequence[Batch]) -> None:
        """Takes batches that are durable now.

        In order, each exactly once, and before the appends that made them are answered. None where
        what waited could not be stored: then there is room for others. Where a batch does not
        follow the one before, what is between them is in the log only, or lost.
        """

    def known(self, drafts: Drafts) -> Mapping[int, int]:
        """Tells which events were accepted before, for a log that takes events of other nodes.

        Args:
            drafts: Events that are to be appended or scheduled.

        Returns:
            By index, the sequence of those whose id has been accepted (0: it is scheduled). Those
            that are on their way are not among them.
        """
        ...

    def remembered(self, recent: "Sequence[RecentId]") -> None:
        """Takes ids that were accepted, but that no batch has told of, since they are scheduled."""

    def availability_changed(self, problem: str | None) -> None:
        """Takes notice that the log cannot be written to, and why; None: it can again."""


class EventLog(Protocol):
    """An ordered, durable log of events.

    All methods are called in one event loop, concurrently as it comes. Appends become durable in
    the order of the calls.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this log promises."""
        ...

    @property
    def log_id(self) -> str:
        """Names this log: another one, or this one wiped, has another id."""
        ...

    @property
    def window(self) -> Window:
        """What is retained now."""
        ...

    @property
    def pending_bytes(self) -> int:
        """Bytes of events that wait to become durable."""
        ...

    @property
    def size(self) -> int:
        """Bytes that the log takes, as of a second ago."""
        ...

    @property
    def commits(self) -> Histogram:
        """How long transactions took, in seconds."""
        ...

    async def open(self, listener: LogListener) -> None:
        """Makes the log ready.

        Args:
            listener: Who is told of what is appended from now on.

        Raises:
            UnavailableError: It cannot be opened; the message says why and what to do.
        """

    def append(self, drafts: Drafts, lane: Lane | None = None) -> Future[Appended]:
        """Appends events, all or none, next to each other and in order.

        Args:
            drafts: At least one event, none refused, none scheduled.
            lane: Behind what it stands, and with what it fails.

        Returns:
            Answers when the events are durable, after the listener has them. Fails with
            UnavailableError when they could not be stored; then none is. Cancelling it takes
            nothing back.
        """
        ...

    def schedule(self, drafts: Drafts, lane: Lane | None = None) -> Future[Mapping[int, int]]:
        """Stores events that enter the log by themselves at their `deliver_at`, over restarts too.

        Args:
            drafts: At least one event, each with a `deliver_at`.
            lane: As of `append`.

        Returns:
            As of `append`; answers with the duplicates alone, as of `Appended`.
        """
        ...

    async def read(self, after: int, max_bytes: int, priority: int = 0) -> ReadResult:
        """Reads forward.

        Args:
            after: The first event wanted is the one after this sequence.
            max_bytes: Stop when this many bytes are read; at least one batch is.
            priority: Only batches that hold events of this priority; 0: all. Reading goes on after
                the last batch, or after the window where there is none.

        Raises:
            UnavailableError: The log cannot be read now.
        """
        ...

    async def read_backward(self, before: int, max_bytes: int) -> ReadResult:
        """Reads the batches that end the range before a sequence, in ascending order.

        The last of them may hold later events too.

        Args:
            before: The last event wanted is the one before this sequence.
            max_bytes: As of `read`.

        Raises:
            UnavailableError: The log cannot be read now.
        """
        ...

    async def sequence_before(self, time_ns: int) -> int:
        """Finds where a time stands in the log.

        Args:
            time_ns: Unix time in nanoseconds.

        Returns:
            Sequence of the last event that entered the log before that time; one less than the
            first retained one where all are later.
        """
        ...

    async def recent_ids(self, since_ns: int, limit: int) -> Sequence[RecentId]:
        """Reads the ids that publishers gave since a time, oldest first.

        Args:
            since_ns: Unix time in nanoseconds.
            limit: How many at most; the newest are taken.
        """
        ...

    async def close(self) -> None:
        """Makes what waits durable, and lets go of everything. Later calls fail."""

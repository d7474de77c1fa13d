"""What an embedded log asks of the place where it keeps its batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from switchboard_server.core.groups.changes import Change, DeadLetter, Snapshot
from switchboard_server.core.groups.config import GroupConfig
from switchboard_server.core.groups.ports import Found, GroupRecord, StoredGroup
from switchboard_server.core.ports import Capabilities, ReadResult, RecentId, Window
from switchboard_server.core.records import Batch, Drafts


class StoreError(Exception):
    """The store could not do what it was asked to do; the message says why, and what helps."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """How a store was found when it was opened.

    Args:
        log_id: Names the log.
        window: What is retained.
        time_ns: When the last event entered the log; 0: none has.
        next_due_ns: When the next scheduled event is due; None: there is none.
    """

    log_id: str
    window: Window
    time_ns: int
    next_due_ns: int | None


@dataclass(slots=True)
class CreateGroup:
    """Makes a group.

    Args:
        name: Its name, which is free.
        config: What its members agreed on.
        secret: The group's own number.
        snapshot: Where it stands.
        time_ns: When it is made, Unix time in nanoseconds.
        number: Is set by the store, if it is 0.
    """

    name: str
    config: GroupConfig
    secret: int
    snapshot: Snapshot
    time_ns: int
    number: int = 0

    def answer(self) -> GroupRecord:
        """The group, once it is made."""
        return GroupRecord(self.number, self.name, self.config, self.secret, self.time_ns)


@dataclass(slots=True)
class DeleteGroup:
    """Removes a group with everything that is its own."""

    number: int

    def answer(self) -> None:
        """Nothing."""


@dataclass(slots=True)
class SaveChange:
    """Keeps what has happened to a group; one that is not there any more is passed over."""

    number: int
    change: Change

    def size(self) -> int:
        """Bytes of the events in it."""
        return sum(len(letter.frame) for letter in self.change.buried)

    def answer(self) -> None:
        """Nothing."""


@dataclass(slots=True)
class ExpireLetters:
    """Removes the dead letters that became so before a time.

    Args:
        before_ns: Unix time in nanoseconds.
        gone: How many were removed, by group; is set by the store.
    """

    before_ns: int
    gone: Mapping[int, int] = field(default_factory=dict)

    def answer(self) -> Mapping[int, int]:
        """How many were removed, by group."""
        return self.gone


GroupWork = CreateGroup | DeleteGroup | SaveChange | ExpireLetters
"""What becomes of groups in a transaction."""


@dataclass(slots=True)
class Commit:
    """What becomes durable in one transaction.

    Args:
        batches: Events that enter the log.
        scheduled: Events that wait for their time.
        released: Scheduled events, by their row, that are among the batches.
        time_ns: When all this happens, Unix time in nanoseconds.
        groups: What becomes of groups, in order.
    """

    batches: Sequence[Batch] = ()
    scheduled: Sequence[Drafts] = ()
    released: Sequence[int] = ()
    time_ns: int = 0
    groups: Sequence[GroupWork] = ()

    def size(self) -> int:
        """Bytes of the events in it, about what it needs room for."""
        return sum(len(batch.frames) for batch in self.batches) + sum(
            work.size() for work in self.groups if isinstance(work, SaveChange)
        )


@dataclass(frozen=True, slots=True)
class Retention:
    """What the log keeps; the oldest events go first.

    Args:
        age_ns: How long, in nanoseconds; 0: for ever.
        bytes: How much; 0: without bound.
    """

    age_ns: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Due:
    """Scheduled events whose time has come.

    Args:
        rows: Their rows in the store.
        drafts: The events, in the order in which they are due.
        next_due_ns: When the one after them is due; None: there is none.
    """

    rows: list[int] = field(default_factory=list)
    drafts: list[Drafts] = field(default_factory=list)
    next_due_ns: int | None = None


class Store(Protocol):
    """Keeps batches.

    Writing methods are called by one thread, reading ones by several at the same time.
    """

    capabilities: Capabilities
    blocks: bool
    """Whether calls may wait for a disk, so that they must not be made in the event loop."""

    def open(self) -> StoreState:
        """Makes the store ready. Raises StoreError."""
        ...

    def commit(self, work: Commit) -> None:
        """Makes events durable, all or none. Raises StoreError, and then none is."""
        ...

    def due(self, now_ns: int, limit: int) -> Due:
        """Reads the scheduled events whose time has come, at most `limit`. Raises StoreError."""
        ...

    def check(self) -> None:
        """Finds out whether what was opened is still in its place. Raises StoreError.

        Costs next to nothing, and is done before every commit as well.
        """
        ...

    def probe(self) -> None:
        """Finds out whether the store can be written to. Raises StoreError."""
        ...

    def trim(self, now_ns: int) -> Window | None:
        """Removes a slice of what need not be retained any more.

        Returns:
            What is retained now; None where there was nothing to remove. Raises StoreError.
        """
        ...

    def size(self) -> int:
        """Bytes that the log takes."""
        ...

    def read(self, after: int, max_bytes: int, priority: int = 0) -> ReadResult:
        """See `EventLog.read`. Raises StoreError."""
        ...

    def read_backward(self, before: int, max_bytes: int) -> ReadResult:
        """See `EventLog.read_backward`. Raises StoreError."""
        ...

    def sequence_before(self, time_ns: int) -> int:
        """See `EventLog.sequence_before`. Raises StoreError."""
        ...

    def recent_ids(self, since_ns: int, limit: int) -> Sequence[RecentId]:
        """See `EventLog.recent_ids`. Raises StoreError."""
        ...

    def read_each(self, sequences: Sequence[int]) -> Found:
        """See `GroupStore.read_each`. Raises StoreError."""
        ...

    def groups(self) -> Sequence[StoredGroup]:
        """See `GroupStore.load_groups`. Called where writing is. Raises StoreError."""
        ...

    def dead_letters(
        self, number: int, before: tuple[int, int] | None, limit: int
    ) -> Sequence[DeadLetter]:
        """See `GroupStore.dead_letters`. Raises StoreError."""
        ...

    def dead_letters_of(self, number: int, sequences: Sequence[int]) -> Sequence[DeadLetter]:
        """See `GroupStore.dead_letters_of`. Raises StoreError."""
        ...

    def redriven(self, number: int, after: int, limit: int) -> Sequence[DeadLetter]:
        """See `GroupStore.redriven`. Raises StoreError."""
        ...

    def close(self) -> None:
        """Lets go of everything."""
        ...

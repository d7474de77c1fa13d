"""What the hub asks of a backend to keep groups."""

from asyncio import Future
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from switchboard_server.core.groups.changes import Change, DeadLetter, Snapshot
from switchboard_server.core.groups.config import GroupConfig
from switchboard_server.core.records import Batch


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A group that is new, or was found.

    Args:
        number: The store's own name of it, which is never used again.
        name: Its name; there is one group of it at a time.
        config: What its members agreed on.
        secret: 32 random bits, from which the names of its deliveries are made.
        create_ns: When it was made, Unix time in nanoseconds.
    """

    number: int
    name: str
    config: GroupConfig
    secret: int
    create_ns: int


@dataclass(slots=True)
class StoredGroup:
    """A group as a restart finds it.

    Args:
        record: What it is.
        snapshot: Where it stood at the last snapshot.
        changes: What has happened since, in order.
        idle_since_ns: Since when it has had no member, Unix time in nanoseconds; 0: it had one.
        dead_letters: How many there are.
        redriven: How many events have come back from the dead letters and are not settled.
    """

    record: GroupRecord
    snapshot: Snapshot
    changes: Sequence[Change] = ()
    idle_since_ns: int = 0
    dead_letters: int = 0
    redriven: int = 0

    @property
    def reach(self) -> int:
        """How far into the log the group has come."""
        told = [self.snapshot.cursors]
        for change in self.changes:
            told += [change.cursors, change.snapshot.cursors if change.snapshot else {}]
        return max((each for cursors in told for each in cursors.values()), default=0)


@dataclass(slots=True)
class Found:
    """Events that were asked for one by one.

    Args:
        batches: By sequence, the batch that holds the event. What is not here is not retained, or
            cannot be read back as it was written.
    """

    batches: Mapping[int, Batch] = field(default_factory=dict)


class GroupStore(Protocol):
    """Keeps groups beside the log: what is saved becomes durable in the order of the calls.

    Dead letters are kept apart from the log, whole, so that its retention does not touch them. A
    redriven event stays with them, marked, until it is settled: the log may not have it any more.

    All methods are called in one event loop, concurrently as it comes.
    """

    async def load_groups(self) -> Sequence[StoredGroup]:
        """Reads all groups.

        Raises:
            UnavailableError: They cannot be read now.
        """
        ...

    def create_group(
        self, name: str, config: GroupConfig, secret: int, snapshot: Snapshot, time_ns: int
    ) -> Future[GroupRecord]:
        """Makes a group whose name is free.

        Returns:
            Answers when it is durable. Fails with UnavailableError when it could not be stored.
            Cancelling it takes nothing back.
        """
        ...

    def delete_group(self, number: int) -> Future[None]:
        """Removes a group, its state and its dead letters. See `create_group` for the answer."""
        ...

    def save(self, number: int, change: Change) -> Future[None]:
        """Keeps a change, whole or not at all.

        Args:
            number: The group. A change of one that has been deleted is let go of.
            change: What has happened. Must not be changed any more.

        Returns:
            As of `create_group`.
        """
        ...

    async def read_each(self, sequences: Sequence[int]) -> Found:
        """Reads the batches that hold some events of the log.

        Args:
            sequences: In ascending order, at most a thousand.

        Raises:
            UnavailableError: The log cannot be read now.
        """
        ...

    async def dead_letters(
        self, number: int, before: tuple[int, int] | None, limit: int
    ) -> Sequence[DeadLetter]:
        """Reads dead letters, the latest first; redriven ones are none.

        Args:
            number: The group.
            before: `time_ns` and sequence of the dead letter to go on after; None: the latest.
            limit: How many at most.

        Raises:
            UnavailableError: They cannot be read now.
        """
        ...

    async def dead_letters_of(self, number: int, sequences: Sequence[int]) -> Sequence[DeadLetter]:
        """Reads those dead letters, and redriven events, that have some sequences.

        Args:
            number: The group.
            sequences: At most a thousand.

        Raises:
            UnavailableError: They cannot be read now.
        """
        ...

    async def redriven(self, number: int, after: int, limit: int) -> Sequence[DeadLetter]:
        """Reads events that came back from the dead letters and are not settled, in order.

        Args:
            number: The group.
            after: Only those with a higher sequence.
            limit: How many at most.

        Raises:
            UnavailableError: They cannot be read now.
        """
        ...

    def expire_dead_letters(self, before_ns: int) -> Future[Mapping[int, int]]:
        """Removes the dead letters, of all groups, that became so before a time.

        Args:
            before_ns: Unix time in nanoseconds.

        Returns:
            How many were removed, by group. See `create_group`.
        """
        ...

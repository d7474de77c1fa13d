"""What happens to a group, as its store keeps it: changes on top of a snapshot."""

from __future__ import annotations  # Change.absorb takes a Change

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from switchboard_server.core.filters import Route
from switchboard_server.core.groups.entries import Cause, Identity
from switchboard_server.core.validation import PRIORITIES


@dataclass(slots=True)
class Open:
    """An event that is not settled, as far as a restart has to know it.

    Args:
        sequence: Its place in the log.
        attempts: How often it has been delivered.
        due_ns: When its next attempt is due, Unix time in nanoseconds; 0: it is ready or in flight.
        holder: The member that holds it, or held it last.
    """

    sequence: int
    attempts: int = 0
    due_ns: int = 0
    holder: Identity | None = None


@dataclass(slots=True)
class Snapshot:
    """The state of a group.

    Args:
        cursors: By priority: what lies up to here and is not open is settled, or does not match.
        open: What is not settled and lies before its cursor.
        floor: Deliveries with a nonce up to this were forgotten by a seek.
        nonce: The latest nonce.
    """

    cursors: dict[int, int]
    open: list[Open] = field(default_factory=list)
    floor: int = 0
    nonce: int = 0

    @staticmethod
    def at(position: int) -> Snapshot:
        """The state of a group to which everything up to a position is settled."""
        return Snapshot(dict.fromkeys(PRIORITIES, position))

    def within(self, last: int) -> Snapshot:
        """The state as far as a log has it.

        Args:
            last: Where the log ends. A log that is replicated and not fsynced may have lost its
                end, all its copies at once; what takes its place has not been delivered.
        """
        if all(each <= last for each in self.cursors.values()):
            return self
        cursors = {priority: min(each, last) for priority, each in self.cursors.items()}
        opened = [each for each in self.open if each.sequence <= last]
        return Snapshot(cursors, opened, self.floor, self.nonce)


@dataclass(slots=True)
class DeadLetter:
    """An event that a group gave up.

    Args:
        sequence: Its place in the log.
        frame: Its bytes, as the codec made them.
        route: Its route.
        attributes: Its attributes.
        ordering_key: Its ordering key.
        event_ns: When it entered the log, Unix time in nanoseconds.
        cause: What made the group give it up.
        reason: What the last Reject said.
        attempts: How often it was delivered, since its last redrive.
        holder: The member that held it last.
        time_ns: When it became a dead letter, Unix time in nanoseconds.
        redrives: How often it had been redriven before.
        redriven: It has come back to the group, and is not settled there.
    """

    sequence: int
    frame: bytes
    route: Route
    attributes: Mapping[str, str]
    ordering_key: str
    event_ns: int
    cause: Cause
    reason: str
    attempts: int
    holder: Identity
    time_ns: int
    redrives: int
    redriven: bool = False


@dataclass(slots=True)
class Change:
    """What has happened to a group since the change before; kept whole or not at all.

    Where there is a snapshot, everything else came after it.

    Args:
        snapshot: The whole state, which makes earlier changes superfluous.
        cursors: By priority, where the group has come to; empty: as before.
        opened: Events that were read and not delivered yet.
        leased: Deliveries: the member, and the sequence and attempts of each event.
        retried: Events that wait for their next attempt: sequence, attempts and when it is due.
        settled: Events that are settled.
        buried: Events that became dead letters; they are among `settled` as well.
        redriven: Dead letters that came back to the group, by sequence.
        finished: Redriven events that are settled, and no dead letters again.
        shelved: All redriven events became dead letters again, as they were: those of earlier
            changes that are not finished, and none of `redriven`.
        nonce: The latest nonce.
        idle_since_ns: Since when the group has no member, Unix nanoseconds; 0: it has one; None: as
            before.
    """

    snapshot: Snapshot | None = None
    cursors: dict[int, int] = field(default_factory=dict)
    opened: list[int] = field(default_factory=list)
    leased: list[tuple[Identity, list[int], list[int]]] = field(default_factory=list)
    retried: list[tuple[int, int, int]] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    buried: list[DeadLetter] = field(default_factory=list)
    redriven: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    shelved: bool = False
    nonce: int = 0
    idle_since_ns: int | None = None

    def __bool__(self) -> bool:
        """Whether anything happened."""
        return bool(
            self.snapshot
            or self.cursors
            or self.opened
            or self.leased
            or self.retried
            or self.settled
            or self.redriven
            or self.finished
            or self.shelved
            or self.idle_since_ns is not None
        )

    def absorb(self, newer: Change) -> None:
        """Adds what happened next."""
        if newer.snapshot is not None:
            self.snapshot = newer.snapshot
            self.cursors, self.opened, self.leased, self.retried, self.settled = {}, [], [], [], []
        self.cursors |= newer.cursors
        self.opened += newer.opened
        self.leased += newer.leased
        self.retried += newer.retried
        self.settled += newer.settled
        if newer.shelved:
            self.redriven = []
        self.buried += newer.buried
        self.redriven += newer.redriven
        self.finished += newer.finished
        self.shelved = self.shelved or newer.shelved
        self.nonce = max(self.nonce, newer.nonce)
        if newer.idle_since_ns is not None:
            self.idle_since_ns = newer.idle_since_ns


def replay(snapshot: Snapshot, changes: Iterable[Change]) -> Snapshot:
    """The state that changes lead to.

    Args:
        snapshot: The state before them.
        changes: What happened, in order.
    """
    state = snapshot
    known = {each.sequence: each for each in state.open}
    for change in changes:
        if change.snapshot is not None:
            state = change.snapshot
            known = {each.sequence: each for each in state.open}
        state.cursors |= change.cursors
        state.nonce = max(state.nonce, change.nonce)
        for sequence in change.opened:
            known.setdefault(sequence, Open(sequence))
        for holder, sequences, attempts in change.leased:
            for sequence, attempt in zip(sequences, attempts, strict=True):
                known[sequence] = Open(sequence, attempt, 0, holder)
        for sequence, attempt, due_ns in change.retried:
            before = known.setdefault(sequence, Open(sequence))
            # Of a wait and a delivery in one change, the one with the later attempt came last.
            if attempt >= before.attempts:
                before.attempts, before.due_ns = attempt, due_ns
        for sequence in change.settled:
            known.pop(sequence, None)
    return Snapshot(
        dict(state.cursors), sorted(known.values(), key=_place), state.floor, state.nonce
    )


def _place(each: Open) -> int:
    return each.sequence

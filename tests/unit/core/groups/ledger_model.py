"""What a group promises, as simply as it can be said; the ledger is held against it."""

from dataclasses import dataclass, field
from enum import Enum

from switchboard_server.core.groups.config import RetryPolicy
from switchboard_server.core.groups.entries import Cause, Holder, Identity, Outcome

Doom = tuple[int, Cause, str, int, Identity]
"""Sequence, cause, reason, attempts and last member of what the group gives up."""


class At(Enum):
    """Where an event of the model stands."""

    UNREAD = "unread"
    READY = "ready"
    HELD = "held"
    RETRYING = "retrying"
    DOOMED = "doomed"
    CLOSED = "closed"


@dataclass
class Event:
    """An event, and what the group has done with it.

    Attributes:
        recorded: Attempts as a restart knows them: what was assigned counts, though never sent.
        delivery: Number of its latest delivery.
    """

    sequence: int
    priority: int
    key: str
    time_ns: int
    expires_ns: int
    at: At = At.UNREAD
    attempts: int = 0
    recorded: int = 0
    due_ns: int = 0
    delivery: int = -1
    holder: Identity | None = None
    redriven: bool = False
    redrives: int = 0

    def reset(self, at: At) -> None:
        """Forgets what was done with it."""
        self.at, self.attempts, self.recorded, self.due_ns, self.delivery = at, 0, 0, 0, -1
        self.redriven = False
        self.redrives = 0


@dataclass
class Letter:
    """A dead letter, and how often it had been redriven before."""

    doom: Doom
    redrives: int
    redriven: bool = False


@dataclass
class Model:
    """A group. Copied whole where a restart may come back to."""

    retry: RetryPolicy
    deadline_ns: int
    keyed: bool
    events: dict[int, Event] = field(default_factory=dict)
    dooms: list[Doom] = field(default_factory=list)
    floor: int = 0
    """Deliveries with a lower number were forgotten by a seek."""
    letters: dict[int, Letter] = field(default_factory=dict)

    def those(self, *at: At) -> list[Event]:
        """The events that stand somewhere, in the order of the log."""
        return [each for each in self.events.values() if each.at in at]

    def is_open(self) -> set[int]:
        """What has been read and is not given up or settled."""
        return {each.sequence for each in self.those(At.READY, At.HELD, At.RETRYING)}

    def outcome(self, sequence: int, delivery: int) -> Outcome:
        """What settling a delivery gives."""
        event = self.events[sequence]
        if delivery < self.floor:
            return Outcome.EXPIRED
        if event.at is At.HELD and event.delivery == delivery:
            return Outcome.OK
        closed = event.at in (At.CLOSED, At.DOOMED)
        return Outcome.ALREADY_SETTLED if closed else Outcome.EXPIRED

    def doom(self, event: Event, cause: Cause, reason: str, holder: Identity) -> None:
        """Gives an event up."""
        event.at = At.DOOMED
        self.dooms.append((event.sequence, cause, reason, event.attempts, holder))

    def wait(self, event: Event, now_ns: int, wait_ns: int | None) -> None:
        """Has an event wait for its next attempt."""
        if wait_ns is None:
            doubled = self.retry.min_backoff_ns * 2 ** (event.attempts - 1)
            wait_ns = min(doubled, self.retry.max_backoff_ns)
        event.at = At.RETRYING if wait_ns else At.READY
        event.due_ns = now_ns + wait_ns

    def give_back(self, event: Event, cause: Cause, now_ns: int, wait_ns: int | None) -> None:
        """Takes an event from a member whose deadline passed, or that left."""
        if event.attempts >= self.retry.max_attempts:
            assert event.holder is not None
            self.doom(event, cause, "", event.holder)
        else:
            self.wait(event, now_ns, wait_ns)

    def deliver(self, event: Event, delivery: int, holder: Holder, now_ns: int) -> None:
        """Notes a delivery, which must be allowed."""
        assert event.at is At.READY, f"{event} was delivered"
        assert event.redriven or not 0 < event.expires_ns <= now_ns, f"{event} had expired"
        if self.keyed and event.key:
            for other in self.events.values():
                if other.key == event.key and other is not event:
                    assert other.at is not At.HELD, f"{event} was delivered beside {other}"
                    earlier = other.sequence < event.sequence and not other.redriven
                    open_yet = other.at in (At.UNREAD, At.READY, At.RETRYING)
                    assert event.redriven or not (earlier and open_yet), f"{event} before {other}"
        event.at = At.HELD
        event.attempts += 1
        assert event.attempts <= self.retry.max_attempts
        event.recorded = event.attempts
        event.due_ns = now_ns + self.deadline_ns
        event.delivery = delivery
        event.holder = holder.identity

    def alarm(self) -> int | None:
        """When the next deadline passes or wait is over."""
        return min((each.due_ns for each in self.those(At.HELD, At.RETRYING)), default=None)

    def close(self, event: Event, cursor: int) -> None:
        """Notes that an event is done with; after a seek backwards it is read once more."""
        event.at = At.UNREAD if event.sequence > cursor else At.CLOSED
        if event.redriven:
            del self.letters[event.sequence]

    def seek(self, position: int, floor: int) -> None:
        """Forgets everything but the dead letters."""
        for event in self.events.values():
            event.reset(At.UNREAD if event.sequence > position else At.CLOSED)
        for letter in self.letters.values():
            letter.redriven = False
        self.dooms.clear()
        self.floor = floor

    def restart(self, known: set[int], cursors: dict[int, int], now_ns: int) -> None:
        """What becomes of it in a restart that finds it like this."""
        self.dooms.clear()
        lines: set[str] = set()
        for event in self.events.values():
            beyond = event.sequence > cursors[event.priority]
            if event.at in (At.UNREAD, At.CLOSED):
                assert event.sequence not in known, f"{event} was open after a restart"
                # What came back from the dead letters is read once more after a seek backwards.
                assert not beyond or event.at is At.UNREAD or event.redriven, f"{event} comes again"
                event.at = At.UNREAD if beyond else At.CLOSED
            elif event.sequence in known:
                self._readmit(event, lines, now_ns)
            elif event.redriven:
                assert not event.recorded, f"{event} was forgotten"
                event.at = At.READY
            else:
                assert beyond, f"{event} was lost"
                assert not event.recorded, f"{event} was lost"
                event.reset(At.UNREAD)

    def _readmit(self, event: Event, lines: set[str], now_ns: int) -> None:
        waits = event.at is At.RETRYING and event.due_ns > now_ns
        event.attempts = event.recorded
        if event.attempts >= self.retry.max_attempts:
            self.doom(event, Cause.MEMBER_LOST, "", event.holder or Identity())
        else:
            first = not (self.keyed and event.key) or event.key not in lines
            lines.add(event.key)
            event.at = At.RETRYING if waits and first else At.READY

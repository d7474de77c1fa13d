"""What nodes say to each other about groups: plain data, for any codec of dataclasses."""

from __future__ import annotations  # forms name their own class

from dataclasses import dataclass
from functools import lru_cache

from switchboard_server.core.events import AfterSequence, AfterTime, Begin, Start
from switchboard_server.core.failures import Failure
from switchboard_server.core.filters import Filter, Route
from switchboard_server.core.groups.entries import Rejection
from switchboard_server.core.groups.hub import GroupWish
from switchboard_server.core.groups.letters import LettersQuery
from switchboard_server.core.groups.reports import GroupReport
from switchboard_server.core.principal import Principal


@dataclass(frozen=True, slots=True)
class Who:
    """A `Principal` on its way."""

    subject: str
    permissions: tuple[str, ...]
    expires_at: float | None

    @staticmethod
    def of(principal: Principal) -> Who:
        """A principal as it travels."""
        permissions = [
            f"{name}:{scope}" for name, scopes in principal.scopes.items() for scope in scopes
        ]
        return Who(principal.subject, tuple(permissions), principal.expires_at)

    def principal(self) -> Principal:
        """The principal as it was."""
        return _principal(self)


@lru_cache(maxsize=1024)
def _principal(who: Who) -> Principal:
    """Whoever asks once asks often."""
    return Principal(who.subject, who.permissions, who.expires_at)


@dataclass(frozen=True, slots=True)
class Place:
    """A `Start` on its way.

    Args:
        kind: Which of them.
        value: Its sequence, or its time.
        last: Sequence of the last event that the sender knew. Whoever reads it has come as far
            before it says where the log ends.
    """

    kind: str
    value: int
    last: int

    @staticmethod
    def of(start: Start, last: int) -> Place:
        """A start as it travels."""
        if isinstance(start, AfterSequence):
            return Place("sequence", start.sequence, last)
        if isinstance(start, AfterTime):
            return Place("time", start.time_ns, last)
        return Place(start.value, 0, last)

    def start(self) -> Start:
        """The start as it was."""
        if self.kind == "sequence":
            return AfterSequence(self.value)
        if self.kind == "time":
            return AfterTime(self.value)
        return Begin.EARLIEST if self.kind == Begin.EARLIEST.value else Begin.LATEST


# --- A member whose stream is on another node ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Join:
    """Asks to take part; the answer is `Joined`.

    Args:
        session: The asking node's number for what is to come.
        node: Name of that node.
        wish: See `GroupHub.subscribe`.
        place: Likewise.
        who: Likewise.
        heartbeat: Likewise.
        create: Likewise.
        draining: Whether the instance that the member is drains.
    """

    session: int
    node: str
    wish: GroupWish
    place: Place
    who: Who
    heartbeat: float
    create: bool
    draining: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """Says that a member takes part.

    Args:
        address: Of the node from which its deliveries come.
        member_id: Names its stream.
        position: Where the group stands.
    """

    address: str
    member_id: str
    position: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """Deliveries, whose bytes come with it.

    Args:
        session: Of `Join`.
        number: Counts what the session is told, from 1 on.
        position: Where the group stands.
        count: How many.
        last: See `Chunk`.
    """

    session: int
    number: int
    position: int
    count: int
    last: int


@dataclass(frozen=True, slots=True)
class Word:
    """A gap, or a heartbeat where `first` is 0. See `Delivery` for the other fields."""

    session: int
    number: int
    position: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Says that nothing more comes: the group has moved, or it is over for the reason given."""

    session: int
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Taken:
    """Says up to which number a session has handed to its client what it was told."""

    session: int
    number: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Ends a session, which has handed on what it was told up to a number."""

    session: int
    number: int


@dataclass(frozen=True, slots=True)
class Drains:
    """Says whether the instance that a session's member is drains."""

    session: int
    draining: bool


# --- What is asked of a group --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """See `GroupHub.acknowledge`; the answer is `Outcomes`."""

    group: str
    ack_ids: tuple[str, ...]
    who: Who


@dataclass(frozen=True, slots=True)
class Reject:
    """See `GroupHub.reject`; the answer is `Outcomes`."""

    group: str
    ack_ids: tuple[str, ...]
    who: Who
    how: Rejection


@dataclass(frozen=True, slots=True)
class Extend:
    """See `GroupHub.extend`; the answer is `Outcomes`."""

    group: str
    ack_ids: tuple[str, ...]
    who: Who
    extension_ns: int | None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of deliveries: a byte for each, the value of its `Outcome`."""

    values: bytes


@dataclass(frozen=True, slots=True)
class View:
    """See `GroupHub.view`; the answer is a `GroupReport`."""

    group: str
    who: Who


@dataclass(frozen=True, slots=True)
class Look:
    """See `GroupHub.visible`; the answer is `Seen`. Asked of each seat."""

    seat: str
    prefix: str
    after: str
    limit: int
    who: Who


@dataclass(frozen=True, slots=True)
class Seen:
    """The groups of one seat."""

    reports: tuple[GroupReport, ...]


@dataclass(frozen=True, slots=True)
class Seek:
    """See `GroupHub.seek`; the answer is a `GroupReport`."""

    group: str
    place: Place
    who: Who
    unused: bool


@dataclass(frozen=True, slots=True)
class Delete:
    """See `GroupHub.delete`; the answer is a `GroupReport`."""

    group: str
    who: Who
    unused: bool


@dataclass(frozen=True, slots=True)
class PageLetters:
    """See `DeadLetters.page`; the answer is a `LetterPage`."""

    group: str
    query: LettersQuery
    who: Who


@dataclass(frozen=True, slots=True)
class Redrive:
    """See `DeadLetters.redrive`; the answer is `Redriven`."""

    group: str
    sequences: tuple[int, ...]
    wish: Filter | None
    who: Who


# --- Who responds --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """Whether anybody would get an event."""

    route: Route
    attributes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Survey:
    """Asks a node for its responders; the answer is `Found`."""

    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """For each question of a `Survey`, whether the node has a responder."""

    answers: tuple[bool, ...]

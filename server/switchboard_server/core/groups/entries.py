"""One event on its way through a group, and the member that holds it."""

from __future__ import annotations  # Entry and Holder name each other

from dataclasses import dataclass, field
from enum import Enum

from switchboard_server.core.records import Batch


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a member of a group is, or was.

    Args:
        member_id: Names its stream; never used again.
        subject: Subject of its token.
        instance: The registered instance that it is, "service_name/instance_id"; empty: none.
        peer: Its network address.
        node: The hub node that it is connected to.
    """

    member_id: str = ""
    subject: str = ""
    instance: str = ""
    peer: str = ""
    node: str = ""


class Outcome(Enum):
    """What became of settling a delivery; the value is the enum value's in the proto."""

    OK = 1
    UNKNOWN = 2
    EXPIRED = 3
    ALREADY_SETTLED = 4


@dataclass(frozen=True, slots=True)
class Rejection:
    """How deliveries are given back.

    Args:
        wait_ns: Nanoseconds before the next attempt; None: as the retry policy says.
        dead_letter: Give them up at once.
        reason: Why, kept with the dead letter.
    """

    wait_ns: int | None = None
    dead_letter: bool = False
    reason: str = ""


RETRY = Rejection()
"""For another attempt, when the retry policy says."""


class Cause(Enum):
    """What made a group give up an event; the value is the enum value's in the proto."""

    REJECTED = 1
    ATTEMPTS_REJECTED = 2
    DEADLINE_PASSED = 3
    MEMBER_LOST = 4


class State(Enum):
    """Where an event of a group stands."""

    READY = "ready"
    IN_FLIGHT = "in flight"
    RETRYING = "retrying"
    SETTLED = "settled"


_READY = State.READY


class Entry:
    """An event that a group has read and not settled.

    Attributes:
        sequence: Its place in the log.
        priority: 1 to 4.
        key: Its ordering key, where the group keeps the order of keys; else empty.
        time_ns: When it entered the log, Unix time in nanoseconds.
        expires_ns: When it expires, Unix time in nanoseconds; 0: never.
        batch: The batch that holds its bytes; None: they have to be fetched.
        index: Its index in the batch.
        redriven: It came back from the dead letters, which hold its bytes.
        redrives: How often it had come back.
        attempts: How often it has been delivered.
        state: Where it stands.
        ready_ns: Since when it is ready, Unix time in nanoseconds.
        nonce: Numbers its latest delivery; 0: there was none.
        ack_id: Names its latest delivery to clients.
        due_ns: Its deadline while in flight, or when its next attempt is due; Unix nanoseconds.
        holder: The member that holds it, or held it last.
        avoids: The member at which its last deadline passed: others are asked first.
        staged: How many bytes were fetched for it, and are held until it is delivered.
    """

    __slots__ = (
        "ack_id",
        "attempts",
        "avoids",
        "batch",
        "due_ns",
        "expires_ns",
        "holder",
        "index",
        "key",
        "nonce",
        "priority",
        "ready_ns",
        "redriven",
        "redrives",
        "sequence",
        "staged",
        "state",
        "time_ns",
    )

    def __init__(  # noqa: PLR0917 - made for every event: names would cost a tenth of it
        self,
        sequence: int,
        priority: int,
        key: str = "",
        time_ns: int = 0,
        expires_ns: int = 0,
        batch: Batch | None = None,
        index: int = 0,
    ) -> None:
        self.sequence = sequence
        self.priority = priority
        self.key = key
        self.time_ns = time_ns
        self.expires_ns = expires_ns
        self.batch = batch
        self.index = index
        self.redriven = False
        self.redrives = 0
        self.attempts = 0
        self.state = _READY
        self.ready_ns = time_ns
        self.nonce = 0
        self.ack_id = ""
        self.due_ns = 0
        self.holder: Holder | None = None
        self.avoids: Holder | None = None
        self.staged = 0

    def __lt__(self, other: Entry) -> bool:
        """Orders by place in the log, for heaps."""
        return self.sequence < other.sequence


@dataclass(slots=True, eq=False)
class Holder:
    """A member as the ledger sees it.

    Args:
        identity: Who it is.
        credit: How many deliveries it holds at most.

    Attributes:
        held: What it holds, by nonce.
        open: It takes part; False once it has left.
        draining: It gets nothing new.
    """

    identity: Identity
    credit: int
    held: dict[int, Entry] = field(default_factory=dict)
    open: bool = True
    draining: bool = False

    @property
    def free(self) -> int:
        """How many deliveries it may take."""
        return self.credit - len(self.held)

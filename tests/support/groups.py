"""Short ways to make what a `GroupStore` keeps."""

from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.changes import DeadLetter, Open, Snapshot
from switchboard_server.core.groups.config import GroupConfig, Mode, RetryPolicy
from switchboard_server.core.groups.entries import Cause, Identity
from tests.support.events import a_route

ALICE = Identity("m1", "alice", "billing/1", "127.0.0.1:1", "n1")
BOB = Identity("m2", "bob")
CONFIG = GroupConfig(
    Filter(("order.*",), ("shop",), ("billing",), 2, {"region": "eu"}),
    Mode.KEY_SHARED,
    7_000_000_000,
    RetryPolicy(3, 1, 2),
)


def a_letter(sequence: int, time_ns: int = 1, text: str = "lost", redrives: int = 0) -> DeadLetter:
    """A dead letter."""
    return DeadLetter(
        sequence=sequence,
        frame=text.encode(),
        route=a_route(priority=3),
        attributes={"region": "eu"},
        ordering_key="customer 7",
        event_ns=123,
        cause=Cause.DEADLINE_PASSED,
        reason="no stöck",
        attempts=3,
        holder=ALICE,
        time_ns=time_ns,
        redrives=redrives,
    )


def a_snapshot() -> Snapshot:
    """The state of a group that is in the midst of its work."""
    return Snapshot(
        {1: 10, 2: 11, 3: 12, 4: 13},
        [Open(3), Open(5, 2, 99, ALICE), Open(6, 1, 0, BOB), Open(8, 1, 7, ALICE)],
        floor=7,
        nonce=44,
    )

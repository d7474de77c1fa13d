"""Events of groups, one to a batch, and who takes part."""

from array import array

from switchboard_server.core.groups.entries import Entry, Holder, Identity
from switchboard_server.core.records import Batch
from tests.support.events import a_route

SECOND = 1_000_000_000


def a_batch(sequence: int, priority: int = 2) -> Batch:
    """A batch of one event."""
    return Batch(sequence, 0, b"x", array("I", [1]), (a_route(priority=priority),))


def an_entry(
    sequence: int, priority: int = 2, key: str = "", *, time_ns: int = 0, expires_ns: int = 0
) -> Entry:
    """An event that has just been read."""
    batch = a_batch(sequence, priority)
    return Entry(sequence, priority, key, time_ns=time_ns, expires_ns=expires_ns, batch=batch)


def a_member(name: str = "m", credit: int = 10) -> Holder:
    """A member that has not joined yet."""
    return Holder(Identity(member_id=name), credit)

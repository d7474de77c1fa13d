"""How groups are, for those who look after them."""

from collections.abc import Sequence
from dataclasses import dataclass

from switchboard_server.core.groups.entries import Identity
from switchboard_server.core.groups.group import Group
from switchboard_server.core.groups.ledger import Counters
from switchboard_server.core.groups.ports import GroupRecord
from switchboard_server.core.ports import EventLog


@dataclass(frozen=True, slots=True)
class MemberReport:
    """One member; see the proto's `GroupMember`."""

    identity: Identity
    join_ns: int
    max_in_flight: int
    in_flight: int
    draining: bool


@dataclass(frozen=True, slots=True)
class GroupReport:
    """A group and how far it has come; see the proto's `Group` and `GroupProgress`."""

    record: GroupRecord
    idle_since_ns: int
    position: int
    last_sequence: int
    exact: bool
    lag_ns: int
    ready: int
    in_flight: int
    retrying: int
    dead_letters: int
    members: Sequence[MemberReport]

    @property
    def lag_events(self) -> int:
        """How many events are not settled; if not exact, at most."""
        return self.ready + self.in_flight + self.retrying


@dataclass(frozen=True, slots=True)
class GroupStats:
    """What a group counts.

    Args:
        name: Its name.
        ready: Events that wait for a member; an upper bound while it reads what it was away from.
        in_flight: Deliveries that members hold.
        retrying: Events that wait for their next attempt.
        dead_letters: Dead letters.
        members: Streams of members.
        oldest_ns: Age of the oldest event that is not settled, in nanoseconds, as far as it is
            known of those that have not been read.
        counters: What has happened since the hub started.
    """

    name: str
    ready: int
    in_flight: int
    retrying: int
    dead_letters: int
    members: int
    oldest_ns: int
    counters: Counters


async def report(group: Group, log: EventLog, now_ns: int) -> GroupReport:
    """How a group is.

    Raises:
        UnavailableError: The log cannot be read now.
    """
    position = group.position()
    ledger = group.ledger
    times = [group.oldest_ns(), await group.burial.oldest_ns()]
    if times == [None, None] and group.ready:
        batches = (await log.read(position, 1)).batches
        times = [batches[0].time_ns if batches else None]
    oldest_ns = min((each for each in times if each is not None), default=None)
    # What is read ahead lies beyond the position, and would be counted twice.
    beyond = log.window.last - position + group.burial.returning
    ready = min(group.ready, max(0, beyond - ledger.in_flight - ledger.retrying))
    return GroupReport(
        record=group.record,
        idle_since_ns=0 if group.members else group.idle_since_ns,
        position=position,
        last_sequence=log.window.last,
        exact=group.exact,
        lag_ns=0 if oldest_ns is None else max(0, now_ns - oldest_ns),
        ready=ready,
        in_flight=ledger.in_flight,
        retrying=ledger.retrying,
        dead_letters=group.burial.dead_letters,
        members=[
            MemberReport(
                each.holder.identity,
                each.join_ns,
                each.holder.credit,
                len(each.holder.held),
                each.holder.draining,
            )
            for each in group.members
        ],
    )


def stats(group: Group, now_ns: int) -> GroupStats:
    """What a group counts."""
    oldest_ns = group.oldest_ns()
    return GroupStats(
        name=group.record.name,
        ready=group.ready,
        in_flight=group.ledger.in_flight,
        retrying=group.ledger.retrying,
        dead_letters=group.burial.dead_letters,
        members=len(group.members),
        oldest_ns=0 if oldest_ns is None else max(0, now_ns - oldest_ns),
        counters=group.ledger.counters,
    )

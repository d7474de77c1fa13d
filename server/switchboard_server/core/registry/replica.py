"""A node's copy of a registry that nodes share: it follows, and decides nothing."""

from collections.abc import Sequence
from dataclasses import replace

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.registry.entries import Entry
from switchboard_server.core.registry.leases import Lease
from switchboard_server.core.registry.model import Change, Key, Moment, RemovalCause, Status, Vital
from switchboard_server.core.registry.roster import Roster
from switchboard_server.core.registry.sharing import Record, SharedChange


class SharedEntry(Entry):
    """An instance that nodes share, as this node keeps it.

    Its `holder` is a `Lease` where a stream of this node holds the lease, and a token where one of
    another node does.

    Args:
        record: What is known of it.
        now: The time.

    Attributes:
        record: What is known of it; the moment at which its lease ends may be a later one.
        stamp: Of the last write that is known.
        owned: Whether this node checks it.
    """

    __slots__ = ("owned", "record", "stamp")

    def __init__(self, record: Record, now: Moment) -> None:
        super().__init__(record.instance.spec, now)
        self.record = record
        self.owned = False
        self.take(record, now)

    def take(self, record: Record, now: Moment) -> None:
        """Takes over what is known now."""
        if record.birth != self.record.birth:
            self.begin_checks(record.instance.spec)
            self.owned = False
        self.record = record
        self.stamp = record.stamp
        self.instance = record.instance
        self.declared = record.declared
        self.checked = record.checked
        self.leased = record.leased
        self.unconfirmed = record.unconfirmed
        self.lease_expire_ns = record.lease_expire_ns
        self.lease_until = now.seconds + (record.lease_expire_ns - now.wall_ns) / SECOND_NS
        if not isinstance(self.holder, Lease):
            self.holder = record.holder or None

    def known(self) -> Record:
        """What is known of it, for somebody else."""
        return replace(
            self.record, lease_expire_ns=self.lease_expire_ns, unconfirmed=self.unconfirmed
        )


class Replica(Roster):
    """A copy, to which writes are passed in the order in which they were done.

    Attributes:
        since_ns: Since when eviction is withheld, Unix nanoseconds; 0: it is not.
        count: For how many instances.
    """

    def __init__(self) -> None:
        super().__init__()
        self.since_ns = 0
        self.count = 0

    @property
    def preserving_since_ns(self) -> int:
        """See `Roster.preserving_since_ns`."""
        return self.since_ns

    @property
    def withheld(self) -> int:
        """See `Roster.withheld`."""
        return self.count

    def entry(self, key: Key) -> SharedEntry | None:
        """An instance; None: there is none."""
        found = self.find(key)
        assert found is None or isinstance(found, SharedEntry), "no other is put in"
        return found

    def entries(self) -> list[SharedEntry]:
        """All instances."""
        return [entry for entry in self if isinstance(entry, SharedEntry)]

    def told(self, shared: SharedChange, now: Moment) -> Change:
        """A change as it was told before this node followed."""
        record = shared.record
        expires = record.lease_expire_ns if record.leased and not record.holder else None
        return _change(shared, Vital(None, record.unconfirmed, expires), now)

    def apply(self, shared: SharedChange, now: Moment) -> tuple[Change, SharedEntry]:
        """Takes the change of the next revision.

        One that is older than what is known of the instance, as happens after `load`, is only told.

        Returns:
            The change as it is told, and the instance, which may be gone.
        """
        record = shared.record
        key = record.instance.key
        entry = self.entry(key)
        self.revision = shared.revision
        previous = shared.previous
        if entry is None or entry.instance.revision >= shared.revision:
            known = entry is not None
            told = entry if entry is not None else SharedEntry(record, now)
            if not known and shared.cause is None:
                self._add(told, record.instance.spec)
            return _change(shared, told.vital, now), told
        if shared.quiet:
            previous = entry.instance.status
        if shared.cause is not None:
            self._drop(key, shared.revision)
        else:
            entry.take(record, now)
            self.services[key.service].version = shared.revision
        return _change(replace(shared, previous=previous), entry.vital, now), entry

    def touch(self, record: Record, now: Moment) -> SharedEntry | None:
        """Takes a write that is no change.

        Returns:
            The instance; None: it says nothing that is new, or is of a change still to come.
        """
        entry = self.entry(record.instance.key)
        if (
            entry is None
            or record.stamp <= entry.stamp
            or record.instance.revision != entry.instance.revision
        ):
            return None
        # What others see stays the same object, and so does what the wire has made of it.
        entry.take(replace(record, instance=entry.instance), now)
        return entry

    def load(
        self, revision: int, records: Sequence[Record], now: Moment
    ) -> list[tuple[Change, SharedEntry]]:
        """Takes over everything, whatever was known before.

        Args:
            revision: The registry's revision.
            records: All instances.
            now: The time.

        Returns:
            What is another than before, in no order.
        """
        self.revision = revision
        gone = {entry.instance.key for entry in self}
        changes = []
        for record in records:
            key = record.instance.key
            gone.discard(key)
            entry = self.entry(key)
            if entry is None:
                entry = SharedEntry(record, now)
                self._add(entry, record.instance.spec)
                changes.append((_difference(entry, None, now), entry))
                continue
            before = entry.instance
            if _same(record, entry.record):
                entry.take(record, now)
                continue
            entry.take(record, now)
            self.services[key.service].version = revision
            changes.append((_difference(entry, before.status, now), entry))
        for key in gone:
            entry = self.entry(key)
            assert entry is not None, "it was there"
            self._drop(key, revision)
            change = _difference(entry, entry.instance.status, now)
            change.cause = RemovalCause.LEASE_EXPIRED
            change.revision = revision
            changes.append((change, entry))
        return changes

    def _drop(self, key: Key, revision: int) -> None:
        self._take_out(key).version = revision


def _same(one: Record, other: Record) -> bool:
    """Whether two look alike to others; when it came to be so may differ."""
    a, b = one.instance, other.instance
    return (a.spec, a.status, a.status_reason) == (b.spec, b.status, b.status_reason)


def _change(shared: SharedChange, vital: Vital, now: Moment) -> Change:
    return Change(
        shared.revision,
        shared.record.instance,
        vital,
        shared.previous,
        shared.cause,
        now.seconds - shared.age,
        shared.quiet,
    )


def _difference(entry: SharedEntry, previous: Status | None, now: Moment) -> Change:
    """A change that nobody has seen happen."""
    return Change(
        entry.instance.revision,
        entry.instance,
        entry.vital,
        previous,
        None,
        now.seconds,
    )

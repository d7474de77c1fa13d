"""The registry of a node in a cluster: one place decides for all, and this node follows it."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from switchboard_server.core.clock import SECOND_NS, Clock, wall_clock
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.registry.announcing import Announcer, Publish
from switchboard_server.core.registry.entries import Entry, Verdict
from switchboard_server.core.registry.holding import Holds, SharedLease
from switchboard_server.core.registry.inspecting import Inspector
from switchboard_server.core.registry.leases import Lease
from switchboard_server.core.registry.limits import RegistryLimits
from switchboard_server.core.registry.model import (
    DEFAULT_LEASE_NS,
    Change,
    Key,
    Registration,
    Status,
)
from switchboard_server.core.registry.ownership import in_charge
from switchboard_server.core.registry.ports import Prober
from switchboard_server.core.registry.reaching import Reaching
from switchboard_server.core.registry.registry import (
    SETTLE_SECONDS,
    Registry,
    declared_as,
    taken_over,
)
from switchboard_server.core.registry.replica import Replica, SharedEntry
from switchboard_server.core.registry.roster import no_instance
from switchboard_server.core.registry.sharing import (
    Knowledge,
    Record,
    SharedChange,
    SharedStore,
    View,
)
from switchboard_server.core.registry.targets import target_of
from switchboard_server.core.registry.validation import normalise

ANNOUNCING = "announcements of the registry"
"""What the node is in charge of that publishes changes as events."""

_logger = logging.getLogger(__name__)


class SharedRegistry(Registry):
    """A `Registry` that several nodes share.

    What is asked is answered from this node's copy, also while the shared store cannot be used;
    nobody is evicted meanwhile, since the store's time stands still. What is to be changed is then
    refused with UNAVAILABLE (reason REGISTRY_UNAVAILABLE). So `problem` says something only until
    everything is known for the first time; `outage` says why nothing can be changed.

    One node checks each instance, and one publishes the changes as events; which, all nodes
    conclude from who lives. The store refuses what a node does that is not in charge any more.

    Args:
        store: Where it is kept, and which decides.
        prober: Tries instances.
        limits: How it works.
        clock: Unix time in nanoseconds, for people to read.

    Attributes:
        outage: Why nothing can be changed; None: it can.
    """

    def __init__(
        self,
        store: SharedStore,
        prober: Prober,
        limits: RegistryLimits | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        self._replica = Replica()
        super().__init__(self._replica, prober, limits, clock)
        self._store = store
        self._holds = Holds(store, self.now)
        self._inspector = Inspector(store, self._checker, self._replica)
        self._publish: Publish | None = None
        self._retired: asyncio.Task[None] | None = None
        self._reaching = Reaching()
        self._loaded = False
        self._joins = 0
        self.outage: str | None = None
        self.problem = "the registry is not loaded yet"

    # --- life ------------------------------------------------------------------------------------

    async def open(self, publish: Publish | None = None) -> None:
        """See `Registry.open`; where the store cannot be used, it is taken up when it can."""
        self._publish = publish
        await self._store.open(self)

    async def begin_shutdown(self) -> None:
        """See `Registry.begin_shutdown`."""
        await self._end_streams()

    async def close(self) -> None:
        """See `Registry.close`; other nodes take over what this one was in charge of."""
        await self._checker.close()
        await self._prober.close()
        await self._inspector.close()
        await self._holds.close(SETTLE_SECONDS)
        await self._announce_no_more()
        await self._store.close()

    # --- who registers ---------------------------------------------------------------------------

    async def register(
        self, registration: Registration, principal: Principal = ANONYMOUS
    ) -> tuple[Entry, bool]:
        """See `Registry.register`."""
        spec = normalise(registration, round(self._limits.check_interval * SECOND_NS))
        principal.require("services.register", spec.service)
        self._admit_writers()
        target = target_of(spec)
        if target is not None:
            await self._prober.admit(target)
            self._admit()
        record, created = await self._store.register(
            spec, principal.subject, self._limits.max_instances
        )
        return await self._reached(record), created

    async def keep_alive(
        self, key: Key, load: float | None, principal: Principal = ANONYMOUS
    ) -> Lease:
        """See `Registry.keep_alive`."""
        self._may_hold(key, principal)
        self._admit_writers()
        token, joins = self._store.token(), self._joins
        try:
            record = await self._store.hold(key, token)
            assert record is not None, "it is held whoever did before"
            entry = await self._reached(record)
            self._check_held(entry, record, joins)
        except UnavailableError:
            # It may hold all the same, and then nobody else would let it go. The client lives.
            known = self._replica.entry(key)
            lease_ns = DEFAULT_LEASE_NS if known is None else known.instance.spec.lease_ns
            self._holds.part(key, token, lease_ns / SECOND_NS)
            raise
        except asyncio.CancelledError:
            self._holds.part(key, token)
            raise
        lease = self._holds.begin(entry, token, load)
        self._leases[lease] = None
        return lease

    def let_go(self, lease: Lease, *, broken: bool) -> None:
        """See `Registry.let_go`."""
        del self._leases[lease]
        assert isinstance(lease, SharedLease), "keep_alive made it"
        self._holds.end(lease, broken=broken and self._closing is None)

    async def deregister(self, key: Key, principal: Principal = ANONYMOUS) -> int:
        """See `Registry.deregister`."""
        self._may_remove(key, principal)
        self._admit_writers()
        revision = await self._store.remove(key)
        await self._reaching.wait(revision)
        return revision

    async def set_status(
        self, key: Key, status: Status | None, reason: str, principal: Principal = ANONYMOUS
    ) -> Entry:
        """See `Registry.set_status`."""
        self._may_declare(key, reason, principal)
        self._admit_writers()
        return await self._reached(await self._store.declare(key, declared_as(status, reason)))

    # --- who looks -------------------------------------------------------------------------------

    def admit_readers(self) -> None:
        """See `Registry.admit_readers`."""
        if not self._loaded:
            raise UnavailableError(
                "REGISTRY_UNAVAILABLE",
                "this hub does not know the registry yet; "
                f"{self.outage or 'try again in a moment'}",
            )

    # --- what the store tells; see `SharedHandler` -----------------------------------------------

    def loaded(
        self, revision: int, records: Sequence[Record], changes: Sequence[SharedChange]
    ) -> None:
        """See `SharedHandler.loaded`."""
        now = self.now()
        differences = self._replica.load(revision, records, now)
        self._begin_anew(revision, [self._replica.told(each, now) for each in changes])
        for change, entry in differences:
            self._tell_followers(change, entry)
        for entry in self._replica.entries():
            self._follow(entry)
        self._loaded = True
        self._say(None)
        self._reaching.reached(self.revision)

    def changed(self, change: SharedChange) -> None:
        """See `SharedHandler.changed`."""
        if change.revision != self.revision + 1:
            # Revisions have jumped, because others have put back what this node never knew.
            self._begin_anew(change.revision - 1, ())
        told, entry = self._replica.apply(change, self.now())
        self._tell(told, entry)
        if change.cause is None:
            self._follow(entry, fresh=True)
        else:
            self._holds.forget(entry)
            self._inspector.forget(entry)
        self._reaching.reached(self.revision)

    def touched(self, record: Record) -> None:
        """See `SharedHandler.touched`."""
        entry = self._replica.touch(record, self.now())
        if entry is not None:
            self._holds.compare(entry)

    def renewed(self, key: Key, lease_expire_ns: int, stamp: int) -> None:
        """See `SharedHandler.renewed`."""
        entry = self._replica.entry(key)
        if entry is not None and stamp > entry.stamp:
            entry.stamp = stamp
            entry.lease_expire_ns = lease_expire_ns
            entry.unconfirmed = False

    def loads(self, loads: Mapping[Key, float]) -> None:
        """See `SharedHandler.loads`."""
        for key, load in loads.items():
            entry = self._replica.entry(key)
            if entry is not None and not isinstance(entry.holder, Lease):
                entry.load = load

    def viewed(self, view: View) -> None:
        """See `SharedHandler.viewed`."""
        self._inspector.view(view)
        if self._publish is None:
            return
        if in_charge(ANNOUNCING, view.nodes) != self._store.node:
            if self._announcer is not None:
                self._retired = self._loop.create_task(self._announce_no_more())
        elif self._announcer is None:
            history = self._watchers.history
            self._announcer = Announcer(history, self._published, view.announced)
            self._announcer.wake()

    def joined(self) -> None:
        """See `SharedHandler.joined`."""
        self._joins += 1
        self._inspector.restart()
        for lease in self._leases:
            assert isinstance(lease, SharedLease), "keep_alive made it"
            self._holds.again(lease)

    def withheld(self, since_ns: int, count: int) -> None:
        """See `SharedHandler.withheld`."""
        if bool(since_ns) is not self._replica.preserving:
            facts = {"withheld": count, "registered": self._replica.size}
            if since_ns:
                _logger.warning("too many instances run out at once: none is removed", extra=facts)
            else:
                _logger.info("instances that run out are removed again", extra=facts)
        self._replica.since_ns, self._replica.count = since_ns, count

    def reported(self, problem: str | None) -> None:
        """See `SharedHandler.reported`."""
        self.outage = problem
        if problem is None:
            self._holds.nudge()
            self._inspector.nudge()
        if not self._loaded:
            self._say(problem or "the registry is not loaded yet")

    def knowledge(self) -> Knowledge:
        """See `SharedHandler.knowledge`."""
        history = self._watchers.history
        held: list[Record] = []
        owned: list[Record] = []
        others: list[Record] = []
        for entry in self._replica.entries():
            if isinstance(entry.holder, Lease):
                held.append(entry.known())
            else:
                (owned if entry.owned else others).append(entry.known())
        removed = {
            change.key: change.revision
            for change in history.after(history.oldest) or ()
            if change.cause is not None
        }
        return Knowledge(
            self.revision,
            history.oldest,
            [*held, *owned, *others],
            len(held) + len(owned),
            removed,
        )

    def announced(self) -> int | None:
        """See `SharedHandler.announced`."""
        return None if self._announcer is None else self._announcer.position

    # --- what differs ----------------------------------------------------------------------------

    def _checks(self, entry: Entry) -> bool:
        return isinstance(entry, SharedEntry) and entry.owned

    def _writable(self) -> bool:
        return self._loaded and self.outage is None

    def _found(self, entry: Entry, verdict: Verdict) -> None:
        if self._closing is None:
            self._inspector.found(entry, verdict)

    # --- inside ----------------------------------------------------------------------------------

    def _admit_writers(self) -> None:
        self._admit()
        self.admit_readers()

    def _follow(self, entry: SharedEntry, *, fresh: bool = False) -> None:
        """Sees to what this node has to do for an instance that is there."""
        self._inspector.assign(entry, fresh=fresh)
        self._holds.compare(entry)

    def _check_held(self, entry: SharedEntry, record: Record, joins: int) -> None:
        """Checks that a stream still holds what the store let it hold, and nobody else does."""
        key = entry.instance.key
        self._admit()
        if joins != self._joins:
            # The token is void, and the stream was not there yet to get another.
            raise UnavailableError(
                "REGISTRY_UNAVAILABLE", "the other hubs took this one for dead; try again"
            )
        if record.instance.revision > self.revision:
            # What this node knows under the id may be another instance.
            raise UnavailableError("REGISTRY_UNAVAILABLE", "this hub lags behind; try again")
        if self._replica.find(key) is not entry:
            raise no_instance(key)
        if entry.stamp > record.stamp and entry.record.holder != record.holder:
            raise taken_over(key)
        if isinstance(entry.holder, Lease):
            entry.holder.end(taken_over(key))
        self._replica.touch(record, self.now())

    def _begin_anew(self, revision: int, changes: Sequence[Change]) -> None:
        """Goes on from a revision to which nothing leads from what is known.

        Args:
            revision: The revision.
            changes: The last ones up to it, without a gap.
        """
        if self._announcer is not None:
            self._announcer.begin_anew(changes[0].revision - 1 if changes else revision)
        self._watchers.begin(revision, changes)

    def _say(self, problem: str | None) -> None:
        if self.problem != problem:
            self.problem = problem
            self.availability.set()

    async def _published(self, changes: Sequence[Change]) -> None:
        assert self._publish is not None, "else nobody announces"
        if not self._store.alive:
            # Another node may do it by now, and know more.
            raise UnavailableError("REGISTRY_UNAVAILABLE", "this hub may be cut off")
        await self._publish(changes)

    async def _announce_no_more(self) -> None:
        announcer, self._announcer = self._announcer, None
        if announcer is not None:
            await announcer.close()

    async def _reached(self, record: Record) -> SharedEntry:
        """The instance as this node knows it when it has heard of a write that it did itself."""
        await self._reaching.wait(record.instance.revision)
        return self._replica.entry(record.instance.key) or SharedEntry(record, self.now())

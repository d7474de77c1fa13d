"""The registry of a hub that stands alone: it decides, and keeps what it decided in its store."""

import logging

from switchboard_server.core.clock import SECOND_NS, Clock, wall_clock
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.registry.announcing import Announcer, Publish
from switchboard_server.core.registry.directory import Directory
from switchboard_server.core.registry.entries import Entry, Verdict
from switchboard_server.core.registry.leases import Lease
from switchboard_server.core.registry.limits import RegistryLimits
from switchboard_server.core.registry.model import Change, Key, Registration, RemovalCause, Status
from switchboard_server.core.registry.ports import Prober, RegistryStore, StoredInstance
from switchboard_server.core.registry.registry import Registry, declared_as, taken_over
from switchboard_server.core.registry.saving import Saver
from switchboard_server.core.registry.sweeping import Sweeper
from switchboard_server.core.registry.targets import target_of
from switchboard_server.core.registry.validation import normalise
from switchboard_server.core.registry.watching import HISTORY, History

RESTART_REVISIONS = 1_000_000
"""How far the revision jumps after a hub died: what it told last may not have been saved."""

_logger = logging.getLogger(__name__)


class LocalRegistry(Registry):
    """A `Registry` in which this hub alone decides.

    A change shows at once and is answered when the store has it. Not safe with a second hub over
    the same store.

    Args:
        store: Keeps the instances.
        prober: Tries them.
        limits: How it works.
        clock: Unix time in nanoseconds; what decides goes by the loop's monotonic clock.
    """

    def __init__(
        self,
        store: RegistryStore,
        prober: Prober,
        limits: RegistryLimits | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        limits = limits or RegistryLimits()
        self._store = store
        self._directory = Directory(
            self._changed,
            reap_after=limits.reap_after,
            interval=limits.check_interval,
            max_instances=limits.max_instances,
        )
        super().__init__(self._directory, prober, limits, clock)
        self._sweeper = Sweeper(self._directory, self.now)

    async def open(self, publish: Publish | None = None) -> None:
        """See `Registry.open`."""
        found = await self._store.open()
        revision = found.revision + (0 if found.complete else RESTART_REVISIONS)
        self._directory.revision = revision
        history = self._watchers.history = History(HISTORY, revision)
        self._directory.restore(
            ((each.instance, each.declared, each.leased) for each in found.instances), self.now()
        )
        self._saver = Saver(self._store, self._row, lambda: self.revision, self._reported)
        if publish is not None:
            self._announcer = Announcer(history, publish)
        for entry in self._directory:
            self._checker.begin(entry, scattered=True)
        self._sweeper.arm()

    def admit_readers(self) -> None:
        """See `Registry.admit_readers`: all is known since `open`."""

    async def register(
        self, registration: Registration, principal: Principal = ANONYMOUS
    ) -> tuple[Entry, bool]:
        """See `Registry.register`."""
        spec = normalise(registration, round(self._limits.check_interval * SECOND_NS))
        principal.require("services.register", spec.service)
        self._admit()
        self._directory.check_conflict(spec, self.now())
        target = target_of(spec)
        if target is not None:
            await self._prober.admit(target)
            self._admit()
        known = self._directory.find(spec.key)
        generation, holder = (0, None) if known is None else (known.generation, known.holder)
        entry, created = self._directory.put(spec, principal.subject, self.now())
        if isinstance(holder, Lease) and entry.holder is not holder:
            holder.end(taken_over(spec.key))
        if entry.generation != generation:
            self._checker.begin(entry)
        self._sweeper.arm()
        await self._saver.durable(spec.key)
        return entry, created

    async def keep_alive(
        self, key: Key, load: float | None, principal: Principal = ANONYMOUS
    ) -> Lease:
        """See `Registry.keep_alive`."""
        self._may_hold(key, principal)
        entry = self._directory.get(key)
        if isinstance(entry.holder, Lease):
            entry.holder.end(taken_over(key))
        lease = Lease(entry, self._renew)
        leased = entry.leased
        self._directory.hold(entry, lease, self.now())
        self._renew(lease, load)
        if not leased:
            self._saver.touch(key)
        self._leases[lease] = None
        self._sweeper.arm()
        return lease

    def let_go(self, lease: Lease, *, broken: bool) -> None:
        """See `Registry.let_go`."""
        del self._leases[lease]
        if lease.entry.holder is lease:
            if broken and self._closing is None:
                self._directory.lose(lease.entry, self.now())
            else:
                self._directory.release(lease.entry)
            self._sweeper.arm()

    async def deregister(self, key: Key, principal: Principal = ANONYMOUS) -> int:
        """See `Registry.deregister`."""
        self._may_remove(key, principal)
        entry = self._directory.get(key)
        change = self._directory.remove(entry, RemovalCause.DEREGISTERED, self.now())
        await self._saver.durable(key)
        return change.revision

    async def set_status(
        self, key: Key, status: Status | None, reason: str, principal: Principal = ANONYMOUS
    ) -> Entry:
        """See `Registry.set_status`."""
        self._may_declare(key, reason, principal)
        entry = self._directory.get(key)
        self._directory.declare(entry, declared_as(status, reason), self.now())
        self._sweeper.arm()
        await self._saver.durable(key)
        return entry

    async def begin_shutdown(self) -> None:
        """See `Registry.begin_shutdown`."""
        self._sweeper.close()
        await self._end_streams()

    async def close(self) -> None:
        """See `Registry.close`."""
        self._sweeper.close()
        await self._checker.close()
        await self._prober.close()
        if self._announcer is not None:
            await self._announcer.close()
        await self._store.close(complete=await self._saver.close())

    def _renew(self, lease: Lease, load: float | None) -> None:
        if lease.entry.holder is lease:
            self._directory.renew(lease.entry, self.now(), load)

    def _checks(self, entry: Entry) -> bool:
        return entry.target is not None

    def _writable(self) -> bool:
        return self.problem is None

    def _found(self, entry: Entry, verdict: Verdict) -> None:
        if self._closing is None:
            self._directory.judge(entry, verdict, self.now())
            self._sweeper.arm()

    def _row(self, key: Key) -> StoredInstance | None:
        entry = self._directory.find(key)
        return (
            None if entry is None else StoredInstance(entry.instance, entry.declared, entry.leased)
        )

    def _reported(self, problem: str | None) -> None:
        self.problem = problem
        if problem is not None:
            _logger.error("%s", problem)
        self.availability.set()

    def _changed(self, change: Change, entry: Entry) -> None:
        self._saver.touch(change.key)
        self._tell(change, entry)

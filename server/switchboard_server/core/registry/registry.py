"""What clients can do with the registry, whatever door they come through."""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from switchboard_server.core.clock import Clock
from switchboard_server.core.errors import (
    AbortedError,
    UnavailableError,
    limit_reached,
    shutting_down,
    too_large,
)
from switchboard_server.core.heartbeats import DEFAULT_HEARTBEAT, check_heartbeat
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.registry.announcing import Announcer, Publish
from switchboard_server.core.registry.checking import Checker
from switchboard_server.core.registry.discovery import Discovered, Discovery, Selection
from switchboard_server.core.registry.entries import Declared, Entry, Verdict
from switchboard_server.core.registry.leases import Lease
from switchboard_server.core.registry.limits import RegistryLimits
from switchboard_server.core.registry.model import (
    Change,
    Instance,
    Key,
    Moment,
    Registration,
    RemovalCause,
    Status,
)
from switchboard_server.core.registry.overview import ServicesPage, ServicesQuery, list_services
from switchboard_server.core.registry.ports import Prober
from switchboard_server.core.registry.roster import Roster, no_instance
from switchboard_server.core.registry.stats import PROPAGATION_BOUNDS, RegistryStats
from switchboard_server.core.registry.validation import MAX_REASON, check_service_name
from switchboard_server.core.registry.watching import (
    HISTORY,
    History,
    Watcher,
    Watchers,
    check_patterns,
)
from switchboard_server.core.stats import Histogram

SETTLE_SECONDS = 1.0
"""How long a shutdown waits for changes to be published."""


class Registry(ABC):
    """The directory of services, as doors see it: what is asked is answered from memory here.

    Who may register what, and what becomes of it, is decided by who inherits: by this hub alone
    (`LocalRegistry`), or by all nodes of a cluster together (`SharedRegistry`). Its methods are
    called in one event loop, as it comes.

    Args:
        roster: Who is registered.
        prober: Tries them.
        limits: How it works.
        clock: Unix time in nanoseconds; what decides goes by the loop's monotonic clock.

    Attributes:
        problem: Why it does not serve; None: it does.
        availability: Set whenever the problem changes.
    """

    def __init__(
        self, roster: Roster, prober: Prober, limits: RegistryLimits | None, clock: Clock
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._roster = roster
        self._prober = prober
        self._limits = limits or RegistryLimits()
        self._clock = clock
        self._discovery = Discovery(roster)
        self._watchers = Watchers(roster, History(HISTORY, 0), self._loop.time)
        self._checker = Checker(prober, self._found, self._limits.max_checks)
        self._leases: dict[Lease, None] = {}
        self._announcer: Announcer | None = None
        self._listeners: dict[Callable[[Change], None], None] = {}
        self._drain_listeners: dict[Callable[[str, bool], None], None] = {}
        self._closing: UnavailableError | None = None
        self._changes = 0
        self._removed: Counter[RemovalCause] = Counter()
        self._propagation = Histogram(PROPAGATION_BOUNDS)
        self.problem: str | None = None
        self.availability = asyncio.Event()

    @property
    def revision(self) -> int:
        """Grows with every change."""
        return self._roster.revision

    # --- life ------------------------------------------------------------------------------------

    @abstractmethod
    async def open(self, publish: Publish | None = None) -> None:
        """Takes up what is registered already.

        Args:
            publish: Publishes changes as events; None: nobody does.

        Raises:
            UnavailableError: It cannot.
        """

    @abstractmethod
    async def begin_shutdown(self) -> None:
        """Takes nothing more, ends every stream, and evicts nobody any more."""

    @abstractmethod
    async def close(self) -> None:
        """Saves what is left, and lets go of everything."""

    def stats(self) -> RegistryStats:
        """What the registry counts, as it is now."""
        roster, checker = self._roster, self._checker
        return RegistryStats(
            instances=Counter(entry.instance.status for entry in roster),
            services=len(roster.services),
            unconfirmed=sum(entry.unconfirmed for entry in roster),
            revision=roster.revision,
            changes=self._changes,
            removed=dict(self._removed),
            preserving=roster.preserving,
            withheld=roster.withheld,
            leases=len(self._leases),
            watchers=len(self._watchers),
            compactions=self._watchers.compactions,
            checks=self._checker.durations,
            checks_running=checker.running,
            checks_waiting=checker.waiting,
            propagation=self._propagation,
            unannounced=0 if self._announcer is None else self._announcer.lost,
            checked=sum(map(self._checks, roster)),
            writable=self._writable(),
        )

    def preservation(self) -> tuple[int, int, int]:
        """Since when eviction is withheld, for how many, and how many are registered.

        Returns:
            Unix nanoseconds (0: it is not withheld), and two counts.
        """
        roster = self._roster
        since = roster.preserving_since_ns
        return since, roster.withheld if since else 0, roster.size

    def now(self) -> Moment:
        """The time."""
        return Moment(self._loop.time(), self._clock())

    # --- who registers ---------------------------------------------------------------------------

    @abstractmethod
    async def register(
        self, registration: Registration, principal: Principal = ANONYMOUS
    ) -> tuple[Entry, bool]:
        """Registers an instance, or renews its registration and lease.

        Args:
            registration: The instance.
            principal: Who registers it.

        Returns:
            The instance, and whether it was not there before; when it is durable.

        Raises:
            InvalidArgumentError: A field is not allowed, named as within the instance.
            PermissionDeniedError: The caller may not register the service, or the hub may not call
                the address of the health check.
            AlreadyExistsError: An instance with the id stands at another address.
            ResourceExhaustedError: There are as many instances as there may be.
            UnavailableError: The store takes nothing now, or the hub shuts down.

        Cancelling it does not take the registration back.
        """

    @abstractmethod
    async def keep_alive(
        self, key: Key, load: float | None, principal: Principal = ANONYMOUS
    ) -> Lease:
        """Holds the lease of an instance; the caller lets it go.

        Args:
            key: The instance.
            load: What it reports; None: nothing.
            principal: Who holds it.

        Raises:
            InvalidArgumentError: The service has no possible name.
            PermissionDeniedError: The caller may not.
            NotFoundError: There is no such instance.
            UnavailableError: It cannot be held now, or the hub shuts down.
        """

    @abstractmethod
    def let_go(self, lease: Lease, *, broken: bool) -> None:
        """Ends the hold on a lease.

        Args:
            lease: What `keep_alive` returned.
            broken: Whether the stream broke, so that the instance is removed; else its lease runs
                on.
        """

    @abstractmethod
    async def deregister(self, key: Key, principal: Principal = ANONYMOUS) -> int:
        """Removes an instance.

        Returns:
            The revision without it, when that is durable.

        Raises:
            InvalidArgumentError: The service has no possible name.
            PermissionDeniedError: The caller may not.
            NotFoundError: There is none.
            UnavailableError: The store takes nothing now, or the hub shuts down.
        """

    @abstractmethod
    async def set_status(
        self, key: Key, status: Status | None, reason: str, principal: Principal = ANONYMOUS
    ) -> Entry:
        """Sets whether an instance wants calls.

        Args:
            key: The instance.
            status: DRAINING or NOT_SERVING; None: its health check decides again.
            reason: Why, for people.
            principal: Who says so.

        Returns:
            The instance, when this is durable.

        Raises:
            InvalidArgumentError: The reason is too long, or the service has no possible name.
            PermissionDeniedError: The caller may not.
            NotFoundError: There is none.
            UnavailableError: The store takes nothing now, or the hub shuts down.
        """

    # --- who looks -------------------------------------------------------------------------------

    @abstractmethod
    def admit_readers(self) -> None:
        """Checks that what is asked can be answered.

        Raises:
            UnavailableError: It is not known yet who is registered.
        """

    def discover(self, wish: Selection, principal: Principal = ANONYMOUS) -> Discovered:
        """Picks instances to call.

        Args:
            wish: Which.
            principal: Who asks.

        Raises:
            InvalidArgumentError: The wish is not allowed.
            PermissionDeniedError: The caller may not see the service.
            NotFoundError: The service has no instance.
            UnavailableError: None of them serves and matches, or it is not known yet who is
                registered.
        """
        self.admit_readers()
        principal.require("services.view", wish.service)
        return self._discovery.discover(wish)

    def list_services(
        self,
        query: ServicesQuery,
        measure: Callable[[Entry], int],
        principal: Principal = ANONYMOUS,
    ) -> ServicesPage:
        """Reads a page of the services; see `overview.list_services`.

        Args:
            query: Which.
            measure: How many bytes an instance takes in the answer.
            principal: Who asks.

        Raises:
            InvalidArgumentError: The page size or the token is not allowed.
            PermissionDeniedError: The caller may see none.
            UnavailableError: It is not known yet who is registered.
        """
        self.admit_readers()
        principal.require("services.view")
        return list_services(self._roster, query, principal.scopes["services.view"], measure)

    def service(self, name: str) -> tuple[int, list[Instance]]:
        """The instances of a service, of every status.

        Returns:
            The revision at which one of them last changed, and all of them; 0 and none where the
            service is not there.
        """
        service = self._roster.services.get(name)
        if service is None:
            return 0, []
        return service.version, [entry.instance for entry in service.entries.values()]

    def service_names(self) -> Collection[str]:
        """The services that have an instance."""
        return self._roster.services.keys()

    def draining(self, name: str) -> bool:
        """Whether an instance finishes what it has and wants nothing new.

        Args:
            name: The instance as "service_name/instance_id"; one that is not there does not drain.
        """
        service, _, instance = name.partition("/")
        entry = self._roster.find(Key(service, instance))
        return entry is not None and entry.instance.status is Status.DRAINING

    # --- who follows -----------------------------------------------------------------------------

    def watch(
        self,
        patterns: Sequence[str],
        *,
        after: int = 0,
        all_statuses: bool = False,
        heartbeat: float = DEFAULT_HEARTBEAT,
        principal: Principal = ANONYMOUS,
    ) -> Watcher:
        """Follows the instances of services; the caller closes it.

        Args:
            patterns: The services: exact, or a prefix that ends in "*"; none: all.
            after: Revision to go on after; 0: begin with a snapshot.
            all_statuses: Whether to show instances of every status.
            heartbeat: Seconds of silence after which to say that the stream lives.
            principal: Who watches.

        Raises:
            InvalidArgumentError: A pattern or the heartbeat is not allowed.
            PermissionDeniedError: The caller may not see a service.
            ResourceExhaustedError: There are as many watchers as there may be.
            UnavailableError: The hub shuts down, or it is not known yet who is registered.
        """
        self.admit_readers()
        check_heartbeat(heartbeat)
        check_patterns(patterns)
        if patterns or principal.scoped("services.view"):
            for pattern in patterns or ("*",):
                principal.require("services.view", pattern)
        self._admit()
        limit = self._limits.max_watchers
        if len(self._watchers) >= limit:
            setting = "SWITCHBOARD_MAX_WATCHERS"
            problem = f"there are {limit} watchers already; raise {setting}"
            raise limit_reached(problem, limit, setting)
        return Watcher(
            self._watchers,
            tuple(dict.fromkeys(patterns)) or ("*",),
            after=after,
            all_statuses=all_statuses,
            heartbeat=heartbeat,
        )

    def told(self, changes: Sequence[Change]) -> None:
        """Takes notice that a watcher was handed changes, to measure how long that took."""
        if changes:
            self._propagation.observe(self._loop.time() - changes[0].at)

    def on_draining(self, listener: Callable[[str, bool], None]) -> Callable[[], None]:
        """Has a listener told when an instance begins to drain, or does not any more.

        Args:
            listener: Is called with "service_name/instance_id" and whether it drains; must neither
                block nor raise.

        Returns:
            Takes the listener away again.
        """
        self._drain_listeners[listener] = None
        return lambda: self._drain_listeners.pop(listener, None)

    def on_change(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Has a listener told of every change as it happens.

        Args:
            listener: Must neither block nor raise.

        Returns:
            Takes the listener away again.
        """
        self._listeners[listener] = None
        return lambda: self._listeners.pop(listener, None)

    # --- what differs ----------------------------------------------------------------------------

    @abstractmethod
    def _checks(self, entry: Entry) -> bool:
        """Whether this hub checks an instance."""

    @abstractmethod
    def _writable(self) -> bool:
        """Whether anything can be changed."""

    @abstractmethod
    def _found(self, entry: Entry, verdict: Verdict) -> None:
        """Takes what a check has found."""

    # --- inside ----------------------------------------------------------------------------------

    def _admit(self) -> None:
        if self._closing is not None:
            raise UnavailableError(self._closing.reason, self._closing.message)

    def _may_remove(self, key: Key, principal: Principal) -> None:
        check_service_name("service_name", key.service)
        principal.require("services.unregister", key.service)
        self._admit()

    def _may_hold(self, key: Key, principal: Principal) -> None:
        check_service_name("service_name", key.service)
        principal.require("services.register", key.service)
        self._admit()

    def _may_declare(self, key: Key, reason: str, principal: Principal) -> None:
        check_service_name("service_name", key.service)
        principal.require("services.register", key.service)
        if len(reason) > MAX_REASON:
            raise too_large("reason", len(reason), MAX_REASON, "characters")
        self._admit()

    async def _end_streams(self) -> None:
        """Begins the shutdown: nothing is taken any more, and streams end."""
        self._closing = shutting_down()
        for stream in (*self._leases, *self._watchers):
            stream.end(self._closing)
        if self._announcer is not None:
            await self._announcer.settle(SETTLE_SECONDS)

    def _tell(self, change: Change, entry: Entry) -> None:
        """Tells of a change all who are here."""
        self._changes += 1
        if change.cause is not None:
            self._removed[change.cause] += 1
        self._watchers.changed(change)
        if self._announcer is not None:
            self._announcer.wake()
        self._tell_followers(change, entry)

    def _tell_followers(self, change: Change, entry: Entry) -> None:
        """Tells of a change whoever goes by how things are, and not by revisions."""
        if isinstance(entry.holder, Lease):
            if change.cause is None:
                entry.holder.changed()
            else:
                entry.holder.end(no_instance(change.key))
        for follower in list(self._listeners):
            follower(change)
        drained = change.previous is Status.DRAINING
        drains = change.cause is None and change.instance.status is Status.DRAINING
        if drained is not drains:
            for listener in list(self._drain_listeners):
                listener(str(change.key), drains)


def declared_as(status: Status | None, reason: str) -> Declared | None:
    """What SetStatus says."""
    return None if status is None else Declared(status, reason)


def taken_over(key: Key) -> AbortedError:
    """The error for a stream whose instance another one keeps."""
    return AbortedError("LEASE_TAKEN_OVER", f"another stream keeps {key} now")

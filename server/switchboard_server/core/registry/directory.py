"""Who is registered and who serves: a state machine, to which the time is passed in."""

import heapq
import math
from collections.abc import Callable, Iterable
from itertools import count

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import (
    AlreadyExistsError,
    ResourceExhaustedError,
    limit_reached,
)
from switchboard_server.core.registry.entries import Declared, Entry, Verdict
from switchboard_server.core.registry.model import (
    Change,
    Instance,
    Key,
    Moment,
    Registration,
    RemovalCause,
    Status,
)
from switchboard_server.core.registry.preservation import Preservation
from switchboard_server.core.registry.roster import Roster
from switchboard_server.core.registry.targets import target_of

BROKEN_SECONDS = 0.5
"""How long an instance outlives the break of its KeepAlive stream: long enough to see whether
others break with it, and within the second that is promised."""
RETRY_SECONDS = 1.0
"""How often it is looked again whether withheld instances may go."""
SETTING_MAX_INSTANCES = "SWITCHBOARD_MAX_INSTANCES"


class Directory(Roster):
    """Instances with their leases and statuses.

    Args:
        changed: Is told of each change as it happens; must not call back.
        reap_after: Seconds after which an unhealthy instance is removed.
        interval: Seconds within which evictions are counted for self-preservation.
        max_instances: Most instances that may be registered.
        revision: Revision to go on from.

    Attributes:
        preservation: Tells whether too many run out at once.
    """

    def __init__(
        self,
        changed: Callable[[Change, Entry], None],
        *,
        reap_after: float = 30.0,
        interval: float = 10.0,
        max_instances: int = 100_000,
        revision: int = 0,
    ) -> None:
        super().__init__(revision)
        self._changed = changed
        self._reap_after = reap_after
        self._max_instances = max_instances
        self._heap: list[tuple[float, int, Entry]] = []
        self._numbers = count()
        self._overdue: dict[Entry, None] = {}
        self.preservation = Preservation(interval)

    @property
    def preserving_since_ns(self) -> int:
        """See `Roster.preserving_since_ns`."""
        return self.preservation.since_ns if self.preservation.active and self._overdue else 0

    @property
    def withheld(self) -> int:
        """See `Roster.withheld`."""
        return len(self._overdue)

    def check_conflict(self, spec: Registration, now: Moment) -> None:
        """Checks that a registration may take its place.

        Raises:
            AlreadyExistsError: An instance with its id stands at another address.
            ResourceExhaustedError: There are as many instances as there may be.
        """
        entry = self.find(spec.key)
        if entry is None:
            if self.size >= self._max_instances:
                raise too_many(self._max_instances)
            return
        if self._stands(entry, now) and entry.instance.spec.address != spec.address:
            raise conflict(spec.key, entry.instance.spec.address)

    def put(self, spec: Registration, registrant: str, now: Moment) -> tuple[Entry, bool]:
        """Registers an instance, or renews its registration.

        Args:
            spec: With defaults filled in.
            registrant: Subject of the caller.
            now: The time.

        Returns:
            The instance, and whether it was not there before.

        Raises:
            AlreadyExistsError: See `check_conflict`; so does ResourceExhaustedError.
        """
        self.check_conflict(spec, now)
        entry = self.find(spec.key)
        if entry is None:
            entry = Entry(spec, now)
            self._add(entry, spec)
            self._show(entry, now, spec, registrant)
            return entry, True
        before = entry.instance.spec
        same = before == spec and entry.instance.registrant == registrant
        moved = before.address != spec.address
        if moved or before.check != spec.check or target_of(spec) != entry.target:
            entry.begin_checks(spec)
        if moved:
            entry.holder = entry.load = None
        entry.renew(spec, now)
        self._confirm(entry)
        self._show(entry, now, None if same else spec, registrant)
        self._arm(entry)
        return entry, False

    def restore(
        self, instances: Iterable[tuple[Instance, Declared | None, bool]], now: Moment
    ) -> None:
        """Takes up instances as they were before a restart; their time begins anew.

        Args:
            instances: Each as others saw it, what SetStatus said of it, and whether it has a lease.
            now: The time.
        """
        for instance, declared, leased in instances:
            entry = Entry(instance.spec, now)
            entry.instance = instance
            entry.declared = declared
            entry.leased = leased or entry.leased
            entry.unconfirmed = True
            if declared is None:
                entry.checked = Verdict(instance.status, instance.status_reason)
            if instance.status is Status.UNHEALTHY:
                entry.unhealthy_until = now.seconds + self._reap_after
            self._add(entry, instance.spec)
            self._arm(entry)

    def remove(self, entry: Entry, cause: RemovalCause, now: Moment) -> Change:
        """Removes an instance that is there."""
        instance = entry.instance
        service = self._take_out(instance.key)
        self._overdue.pop(entry, None)
        entry.generation += 1
        entry.armed = -math.inf  # The heap may still hold it: nothing is due any more.
        self.revision += 1
        service.version = self.revision
        change = Change(self.revision, instance, entry.vital, instance.status, cause, now.seconds)
        self._changed(change, entry)
        return change

    def hold(self, entry: Entry, holder: object, now: Moment) -> None:
        """Lets a stream hold the lease from now on."""
        entry.holder = holder
        entry.leased = True
        self.renew(entry, now)
        self._arm(entry)

    def renew(self, entry: Entry, now: Moment, load: float | None = None) -> None:
        """Takes a sign of life.

        Args:
            entry: The instance.
            now: The time.
            load: What it reports; None: as it was.
        """
        entry.renew(entry.instance.spec, now)
        if load is not None:
            entry.load = load
        self._confirm(entry)

    def release(self, entry: Entry) -> None:
        """Lets the lease run on without the stream that held it."""
        entry.holder = None
        self._arm(entry)

    def lose(self, entry: Entry, now: Moment) -> None:
        """Takes notice that the stream that held the lease has broken."""
        entry.holder = None
        if entry.lease_until > now.seconds + BROKEN_SECONDS:
            entry.lease_until = now.seconds + BROKEN_SECONDS
            entry.lease_expire_ns = now.wall_ns + round(BROKEN_SECONDS * SECOND_NS)
        self._arm(entry)

    def declare(self, entry: Entry, declared: Declared | None, now: Moment) -> None:
        """Sets what SetStatus says; None: the check decides again."""
        if entry.declared != declared:
            same_status = entry.instance.status is (declared or entry.checked).status
            entry.declared = declared
            self._show(entry, now, entry.instance.spec if same_status else None)

    def judge(self, entry: Entry, verdict: Verdict, now: Moment) -> None:
        """Takes in what a check has found."""
        entry.judge(verdict)
        self._show(entry, now)
        if entry.deadline > now.seconds:
            self._withdraw(entry)
        known = verdict.status is not Status.UNHEALTHY or entry.checked.status is Status.UNHEALTHY
        if known and entry not in self._overdue:
            # A check does not bring back a lease that has run out.
            entry.unconfirmed = False

    def next_deadline(self, now: Moment) -> float:
        """When `expire` has something to do, monotonic seconds; infinite: never."""
        due = self._heap[0][0] if self._heap else math.inf
        return min(due, now.seconds + RETRY_SECONDS) if self._overdue else due

    def forgive(self, seconds: float) -> None:
        """Moves every deadline, because the hub itself was away for so long."""
        for entry in self:
            entry.postpone(seconds)

    def expire(self, now: Moment) -> None:
        """Removes what has run out, unless that is too much at once."""
        while self._heap and self._heap[0][0] <= now.seconds:
            armed, _, entry = heapq.heappop(self._heap)
            if armed != entry.armed:
                continue  # Removed, or armed for an earlier moment since.
            entry.armed = math.inf
            if entry.deadline <= now.seconds:
                self._overdue[entry] = None
            else:
                self._arm(entry)
        for entry in [each for each in self._overdue if each.deadline > now.seconds]:
            self._withdraw(entry)
        overdue = len(self._overdue)
        if self.preservation.withholds(overdue, self.size, now.seconds, now.wall_ns):
            for entry in self._overdue:
                entry.unconfirmed = True
            return
        for entry in list(self._overdue):
            expired = entry.leased and entry.lease_until <= now.seconds
            cause = RemovalCause.LEASE_EXPIRED if expired else RemovalCause.UNHEALTHY
            self.preservation.evicted(now.seconds)
            self.remove(entry, cause, now)

    def _stands(self, entry: Entry, now: Moment) -> bool:
        gone = entry.instance.status is Status.UNHEALTHY or entry.deadline <= now.seconds
        return not gone

    def _confirm(self, entry: Entry) -> None:
        """Takes notice that the instance was heard of."""
        entry.unconfirmed = False
        self._withdraw(entry)

    def _withdraw(self, entry: Entry) -> None:
        if entry in self._overdue:
            del self._overdue[entry]
            self._arm(entry)

    def _show(
        self,
        entry: Entry,
        now: Moment,
        spec: Registration | None = None,
        registrant: str | None = None,
    ) -> None:
        """Makes a change of what has changed for others.

        Args:
            entry: The instance.
            now: The time.
            spec: What it registered, where a change is to be made in any case; None: only where
                the status is another.
            registrant: Who registered it; None: as it was.
        """
        shown = entry.shown
        old: Instance | None = getattr(entry, "instance", None)
        turned = old is None or old.status is not shown.status
        if spec is None and not turned:
            return
        self.revision += 1
        entry.instance = Instance(
            spec or entry.instance.spec,
            shown.status,
            shown.reason,
            now.wall_ns if turned or old is None else old.status_time_ns,
            now.wall_ns if old is None else old.register_time_ns,
            registrant if registrant is not None else entry.instance.registrant,
            self.revision,
        )
        if turned:
            unhealthy = shown.status is Status.UNHEALTHY
            entry.unhealthy_until = now.seconds + self._reap_after if unhealthy else math.inf
        self._arm(entry)
        self.services[entry.instance.spec.service].version = self.revision
        previous = None if old is None else old.status
        self._changed(
            Change(self.revision, entry.instance, entry.vital, previous, None, now.seconds),
            entry,
        )

    def _arm(self, entry: Entry) -> None:
        """Sees to it that the instance is looked at when it runs out."""
        if entry.deadline < entry.armed and entry not in self._overdue:
            entry.armed = entry.deadline
            heapq.heappush(self._heap, (entry.armed, next(self._numbers), entry))


def conflict(key: Key, address: str) -> AlreadyExistsError:
    """The error for an instance whose id stands at another address."""
    return AlreadyExistsError(
        "INSTANCE_CONFLICT",
        f"{key} is registered at {address}; deregister it there, "
        "or register with another instance_id",
        metadata={"address": address},
    )


def too_many(limit: int) -> ResourceExhaustedError:
    """The error for one instance more than there may be."""
    problem = f"there are {limit} instances already; raise {SETTING_MAX_INSTANCES}"
    return limit_reached(problem, limit, SETTING_MAX_INSTANCES)

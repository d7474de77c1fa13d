"""One registered instance as the directory keeps it, with what changes about it all the time."""

import math
from dataclasses import dataclass

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.registry.model import (
    Instance,
    Moment,
    Registration,
    Status,
    Vital,
)
from switchboard_server.core.registry.targets import Target, target_of

REGISTERED = "registered"
"""Status reason of an instance that nothing checks."""
UNCHECKED = "no check has passed yet"
"""Status reason of an instance whose checks have only begun."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What SetStatus said: draining or not serving, and why."""

    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found.

    Args:
        status: SERVING where it passed, NOT_SERVING where the instance says so itself, UNHEALTHY
            where it failed.
        reason: What happened, for people.
    """

    status: Status
    reason: str


class Entry:
    """A registered instance. Only the directory changes it.

    Args:
        spec: What it registered.
        now: The time.

    Attributes:
        instance: As others see it.
        declared: What SetStatus said; None: nothing, so the check decides.
        checked: What the check says.
        holder: The KeepAlive stream that holds the lease; None: none does.
        leased: Whether it goes when its lease ends; else its check alone decides.
        lease_until: When the lease ends, monotonic seconds.
        lease_expire_ns: The same by the wall clock, Unix nanoseconds.
        unhealthy_until: When it is removed for being unhealthy, monotonic seconds.
        armed: The earliest moment at which the directory looks at it.
        load: What it last reported.
        unconfirmed: See `Vital`.
        encoded: What the wire made of it the last time, and of what.
        generation: Grows when the check begins anew, so that a verdict of before is known as such.
    """

    __slots__ = (
        "armed",
        "checked",
        "declared",
        "encoded",
        "failures",
        "generation",
        "holder",
        "instance",
        "lease_expire_ns",
        "lease_until",
        "leased",
        "load",
        "passes",
        "target",
        "unconfirmed",
        "unhealthy_until",
    )

    instance: Instance

    def __init__(self, spec: Registration, now: Moment) -> None:
        self.declared: Declared | None = None
        self.holder: object | None = None
        self.leased = False
        self.load: float | None = None
        self.unconfirmed = False
        self.generation = 0
        self.armed = math.inf
        self.unhealthy_until = math.inf
        self.encoded: tuple[Instance, Vital, bytes] | None = None
        self.begin_checks(spec)
        self.renew(spec, now)

    def begin_checks(self, spec: Registration) -> None:
        """Forgets what checks have found."""
        self.target: Target | None = target_of(spec)
        self.generation += 1
        self.passes = self.failures = 0
        self.checked = (
            Verdict(Status.SERVING, REGISTERED)
            if self.target is None
            else Verdict(Status.STARTING, UNCHECKED)
        )

    def renew(self, spec: Registration, now: Moment) -> None:
        """Counts the lease from now on, by what a registration says of it."""
        self.lease_until = now.seconds + spec.lease_ns / SECOND_NS
        self.lease_expire_ns = now.wall_ns + spec.lease_ns
        if self.holder is None:
            self.leased = self.target is None

    def weigh(self, verdict: Verdict) -> bool:
        """Counts what a check found.

        Returns:
            Whether it was found often enough for the status to follow.
        """
        check = self.instance.spec.check
        if verdict.status is Status.UNHEALTHY:
            self.passes = 0
            self.failures += 1
            return self.failures >= check.unhealthy_threshold
        self.failures = 0
        self.passes = self.passes + 1 if verdict.status is Status.SERVING else 0
        return verdict.status is Status.NOT_SERVING or self.passes >= check.healthy_threshold

    def judge(self, verdict: Verdict) -> None:
        """Takes in what a check found; the status follows when it was found often enough."""
        if self.weigh(verdict) and verdict.status is not self.checked.status:
            self.checked = verdict

    @property
    def key(self) -> tuple[str, str]:
        """Service and id."""
        return self.instance.spec.key

    @property
    def shown(self) -> Declared | Verdict:
        """Status and reason as others are to see them."""
        return self.declared or self.checked

    @property
    def deadline(self) -> float:
        """When it is removed unless something happens, monotonic seconds."""
        return min(self.lease_until, self.unhealthy_until) if self.leased else self.unhealthy_until

    @property
    def vital(self) -> Vital:
        """What changes without a revision, as it is now."""
        expires = self.lease_expire_ns if self.leased and self.holder is None else None
        return Vital(self.load, self.unconfirmed, expires)

    def postpone(self, seconds: float) -> None:
        """Moves its deadlines to a later moment."""
        self.lease_until += seconds
        self.lease_expire_ns += round(seconds * SECOND_NS)
        self.unhealthy_until += seconds

"""What the members of a group agree on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import FailedPreconditionError, invalid_field, too_large
from switchboard_server.core.filters import MAX_NAME, Filter, has_control

MAX_MEMBER_CREDIT = 10_000
"""Most deliveries that a member may hold."""
DEFAULT_CREDIT = 64
"""Deliveries that a member holds at most, unless it says otherwise."""
ACK_DEADLINE_BOUNDS_NS = (SECOND_NS, 12 * 3600 * SECOND_NS)
"""How long a member may hold a delivery, in nanoseconds."""
MAX_ATTEMPTS = 100
"""Most deliveries of one event."""
MAX_MIN_BACKOFF_NS = 3600 * SECOND_NS
"""Longest wait before the second delivery, in nanoseconds."""
MAX_BACKOFF_NS = 24 * 3600 * SECOND_NS
"""Longest wait before any delivery, in nanoseconds."""


class Mode(Enum):
    """How the members of a group share events; the value is the enum value's in the proto."""

    QUEUE = 2
    KEY_SHARED = 3


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a group tries again what was not acknowledged.

    Args:
        max_attempts: Deliveries of one event in all.
        min_backoff_ns: Wait before the second delivery, in nanoseconds.
        max_backoff_ns: The longest wait, in nanoseconds.
    """

    max_attempts: int = 5
    min_backoff_ns: int = SECOND_NS
    max_backoff_ns: int = 60 * SECOND_NS

    def backoff_ns(self, attempts: int, chance: float) -> int:
        """How long to wait before the next delivery.

        Args:
            attempts: How often the event has been delivered, at least once.
            chance: A random number from 0 up to 1.
        """
        wait = min(self.min_backoff_ns << min(attempts - 1, 64), self.max_backoff_ns)
        return min(int(wait * (0.75 + 0.5 * chance)), self.max_backoff_ns)


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """What the first member of a group asked for, and all others have to ask for as well.

    Args:
        filter: The events that the group receives.
        mode: How its members share them.
        ack_deadline_ns: How long a member may hold a delivery, in nanoseconds.
        retry: How it tries again what was not acknowledged.
    """

    filter: Filter = field(default_factory=Filter)
    mode: Mode = Mode.QUEUE
    ack_deadline_ns: int = 30 * SECOND_NS
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def facts(self) -> dict[str, object]:
        """Every field by its path in the proto's `Group`."""
        wish = {
            f"filter.{each.name}": getattr(self.filter, each.name)
            for each in fields(self.filter)
            if each.name != "key"
        }
        return wish | {
            "mode": self.mode.name,
            "ack_deadline": _seconds(self.ack_deadline_ns),
            "retry_policy.max_attempts": self.retry.max_attempts,
            "retry_policy.min_backoff": _seconds(self.retry.min_backoff_ns),
            "retry_policy.max_backoff": _seconds(self.retry.max_backoff_ns),
        }


def validate_name(name: str) -> None:
    """Checks the name of a group.

    Raises:
        InvalidArgumentError: It is none.
    """
    if not name:
        raise invalid_field("group", "is required: the consumer group", reason="FIELD_MISSING")
    if len(name) > MAX_NAME:
        raise too_large("group", len(name), MAX_NAME, "characters")
    if has_control(name):
        raise invalid_field("group", f"{name[:40]!r} has a control character; leave it out")


def validate(config: GroupConfig, max_in_flight: int) -> None:
    """Checks what a member asks for; the filter is checked elsewhere.

    Args:
        config: What it wants of the group.
        max_in_flight: How many deliveries it wants to hold.

    Raises:
        InvalidArgumentError: Names the first field that is not allowed.
    """
    if not 1 <= max_in_flight <= MAX_MEMBER_CREDIT:
        raise invalid_field(
            "max_in_flight", f"must be 1 to {MAX_MEMBER_CREDIT}, or 0 for {DEFAULT_CREDIT}"
        )
    low, high = ACK_DEADLINE_BOUNDS_NS
    if not low <= config.ack_deadline_ns <= high:
        raise invalid_field("ack_deadline", "must be 1 second to 12 hours")
    retry = config.retry
    if not 1 <= retry.max_attempts <= MAX_ATTEMPTS:
        raise invalid_field("retry_policy.max_attempts", f"must be 1 to {MAX_ATTEMPTS}, or 0 for 5")
    if not 0 <= retry.min_backoff_ns <= MAX_MIN_BACKOFF_NS:
        raise invalid_field("retry_policy.min_backoff", "must be 0 to 1 hour")
    if not retry.min_backoff_ns <= retry.max_backoff_ns <= MAX_BACKOFF_NS:
        raise invalid_field(
            "retry_policy.max_backoff", "must be at least min_backoff, at most 24 hours"
        )


def validate_instance(instance: str) -> None:
    """Checks the registered instance that a member says it is; empty: none.

    Raises:
        InvalidArgumentError: It names none.
    """
    service, slash, name = instance.partition("/")
    if not instance:
        return
    if not (service and slash and name) or "/" in name or has_control(instance):
        raise invalid_field(
            "instance", f"{instance[:80]!r} is not of the form 'service_name/instance_id'"
        )
    longest = max(len(service), len(name))
    if longest > MAX_NAME:
        raise too_large("instance", longest, MAX_NAME, "characters in a name")


def check_same(name: str, group: GroupConfig, member: GroupConfig) -> None:
    """Checks that a member wants of a group what the group is.

    Raises:
        FailedPreconditionError: It does not; the metadata has an entry for each difference.
    """
    if group == member:
        return
    theirs, yours = group.facts(), member.facts()
    differences = {
        path: f"{_shown(theirs[path])} / {_shown(yours[path])}"
        for path in theirs
        if theirs[path] != yours[path]
    }
    told = "; ".join(f"{path}: {values}" for path, values in differences.items())
    raise FailedPreconditionError(
        "GROUP_MISMATCH",
        f"the group {name!r} differs from what is asked for (group's / yours): {told}; "
        "ask for the same, use another group, or delete this one",
        metadata=differences,
    )


def _seconds(duration_ns: int) -> str:
    """Exact, so that durations that differ look different."""
    whole, rest = divmod(duration_ns, SECOND_NS)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".") + "s"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "(any)"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={each}" for key, each in sorted(value.items())) or "(any)"
    return str(value)

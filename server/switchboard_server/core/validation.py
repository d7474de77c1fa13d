"""What an event must be like to be taken, whichever door it comes through."""

from collections.abc import Mapping
from functools import lru_cache

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import InvalidArgumentError, Violation, invalid_field, too_large
from switchboard_server.core.filters import MAX_NAME, Route, attribute_problem, has_control
from switchboard_server.core.records import Extra

MAX_ATTRIBUTES = 64
"""Most attributes of an event."""
MAX_DELIVER_AHEAD_NS = 366 * 24 * 3600 * SECOND_NS
"""How far ahead `deliver_at` may lie, in nanoseconds."""
PRIORITIES = (1, 2, 3, 4)
"""Low, normal, high, critical."""
NORMAL_PRIORITY = 2
"""What an event has that names no priority."""
HUB_SOURCE = "switchboard"
"""`source_service` of the hub's own events."""

RESERVED_SOURCE = invalid_field(
    "source_service",
    f"{HUB_SOURCE!r} is the hub's own, who publishes its events; name the service that publishes",
)
"""Why nobody else may say that an event is the hub's."""


def route_problem(route: Route) -> InvalidArgumentError | None:
    """Why a route is not allowed; None: it is."""
    if oversized(route):
        # Not to be remembered: names of megabytes would fill the memory.
        return _route_problem.__wrapped__(route)
    return _route_problem(route)


def oversized(route: Route) -> bool:
    """Whether a route has a name that is longer than any may be."""
    return max(len(route.type), len(route.source_service), len(route.target_service)) > MAX_NAME


@lru_cache(maxsize=4096)
def _route_problem(route: Route) -> InvalidArgumentError | None:
    if not route.type:
        return invalid_field("type", "is required, such as 'order.created'", reason="FIELD_MISSING")
    if not route.source_service:
        return invalid_field(
            "source_service",
            "is required: the name of the service that publishes",
            reason="FIELD_MISSING",
        )
    for name in ("type", "source_service", "target_service"):
        value: str = getattr(route, name)
        if len(value) > MAX_NAME:
            return _too_long(name, value)
        if "*" in value or has_control(value):
            return invalid_field(
                name, f"{value[:40]!r} has a '*' or a control character; leave them out"
            )
    if route.priority not in PRIORITIES:
        return invalid_field(
            "priority", f"{route.priority} is unknown; 1 (low) to 4 (critical), or 0 for normal"
        )
    return None


def name_problem(field: str, value: str) -> InvalidArgumentError | None:
    """Why an id or a key is not allowed; None: it is."""
    if len(value) > MAX_NAME:
        return _too_long(field, value)
    return None


def extra_problem(extra: Extra, now_ns: int) -> InvalidArgumentError | None:
    """Why the rarer fields of an event are not allowed; None: they are.

    Args:
        extra: The fields.
        now_ns: The time, Unix nanoseconds.
    """
    if extra.ttl_ns < 0:
        return invalid_field("ttl", "is negative; leave it out, or make it positive")
    if extra.deliver_at_ns > now_ns + MAX_DELIVER_AHEAD_NS:
        return invalid_field("deliver_at", "is more than 366 days ahead")
    return name_problem("ordering_key", extra.ordering_key) or _attributes_problem(extra.attributes)


def size_problem(size: int, limit: int) -> InvalidArgumentError | None:
    """Why an event is too large; None: it is not.

    Args:
        size: The event's encoded bytes.
        limit: How many are allowed.
    """
    if size <= limit:
        return None
    problem = (
        f"the event has {size} bytes, at most {limit} are allowed (SWITCHBOARD_MAX_EVENT_BYTES); "
        "store the content elsewhere and publish a reference"
    )
    return InvalidArgumentError(
        "TOO_LARGE",
        problem,
        violations=[Violation("", problem)],
        metadata={"limit": str(limit), "actual": str(size)},
    )


def _attributes_problem(attributes: Mapping[str, str]) -> InvalidArgumentError | None:
    if len(attributes) > MAX_ATTRIBUTES:
        return too_large("attributes", len(attributes), MAX_ATTRIBUTES, "entries")
    for key, value in attributes.items():
        if problem := attribute_problem(key, value):
            return invalid_field("attributes", problem)
    return None


def _too_long(field: str, value: str) -> InvalidArgumentError:
    return too_large(field, len(value), MAX_NAME, "characters")

"""Which events a subscription wants."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from switchboard_server.core.errors import InvalidArgumentError, Violation, too_large

MAX_NAME = 255
"""Longest type, service name, key or id, in characters."""
MAX_ATTRIBUTE_KEY = 128
"""Longest attribute key, in characters."""
MAX_ATTRIBUTE_VALUE = 1024
"""Longest attribute value, in characters."""
MAX_TOLD = 10
"""Most entries of a filter that an error names, so that it fits into gRPC's metadata."""
MAX_FILTER_ENTRIES = 256
"""Most entries of a filter, all its fields together."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def has_control(text: str) -> bool:
    """Whether a text has control characters, which names must not have."""
    return _CONTROL.search(text) is not None


def covers(pattern: str, name: str) -> bool:
    """Whether a pattern matches everything that a name, or another pattern, stands for.

    Args:
        pattern: An exact name, or a prefix that ends in "*".
        name: An exact name, or a prefix that ends in "*".
    """
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1])
    return name == pattern


class Route(NamedTuple):
    """The part of an event that decides who gets it, shared by all that have it in common."""

    type: str
    source_service: str
    target_service: str
    priority: int


@dataclass(frozen=True, slots=True)
class Filter:
    """A subscriber's wish.

    Fields are AND, entries of a field OR, an empty field matches everything.

    Two filters that want the same are equal, however their entries were ordered, so that their
    subscribers can share encoded batches.
    """

    types: tuple[str, ...] = ()
    source_services: tuple[str, ...] = ()
    target_services: tuple[str, ...] = ()
    min_priority: int = 0
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    key: tuple[object, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sorts the entries and derives the key by which equal filters are found."""
        for name in ("types", "source_services", "target_services"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))
        key = (
            self.types,
            self.source_services,
            self.target_services,
            self.min_priority,
            tuple(sorted(self.attributes.items())),
        )
        object.__setattr__(self, "key", key)

    def __hash__(self) -> int:
        """Hashes by what is wanted."""
        return hash(self.key)

    def matches_route(self, route: Route) -> bool:
        """Whether everything but the attributes matches."""
        return (
            route.priority >= self.min_priority
            and _matches(self.types, route.type)
            and _matches(self.source_services, route.source_service)
            and _matches(self.target_services, route.target_service)
        )

    def matches_attributes(self, attributes: Mapping[str, str]) -> bool:
        """Whether an event's attributes include all that are wanted."""
        return all(attributes.get(name) == value for name, value in self.attributes.items())


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return not patterns or any(covers(pattern, name) for pattern in patterns)


EVERYTHING = Filter()
"""The filter that matches every event."""


def validate(wish: Filter, path: str = "filter") -> None:
    """Checks a filter that came from outside.

    Args:
        wish: The filter.
        path: Where it stands in the request, for the error.

    Raises:
        InvalidArgumentError: Names the entries that are not allowed, the first ten at most.
    """
    lists = {
        "types": wish.types,
        "source_services": wish.source_services,
        "target_services": wish.target_services,
    }
    check_entries(sum(map(len, lists.values())) + len(wish.attributes), path)
    violations = [
        Violation(f"{path}.{name}", problem)
        for name, patterns in lists.items()
        for pattern in patterns
        if (problem := _pattern_problem(pattern))
    ]
    violations += [
        Violation(f"{path}.attributes", problem)
        for key, value in wish.attributes.items()
        if (problem := attribute_problem(key, value))
    ]
    if violations := violations[:MAX_TOLD]:
        raise InvalidArgumentError(
            "INVALID_FIELD",
            "; ".join(f"{each.field}: {each.description}" for each in violations),
            violations=violations,
        )


def check_entries(entries: int, path: str = "filter") -> None:
    """Checks how large a filter is; for doors, before they make one.

    Args:
        entries: How many entries it has, all its fields together and repeated ones included.
        path: Where it stands in the request, for the error.

    Raises:
        InvalidArgumentError: It has too many.
    """
    if entries > MAX_FILTER_ENTRIES:
        advice = "use a prefix such as 'order.*', or several subscriptions"
        raise too_large(path, entries, MAX_FILTER_ENTRIES, "entries", advice)


def attribute_problem(key: str, value: str) -> str | None:
    """Why an attribute is not allowed, of an event or in a filter; None: it is."""
    if not 0 < len(key) <= MAX_ATTRIBUTE_KEY:
        return f"the key {key[:40]!r} must have 1 to {MAX_ATTRIBUTE_KEY} characters"
    if len(value) > MAX_ATTRIBUTE_VALUE:
        return (
            f"the value of {key[:40]!r} has {len(value)} characters, "
            f"at most {MAX_ATTRIBUTE_VALUE} are allowed"
        )
    return None


def _pattern_problem(pattern: str) -> str | None:
    if not pattern:
        return "an entry is empty; leave the list empty to match everything"
    if len(pattern) > MAX_NAME:
        return f"{pattern[:20]!r}… has {len(pattern)} characters, at most {MAX_NAME} are allowed"
    if "*" in pattern[:-1]:
        return f"{pattern!r} has a '*' before its end; only a prefix such as 'order.*' is possible"
    return None

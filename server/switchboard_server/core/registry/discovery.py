"""Discover: who of a service's instances can be called, and which of them to call."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from switchboard_server.core.errors import NotFoundError, UnavailableError, invalid_field, too_large
from switchboard_server.core.registry.entries import Entry
from switchboard_server.core.registry.model import Status
from switchboard_server.core.registry.picking import Policy, Pool, spread
from switchboard_server.core.registry.roster import Roster, Service
from switchboard_server.core.registry.semver import (
    MAX_RANGE,
    Range,
    in_range,
    parse_range,
    parse_version,
)
from switchboard_server.core.registry.validation import (
    check_metadata,
    check_service_name,
)

MAX_INSTANCES = 1000
"""Most instances of one answer."""
MAX_HASH_KEY = 1024
"""Longest key for CONSISTENT_HASH, in characters."""
MAX_POOLS = 4096
"""Pools that are kept, over all services; beyond it the ones unused for longest are made anew."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a caller wants of a service; see `DiscoverRequest`.

    Args:
        service: The service.
        policy: How to pick.
        hash_key: What CONSISTENT_HASH goes by.
        zone: The zone whose instances come first; empty: all alike.
        limit: How many at most; 0: 1.
        metadata: What instances must have.
        version_range: The versions wanted; empty: all.
    """

    service: str
    policy: Policy = Policy.ROUND_ROBIN
    hash_key: str = ""
    zone: str = ""
    limit: int = 0
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    version_range: str = ""


@dataclass(frozen=True, slots=True)
class Discovered:
    """What was picked.

    Args:
        entries: The instances, the best first.
        candidates: How many serve and match.
        revision: The registry's revision.
    """

    entries: list[Entry]
    candidates: int
    revision: int


_Wish = tuple[tuple[tuple[str, str], ...], str]
_PoolKey = tuple[str, _Wish, str, bool]


class Discovery:
    """Picks instances of a directory.

    Args:
        directory: The directory.
    """

    def __init__(self, directory: Roster) -> None:
        self._directory = directory
        self._pools: OrderedDict[_PoolKey, tuple[int, Pool]] = OrderedDict()

    def discover(self, wish: Selection) -> Discovered:
        """Picks.

        Args:
            wish: What is wanted.

        Raises:
            InvalidArgumentError: The wish is not allowed.
            NotFoundError: The service has no instance.
            UnavailableError: None of them serves and matches.
        """
        _check(wish)
        service = self._directory.services.get(wish.service)
        if service is None:
            # One that is there has a name that is allowed.
            check_service_name("service_name", wish.service)
            raise NotFoundError(
                "SERVICE_NOT_FOUND", f"no instance of {wish.service!r} is registered"
            )
        matching = tuple(sorted(wish.metadata.items())), wish.version_range
        if not wish.zone:
            pool = self._pool(service, matching, "", near=True)
            picked = pool.pick(wish.policy, wish.limit or 1, wish.hash_key)
            candidates = len(pool)
        else:
            near = self._pool(service, matching, wish.zone, near=True)
            far = self._pool(service, matching, wish.zone, near=False)
            pools: Iterator[Pool] = iter((near, far))
            picked = spread(pools, wish.policy, wish.limit or 1, wish.hash_key)
            candidates = len(near) + len(far)
        if not picked:
            raise _none_serving(service, wish)
        return Discovered(picked, candidates, self._directory.revision)

    def _pool(self, service: Service, wish: _Wish, zone: str, *, near: bool) -> Pool:
        """The instances that serve and match, of a zone or of all others."""
        key = service.name, wish, zone, near
        known = self._pools.get(key)
        if known is not None:
            self._pools.move_to_end(key)
            if known[0] == service.version:
                return known[1]
        wanted = _wanted_range(wish[1])
        entries = [
            entry
            for entry in service.entries.values()
            if entry.instance.status is Status.SERVING
            and (not zone or (entry.instance.spec.zone == zone) is near)
            and _matches(entry, wish[0], wanted)
        ]
        pool = Pool(entries, known[1] if known is not None else None)
        self._pools[key] = service.version, pool
        if len(self._pools) > MAX_POOLS:
            self._pools.popitem(last=False)
        return pool


def _check(wish: Selection) -> None:
    if wish.limit > MAX_INSTANCES:
        raise invalid_field("max_instances", f"must be 1 to {MAX_INSTANCES}")
    if wish.policy is Policy.CONSISTENT_HASH:
        if not wish.hash_key:
            raise invalid_field(
                "hash_key",
                "is required with DISCOVER_POLICY_CONSISTENT_HASH",
                reason="FIELD_MISSING",
            )
        if len(wish.hash_key) > MAX_HASH_KEY:
            raise too_large("hash_key", len(wish.hash_key), MAX_HASH_KEY, "characters")
    if wish.metadata:
        check_metadata("metadata", wish.metadata)
    if wish.version_range:
        if len(wish.version_range) > MAX_RANGE:
            raise too_large("version_range", len(wish.version_range), MAX_RANGE, "characters")
        if parse_range(wish.version_range) is None:
            raise invalid_field(
                "version_range",
                f"{wish.version_range[:80]!r} is no range, such as '^1.4' or '>=1.2.0 <2 || 3.x'",
            )


def _wanted_range(text: str) -> Range | None:
    return parse_range(text) if text else None


def _matches(entry: Entry, metadata: tuple[tuple[str, str], ...], wanted: Range | None) -> bool:
    spec = entry.instance.spec
    if any(spec.metadata.get(name) != value for name, value in metadata):
        return False
    if wanted is None:
        return True
    version = parse_version(spec.version)
    return version is not None and in_range(version, wanted)


def _none_serving(service: Service, wish: Selection) -> UnavailableError:
    wanted = _wanted_range(wish.version_range)
    metadata = tuple(wish.metadata.items())
    matching = [each for each in service.entries.values() if _matches(each, metadata, wanted)]
    counts = Counter(each.instance.status for each in matching)
    facts = {"registered": str(len(service.entries)), "matching": str(len(matching))}
    facts |= {status.name.lower(): str(number) for status, number in sorted(counts.items())}
    told = ", ".join(f"{number} {status.name.lower()}" for status, number in sorted(counts.items()))
    if matching:
        cause = matching[0].instance.status_reason
        facts["cause"] = cause
        told = f"{told}; {matching[0].instance.spec.id}: {cause}" if cause else told
    return UnavailableError(
        "NO_INSTANCE_SERVING",
        f"none of the instances of {service.name} serves: {facts['registered']} registered, "
        f"{facts['matching']} matching{f' ({told})' if told else ''}",
        metadata=facts,
    )

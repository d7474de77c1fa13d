"""ListServices: the services with counts of their instances, a page at a time."""

import base64
import binascii
import bisect
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from switchboard_server.core.errors import InvalidArgumentError, Violation, invalid_field
from switchboard_server.core.filters import covers
from switchboard_server.core.registry.entries import Entry
from switchboard_server.core.registry.model import Status
from switchboard_server.core.registry.roster import Roster, Service
from switchboard_server.core.registry.semver import Version, parse_version

DEFAULT_PAGE = 100
"""Services of a page where the query names no number."""
MAX_PAGE = 1000
"""Most services of a page."""
MAX_PAGE_BYTES = 2 * 1024 * 1024
"""A page takes no further service once its instances take this many bytes."""

_id = attrgetter("instance.spec.id")


@dataclass(frozen=True, slots=True)
class ServicesQuery:
    """Which services are wanted; see `ListServicesRequest`.

    Args:
        name_prefix: How their names begin.
        with_instances: Whether to list the instances too.
        page_size: Most services of the page; 0: 100.
        page_token: Where the page before ended; empty: the first page.
    """

    name_prefix: str = ""
    with_instances: bool = False
    page_size: int = 0
    page_token: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """A service.

    Args:
        name: Its name.
        counts: How many instances have each status, in the order of the statuses.
        versions: The different versions, the lowest first.
        zones: The different zones, in the order of their names.
        entries: The instances in the order of their ids, where they were asked for.
    """

    name: str
    counts: Mapping[Status, int]
    versions: Sequence[str]
    zones: Sequence[str]
    entries: Sequence[Entry]


@dataclass(slots=True)
class ServicesPage:
    """Some of the services.

    Args:
        revision: The registry's revision.
        services: In the order of their names.
        next_page_token: Asks for the next page; empty: there is none.
    """

    revision: int
    services: list[Summary] = field(default_factory=list)
    next_page_token: str = ""


def list_services(
    directory: Roster,
    query: ServicesQuery,
    scopes: Sequence[str],
    measure: Callable[[Entry], int],
) -> ServicesPage:
    """Reads one page.

    Args:
        directory: The registry.
        query: What is wanted.
        scopes: Patterns of the services that the caller may see.
        measure: How many bytes an instance takes in the answer.

    Raises:
        InvalidArgumentError: The page size or the token is not allowed.
    """
    if query.page_size > MAX_PAGE:
        raise invalid_field("page_size", f"{query.page_size} is not within 0 to {MAX_PAGE}")
    names = sorted(
        name
        for name in directory.services
        if name.startswith(query.name_prefix) and any(covers(scope, name) for scope in scopes)
    )
    start = bisect.bisect_right(names, _read_token(query)) if query.page_token else 0
    page = ServicesPage(directory.revision)
    size = 0
    for name in names[start:]:
        if len(page.services) >= (query.page_size or DEFAULT_PAGE) or size >= MAX_PAGE_BYTES:
            page.next_page_token = _make_token(query, page.services[-1].name)
            break
        summary = _summary(directory.services[name], with_instances=query.with_instances)
        size += sum(map(measure, summary.entries))
        page.services.append(summary)
    return page


def _summary(service: Service, *, with_instances: bool) -> Summary:
    instances = [entry.instance for entry in service.entries.values()]
    counts = Counter(instance.status for instance in instances)
    versions = {instance.spec.version for instance in instances} - {""}
    return Summary(
        service.name,
        dict(sorted(counts.items())),
        sorted(versions, key=lambda text: (_precedence(text), text)),
        sorted({instance.spec.zone for instance in instances} - {""}),
        sorted(service.entries.values(), key=_id) if with_instances else (),
    )


def _precedence(text: str) -> Version:
    version = parse_version(text)
    assert version is not None, "a registered version is one"
    return version


def _digest(query: ServicesQuery, name: str) -> bytes:
    return hashlib.blake2b(repr((query.name_prefix, name)).encode(), digest_size=8).digest()


def _make_token(query: ServicesQuery, name: str) -> str:
    token = _digest(query, name) + name.encode()
    return base64.urlsafe_b64encode(token).decode().rstrip("=")


def _read_token(query: ServicesQuery) -> str:
    """The name after which the page begins."""
    text = query.page_token
    try:
        token = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        name = token[8:].decode()
    except (binascii.Error, ValueError):
        token, name = b"", ""
    if token[:8] != _digest(query, name):
        problem = (
            "is not one that a hub gave for this name_prefix; repeat the query as it was, "
            "or begin without a token"
        )
        raise InvalidArgumentError(
            "INVALID_PAGE_TOKEN",
            f"page_token: {problem}",
            violations=[Violation("page_token", problem)],
        )
    return name

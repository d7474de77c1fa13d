"""ListServices: the services with counts of their instances, a page at a time."""

import bisect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from switchboard_server.core.filters import covers
from switchboard_server.core.paging import make_token, page_limit, read_token
from switchboard_server.core.registry.entries import Entry
from switchboard_server.core.registry.model import Status
from switchboard_server.core.registry.roster import Roster, Service
from switchboard_server.core.registry.semver import Version, parse_version

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
    limit = page_limit(query.page_size)
    asked = ("services", query.name_prefix)
    after = read_token(query.page_token, asked).decode() if query.page_token else ""
    names = sorted(
        name
        for name in directory.services
        if name.startswith(query.name_prefix) and any(covers(scope, name) for scope in scopes)
    )
    page = ServicesPage(directory.revision)
    size = 0
    for name in names[bisect.bisect_right(names, after) :]:
        if len(page.services) >= limit or size >= MAX_PAGE_BYTES:
            page.next_page_token = make_token(page.services[-1].name.encode(), asked)
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

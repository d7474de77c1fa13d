"""Finds who wants an event, at a cost of who wants it and not of who is subscribed.

Filters stand in an index by the narrowest thing they name. Which of them a route matches is worked
out once and remembered, so an event costs one look-up however many filters there are.
"""

from collections.abc import Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from switchboard_server.core.filters import Filter, Route

MAX_REMEMBERED_ROUTES = 65_536
"""Routes whose answer is remembered; beyond it all are forgotten, and worked out as they come."""

MAX_UPDATED_ROUTES = 1024
"""Remembered routes that are kept true as filters come and go; more are forgotten instead."""


class HasFilter(Protocol):
    """Whatever stands behind a filter."""

    @property
    def filter(self) -> Filter:
        """The filter, constant."""
        ...


T = TypeVar("T", bound=HasFilter)


class _Index(Generic[T]):
    """Entries by an exact name or a prefix, for looking up all that a name matches."""

    def __init__(self) -> None:
        self.exact: dict[str, dict[T, None]] = {}
        self.prefixes: dict[str, dict[T, None]] = {}

    def _place(self, pattern: str) -> tuple[dict[str, dict[T, None]], str]:
        return (self.prefixes, pattern[:-1]) if pattern.endswith("*") else (self.exact, pattern)

    def add(self, pattern: str, entry: T) -> None:
        table, name = self._place(pattern)
        table.setdefault(name, {})[entry] = None

    def remove(self, pattern: str, entry: T) -> None:
        table, name = self._place(pattern)
        del table[name][entry]
        if not table[name]:
            del table[name]

    def find(self, name: str) -> Iterable[T]:
        yield from self.exact.get(name, ())
        if self.prefixes:
            for length in range(len(name) + 1):
                yield from self.prefixes.get(name[:length], ())


class Router(Generic[T]):
    """Entries with filters, by what they match. Not safe for several threads."""

    def __init__(self) -> None:
        self._by_type: _Index[T] = _Index()
        self._by_source: _Index[T] = _Index()
        self._by_target: _Index[T] = _Index()
        self._rest: dict[T, None] = {}
        self._by_attribute: dict[tuple[str, str], dict[T, None]] = {}
        self._remembered: dict[Route, tuple[T, ...]] = {}

    def add(self, entry: T) -> None:
        """Adds an entry; it must not be in yet."""
        wish = entry.filter
        if wish.attributes:
            pair = next(iter(sorted(wish.attributes.items())))
            self._by_attribute.setdefault(pair, {})[entry] = None
            return
        index, patterns = self._home(wish)
        if index is None:
            self._rest[entry] = None
        else:
            for pattern in patterns:
                index.add(pattern, entry)
        self._change(entry, present=True)

    def remove(self, entry: T) -> None:
        """Takes out an entry that is in."""
        wish = entry.filter
        if wish.attributes:
            pair = next(iter(sorted(wish.attributes.items())))
            del self._by_attribute[pair][entry]
            if not self._by_attribute[pair]:
                del self._by_attribute[pair]
            return
        index, patterns = self._home(wish)
        if index is None:
            del self._rest[entry]
        else:
            for pattern in patterns:
                index.remove(pattern, entry)
        self._change(entry, present=False)

    def by_route(self, route: Route) -> tuple[T, ...]:
        """The entries without attributes in their filter that match a route."""
        found = self._remembered.get(route)
        if found is None:
            if len(self._remembered) >= MAX_REMEMBERED_ROUTES:
                self._remembered.clear()
            found = self._remembered[route] = self._work_out(route)
        return found

    def by_attributes(self, route: Route, attributes: Mapping[str, str]) -> list[T]:
        """The entries with attributes in their filter that match an event."""
        if not self._by_attribute:
            return []
        return [
            entry
            for pair in attributes.items()
            for entry in self._by_attribute.get(pair, ())
            if entry.filter.matches_route(route) and entry.filter.matches_attributes(attributes)
        ]

    def _home(self, wish: Filter) -> tuple[_Index[T] | None, tuple[str, ...]]:
        """The index that narrows the filter down most; exact names before prefixes."""
        choices = (
            (self._by_type, wish.types),
            (self._by_source, wish.source_services),
            (self._by_target, wish.target_services),
        )
        named = [(index, patterns) for index, patterns in choices if patterns]
        if not named:
            return None, ()
        for index, patterns in named:
            if not any(pattern.endswith("*") for pattern in patterns):
                return index, patterns
        return named[0]

    def _work_out(self, route: Route) -> tuple[T, ...]:
        candidates: dict[T, None] = dict(self._rest)
        for index, name in (
            (self._by_type, route.type),
            (self._by_source, route.source_service),
            (self._by_target, route.target_service),
        ):
            candidates.update(dict.fromkeys(index.find(name)))
        return tuple(entry for entry in candidates if entry.filter.matches_route(route))

    def _change(self, entry: T, *, present: bool) -> None:
        """Keeps what is remembered true, so that who comes or goes costs no look-up anew."""
        if len(self._remembered) > MAX_UPDATED_ROUTES:
            self._remembered.clear()
            return
        for route, found in self._remembered.items():
            if entry.filter.matches_route(route):
                if present:
                    self._remembered[route] = (*found, entry)
                else:
                    self._remembered[route] = tuple(each for each in found if each is not entry)

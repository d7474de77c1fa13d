"""Events on their way into the log (`Drafts`) and as the log holds them (`Batch`).

Both are columns rather than objects: hundreds of events share one object, and what most events lack
(an id of their publisher, a time to live, attributes) costs nothing where it is absent. Payloads
are bytes that nobody here looks into.
"""

from __future__ import annotations  # array[int] is for type checkers only

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, groupby, pairwise
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.filters import Filter, Route

MAX_BATCH_EVENTS = 4096
"""Most events of a batch."""
MAX_BATCH_BYTES = 256 * 1024
"""A batch takes no further event once it holds this many encoded bytes."""

MAX_MERGED_EVENTS = 16
"""Drafts of more events are encoded by themselves."""

BATCH_BYTES, ROUTE_BYTES, ENTRY_BYTES = 400, 250, 150
"""What a batch takes in memory besides its frames, about: at all, for each of its routes, and for
each id, attribute, key or time of one event."""

Run = tuple[int, int]
"""Consecutive events of a batch: index of the first, index after the last."""


T = TypeVar("T")
_NOTHING: Mapping[int, Any] = MappingProxyType({})


def _no_column() -> Mapping[int, Any]:
    return _NOTHING


def _some(column: dict[int, T]) -> Mapping[int, T]:
    """A column, or the one that all batches share who have nothing in it."""
    return column or _NOTHING


def assigned_id(log_id: str, sequence: int) -> str:
    """The id that the hub gives an event whose publisher gave none.

    Args:
        log_id: The log's id.
        sequence: The event's sequence.
    """
    return f"{log_id}-{sequence:03x}"


@dataclass(slots=True)
class Extra:
    """What only some events have."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    ordering_key: str = ""
    ttl_ns: int = 0
    """Time to live in nanoseconds; 0: unlimited."""
    deliver_at_ns: int = 0
    """Unix time in nanoseconds at which to enter the log; 0: at once."""
    correlation_id: str = ""


@dataclass(slots=True)
class Drafts:
    """Events that one caller publishes in one call, in order.

    Args:
        bodies: Each event as encoded by its door, without the fields that the hub sets.
        routes: A route for each event, or one for all of them.
        ids: The publisher's id for each event, "" where it gave none; None: none has one.
        extras: By index, what only some events have.
        refused: By index, why an event cannot be taken; its body does not matter.
        publisher: Subject of the caller.
    """

    bodies: list[bytes]
    routes: Route | list[Route]
    ids: list[str] | None = None
    extras: dict[int, Extra] = field(default_factory=dict)
    refused: dict[int, SwitchboardError] = field(default_factory=dict)
    publisher: str = ""
    _lengths: list[int] | None = field(default=None, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        """How many events these are."""
        return len(self.bodies)

    def route(self, index: int) -> Route:
        """The route of one event."""
        return self.routes if isinstance(self.routes, Route) else self.routes[index]

    def distinct_routes(self) -> Iterable[Route]:
        """Every route that occurs, once."""
        return (self.routes,) if isinstance(self.routes, Route) else dict.fromkeys(self.routes)

    @property
    def lengths(self) -> list[int]:
        """How many bytes each body has; bodies do not change any more once this was asked for."""
        if self._lengths is None:
            self._lengths = list(map(len, self.bodies))
        return self._lengths

    def size(self) -> int:
        """Bytes of all bodies."""
        return sum(self.lengths)

    def select(self, indexes: Sequence[int]) -> Drafts:
        """The events at some indexes, as drafts of their own."""
        routes, ids = self.routes, self.ids
        return Drafts(
            bodies=[self.bodies[i] for i in indexes],
            routes=routes if isinstance(routes, Route) else [routes[i] for i in indexes],
            ids=None if ids is None else [ids[i] for i in indexes],
            extras={new: self.extras[old] for new, old in enumerate(indexes) if old in self.extras},
            publisher=self.publisher,
        )


class Codec(Protocol):
    """How a delivered event looks as bytes. A door provides it, the core joins what it makes."""

    def encode(
        self, drafts: Drafts, first_sequence: int, time_ns: int
    ) -> tuple[list[bytes], list[int]]:
        """Encodes events with what the hub adds to them.

        Args:
            drafts: The events, none of them refused.
            first_sequence: Sequence of the first one; the others follow.
            time_ns: When they enter the log, Unix time in nanoseconds.

        Returns:
            The bytes in pieces, to be joined, and how many bytes each event has in them. Each
            event's bytes are
            complete: any selection of events, joined in order, is a delivery of these events.
        """
        ...


@dataclass(slots=True, eq=False)
class Batch:
    """Consecutive events of the log, encoded once for all who receive them.

    Never changed once it is made.

    Args:
        first: Sequence of the first event; the others follow without a hole.
        time_ns: When they entered the log, Unix time in nanoseconds.
        frames: The encoded events, one after the other.
        ends: Where each event ends in `frames`.
        routes: The routes that occur.
        route_of: For each event, the index of its route; None: all have the first.
        ids: By index, the id that the publisher gave.
        attributes: By index, for events that have attributes.
        ordering_keys: By index, for events that have one.
        expiries: By index, for events that expire: Unix time in nanoseconds.
        correlation_ids: By index, for events that have one, while they are new: what is read back
            from the log has none, since only those who wait for a response look for them.
    """

    first: int
    time_ns: int
    frames: bytes
    ends: array[int]
    routes: tuple[Route, ...]
    route_of: array[int] | None = None
    ids: Mapping[int, str] = field(default_factory=_no_column)
    attributes: Mapping[int, Mapping[str, str]] = field(default_factory=_no_column)
    ordering_keys: Mapping[int, str] = field(default_factory=_no_column)
    expiries: Mapping[int, int] = field(default_factory=_no_column)
    correlation_ids: Mapping[int, str] = field(default_factory=_no_column)

    def __len__(self) -> int:
        """How many events it holds."""
        return len(self.ends)

    @property
    def last(self) -> int:
        """Sequence of the last event."""
        return self.first + len(self.ends) - 1

    @property
    def weight(self) -> int:
        """Bytes of memory that it takes, about: where it holds few events, far more than theirs."""
        entries = sum(map(len, (self.ids, self.ordering_keys, self.expiries, self.correlation_ids)))
        attributes = self.attributes
        return (
            BATCH_BYTES
            + ROUTE_BYTES * len(self.routes)
            + ENTRY_BYTES * (entries + len(attributes) + sum(map(len, attributes.values())))
            + len(self.frames)
        )

    def route(self, index: int) -> Route:
        """The route of one event."""
        return self.routes[0 if self.route_of is None else self.route_of[index]]

    def frame(self, index: int) -> bytes:
        """One event's bytes."""
        return self.frames[self.ends[index - 1] if index else 0 : self.ends[index]]

    def join(self, runs: Sequence[Run]) -> bytes:
        """The bytes of some events; not copied where they are all."""
        if len(runs) == 1 and runs[0] == (0, len(self.ends)):
            return self.frames
        ends, frames = self.ends, self.frames
        return b"".join(
            [frames[ends[start - 1] if start else 0 : ends[stop - 1]] for start, stop in runs]
        )

    def size(self, runs: Sequence[Run]) -> int:
        """How many bytes some events have."""
        ends = self.ends
        return sum(ends[stop - 1] - (ends[start - 1] if start else 0) for start, stop in runs)

    def all_runs(self) -> list[Run]:
        """The run of all events."""
        return [(0, len(self.ends))]

    def matching(self, wish: Filter, start: int = 0) -> list[Run]:
        """The events from an index on that a filter matches."""
        stop = len(self.ends)
        if start >= stop:
            return []
        wanted = [wish.matches_route(route) for route in self.routes]
        if not any(wanted):
            return []
        if all(wanted) and not wish.attributes:
            return [(start, stop)]
        route_of, attributes = self.route_of, self.attributes
        return runs_of(
            index
            for index in range(start, stop)
            if wanted[0 if route_of is None else route_of[index]]
            and (not wish.attributes or wish.matches_attributes(attributes.get(index, {})))
        )

    def live(self, runs: Sequence[Run], now_ns: int) -> Sequence[Run]:
        """Those of some runs whose events have not expired."""
        if not self.expiries or all(now_ns < expiry for expiry in self.expiries.values()):
            return runs
        expiries = self.expiries
        return runs_of(
            index
            for start, stop in runs
            for index in range(start, stop)
            if index not in expiries or now_ns < expiries[index]
        )


def runs_of(indexes: Iterable[int]) -> list[Run]:
    """Joins ascending indexes to runs."""
    runs: list[Run] = []
    start = stop = -1
    for index in indexes:
        if index == stop:
            stop += 1
            continue
        if stop > start:
            runs.append((start, stop))
        start, stop = index, index + 1
    if stop > start:
        runs.append((start, stop))
    return runs


def count(runs: Sequence[Run]) -> int:
    """How many events some runs hold."""
    return sum(stop - start for start, stop in runs)


def build_batches(
    waiting: Sequence[Drafts], first_sequence: int, time_ns: int, codec: Codec
) -> list[Batch]:
    """Makes batches of drafts, in order, numbered from `first_sequence` on.

    Args:
        waiting: The drafts, none of whose events is refused; none of them makes no batch.
        first_sequence: Sequence of the first event.
        time_ns: When they enter the log, Unix time in nanoseconds.
        codec: How events look as bytes.
    """
    made: list[Batch] = []
    columns = _Columns(first_sequence, time_ns)
    for drafts in _merged(waiting):
        pieces, sizes = codec.encode(drafts, columns.next, time_ns)
        size = sum(sizes)
        if not columns.take(len(sizes), size):
            # Cut where drafts end, which costs nothing, and within them only where they are large.
            made += columns.batches()
            columns = _Columns(columns.next, time_ns)
            columns.take(len(sizes), size)
        columns.add(drafts, pieces, sizes)
    return made + columns.batches()


def _merged(waiting: Sequence[Drafts]) -> Iterator[Drafts]:
    """Joins the plain drafts of many calls, so that single events are encoded many at a time."""
    for publisher, group in groupby(waiting, _mergeable):
        parts = list(group)
        if publisher is None or len(parts) == 1:
            yield from parts
            continue
        routes: list[Route] = []
        for part in parts:
            if isinstance(part.routes, Route):
                routes += [part.routes] * len(part)
            else:
                routes += part.routes
        yield Drafts(
            list(chain.from_iterable(part.bodies for part in parts)), routes, publisher=publisher
        )


def _mergeable(drafts: Drafts) -> str | None:
    """Drafts for which this is the same, and not None, gain by being joined."""
    if drafts.ids is not None or drafts.extras or len(drafts) > MAX_MERGED_EVENTS:
        return None
    return drafts.publisher


class _Columns:
    """The columns of events of one commit, before they become a batch, or several."""

    def __init__(self, first_sequence: int, time_ns: int) -> None:
        self.first = first_sequence
        self.time_ns = time_ns
        self.bytes = 0
        self.pieces: list[bytes] = []
        self.sizes: list[int] = []
        self.table: dict[Route, int] = {}
        self.route_of: list[int] = []
        self.ids: dict[int, str] = {}
        self.extras: dict[int, Extra] = {}

    @property
    def next(self) -> int:
        """Sequence of the event that is added next."""
        return self.first + len(self.sizes)

    def take(self, events: int, size: int) -> bool:
        """Makes room for events; False: they belong into another batch."""
        full = self.bytes + size > MAX_BATCH_BYTES or len(self.sizes) + events > MAX_BATCH_EVENTS
        if self.sizes and full:
            return False
        self.bytes += size
        return True

    def add(self, drafts: Drafts, pieces: list[bytes], sizes: list[int]) -> None:
        base = len(self.sizes)
        self.pieces += pieces
        self.sizes += sizes
        table = self.table
        if isinstance(drafts.routes, Route):
            self.route_of += [table.setdefault(drafts.routes, len(table))] * len(sizes)
        else:
            self.route_of += [table.setdefault(route, len(table)) for route in drafts.routes]
        if drafts.ids is not None:
            self.ids.update((base + i, each) for i, each in enumerate(drafts.ids) if each)
        for index, extra in drafts.extras.items():
            self.extras[base + index] = extra

    def batches(self) -> list[Batch]:
        if not self.sizes:
            return []
        frames = b"".join(self.pieces)
        ends = array("I", accumulate(self.sizes))
        if len(ends) <= MAX_BATCH_EVENTS and len(frames) <= MAX_BATCH_BYTES:
            return [self._batch(0, len(ends), frames, ends)]
        cuts = self._cuts(ends)
        made = []
        for start, stop in pairwise(cuts):
            offset = ends[start - 1] if start else 0
            part = array("I", [end - offset for end in ends[start:stop]])
            made.append(self._batch(start, stop, frames[offset : ends[stop - 1]], part))
        return made

    def _cuts(self, ends: array[int]) -> list[int]:
        cuts, opened, taken = [0], 0, 0
        for index, end in enumerate(ends):
            if end - opened > MAX_BATCH_BYTES or index - taken >= MAX_BATCH_EVENTS:
                if index > taken:
                    cuts.append(index)
                    taken = index
                opened = ends[index - 1] if index else 0
        return [*cuts, len(ends)]

    def _batch(self, start: int, stop: int, frames: bytes, ends: array[int]) -> Batch:
        routes, route_of = tuple(self.table), None
        if len(routes) > 1:
            part = self.route_of[start:stop]
            used = {old: new for new, old in enumerate(dict.fromkeys(part))}
            routes = tuple(routes[old] for old in used)
            route_of = array("H", [used[old] for old in part]) if len(used) > 1 else None
        extras = {i - start: each for i, each in self.extras.items() if start <= i < stop}
        return Batch(
            first=self.first + start,
            time_ns=self.time_ns,
            frames=frames,
            ends=ends,
            routes=routes,
            route_of=route_of,
            ids=_some({i - start: each for i, each in self.ids.items() if start <= i < stop}),
            attributes=_some({i: each.attributes for i, each in extras.items() if each.attributes}),
            ordering_keys=_some(
                {i: each.ordering_key for i, each in extras.items() if each.ordering_key}
            ),
            expiries=_some(
                {i: self.time_ns + each.ttl_ns for i, each in extras.items() if each.ttl_ns}
            ),
            correlation_ids=_some(
                {i: each.correlation_id for i, each in extras.items() if each.correlation_id}
            ),
        )

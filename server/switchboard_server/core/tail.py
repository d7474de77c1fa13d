"""The newest part of the log in memory, and what of it each filter matches.

Subscriptions with an equal filter form an `Audience`. A batch that enters the tail is offered once
to every audience that it matches; each subscription of the audience then takes it from there at its
own pace.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence

from switchboard_server.core.filters import Filter, Route
from switchboard_server.core.records import Batch, Run, count, runs_of
from switchboard_server.core.router import Router
from switchboard_server.core.waking import Waiter, Waking

MATCH_BYTES = 250
"""What a batch takes in memory, about, for each audience that it is offered to."""
MAX_CHUNK_BYTES = 512 * 1024
"""A delivery takes no further batch once it holds this many bytes, far below gRPC's 4 MiB."""


class Chunk:
    """Encoded events for one delivery.

    Attributes:
        frames: The encoded events.
        count: How many.
        last: Everything up to this sequence is in here, was before, or does not match; of a group,
            which keeps to no order, the sequence of the last one in here.
    """

    __slots__ = ("count", "frames", "last")

    def __init__(self, frames: bytes, count: int, last: int) -> None:
        self.frames = frames
        self.count = count
        self.last = last


class Match:
    """What an audience wants of one batch, and how many bytes that is."""

    __slots__ = ("batch", "runs", "size")

    def __init__(self, batch: Batch, runs: Sequence[Run]) -> None:
        self.batch = batch
        self.runs = runs
        self.size = batch.size(runs)


def assemble(matches: Sequence[tuple[Batch, Sequence[Run]]], now_ns: int) -> tuple[bytes, int]:
    """Joins matches to the bytes of one delivery, without the events that have expired.

    Args:
        matches: Batches and the runs wanted of each.
        now_ns: The time, Unix nanoseconds.

    Returns:
        The bytes, and how many events they hold.
    """
    parts, total = [], 0
    for batch, wanted in matches:
        runs = batch.live(wanted, now_ns)
        if runs:
            parts.append(batch.join(runs))
            total += count(runs)
    return (parts[0] if len(parts) == 1 else b"".join(parts)), total


class Audience:
    """All subscriptions with an equal filter.

    Attributes:
        filter: What they want.
        members: How many they are.
        first: Number of the oldest match that is held, counted from 0 since the audience came to
            be.
        matches: What of the tail they want, by number.
        floor: Everything up to this sequence that they want and that is not in the tail is only in
            the log.
    """

    __slots__ = (
        "_shared",
        "_shared_key",
        "_waiting",
        "_waking",
        "filter",
        "first",
        "floor",
        "matches",
        "members",
    )

    def __init__(self, wish: Filter, floor: int, waking: Waking) -> None:
        self.filter = wish
        self.members = 0
        self.first = 0
        self.floor = floor
        self.matches: dict[int, Match] = {}
        self._waking = waking
        self._waiting: dict[Waiter, None] = {}
        self._shared_key: tuple[int, int] | None = None
        self._shared: tuple[bytes, int] = (b"", 0)

    @property
    def end(self) -> int:
        """Number of the match that comes next."""
        return self.first + len(self.matches)

    def offer(self, batch: Batch, runs: Sequence[Run]) -> None:
        """Adds a match and wakes who waits for one."""
        self.matches[self.end] = Match(batch, runs)
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            self._waking.add(waiting)

    def evict(self, batch: Batch) -> None:
        """Forgets the oldest match, which is the given batch's."""
        oldest = self.matches.get(self.first)
        if oldest is not None and oldest.batch is batch:
            del self.matches[self.first]
            self.first += 1
            self.floor = batch.last
            self._shared_key, self._shared = None, (b"", 0)

    def pass_over(self, last: int) -> None:
        """Takes notice that everything up to a sequence is only in the log, and wakes who waits."""
        self.floor = last
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            self._waking.add(waiting)

    @property
    def busy(self) -> bool:
        """Whether many are being woken, so that who has had something lets them go first."""
        return self._waking.busy

    def line_up(self, waiter: Waiter) -> None:
        """Has a subscription woken after those that are to be woken already."""
        self._waking.add({waiter: None})

    def wait(self, waiter: Waiter) -> None:
        """Has a subscription woken at the next match."""
        self._waiting[waiter] = None

    def forget(self, waiter: Waiter) -> None:
        """Takes back `wait`."""
        self._waiting.pop(waiter, None)
        self._waking.forget(waiter)

    def number_after(self, sequence: int) -> int:
        """Number of the first match that holds anything after a sequence not below the floor."""
        number = self.end
        for match in reversed(self.matches.values()):
            if match.batch.last <= sequence:
                break
            number -= 1
        return number

    def take(self, number: int, after: int, now_ns: int) -> tuple[Chunk, int]:
        """Joins matches to a chunk.

        Args:
            number: The first match to take; it is held.
            after: Leave out events up to this sequence.
            now_ns: The time, Unix nanoseconds.

        Returns:
            The chunk and the number of the match to take next.
        """
        taken: list[tuple[Batch, Sequence[Run]]] = []
        size, expires = 0, False
        for at in range(number, self.end):
            match = self.matches[at]
            taken.append((match.batch, match.runs))
            size += match.size
            expires = expires or bool(match.batch.expiries)
            if size >= MAX_CHUNK_BYTES:
                break
        last = taken[-1][0].last
        following = number + len(taken)
        head, runs = taken[0]
        if head.first <= after:
            taken[0] = (head, _after(runs, after - head.first + 1))
        elif not expires and self.members > 1:
            frames, total = self._share(number, following, taken, now_ns)
            return Chunk(frames, total, last), following
        frames, total = assemble(taken, now_ns)
        return Chunk(frames, total, last), following

    def _share(
        self, number: int, following: int, taken: list[tuple[Batch, Sequence[Run]]], now_ns: int
    ) -> tuple[bytes, int]:
        """Joins once what members that run side by side all take."""
        key = (number, following)
        if self._shared_key != key:
            self._shared_key, self._shared = key, assemble(taken, now_ns)
        return self._shared


def _after(runs: Sequence[Run], index: int) -> list[Run]:
    return [(max(start, index), stop) for start, stop in runs if stop > index]


class Tail:
    """The newest batches, up to a number of bytes, and the audiences that follow them.

    Args:
        max_bytes: How much memory they take at most, about; the newest batch is held always.
        last: Sequence of the last event before the tail.

    Attributes:
        bytes: Bytes that are held.
        floor: Sequence of the last event before what is held.
        gaps: How often the log went on further than the tail knew, so that all was forgotten.
    """

    def __init__(self, max_bytes: int, last: int) -> None:
        self._max_bytes = max_bytes
        self._batches: deque[tuple[Batch, list[Audience]]] = deque()
        self._audiences: dict[Filter, Audience] = {}
        self._router: Router[Audience] = Router()
        self._waking = Waking()
        self.bytes = 0
        self.floor = last
        self.last = last
        self.gaps = 0

    def join(self, wish: Filter) -> Audience:
        """Adds a member to the audience of a filter."""
        audience = self._audiences.get(wish)
        if audience is None:
            audience = self._audiences[wish] = Audience(wish, self.last, self._waking)
            self._router.add(audience)
        audience.members += 1
        return audience

    def leave(self, audience: Audience) -> None:
        """Takes a member out of its audience."""
        audience.members -= 1
        if not audience.members:
            del self._audiences[audience.filter]
            self._router.remove(audience)

    def audiences(self, route: Route, attributes: Mapping[str, str]) -> list[Audience]:
        """Who would get an event."""
        return [
            *self._router.by_route(route),
            *self._router.by_attributes(route, attributes),
        ]

    def append(self, batch: Batch) -> None:
        """Adds the next batch and offers it to whom it matches."""
        if batch.first > self.last + 1:
            self._pass_over(batch.first - 1)
        offers = self._offers(batch)
        for audience, runs in offers:
            audience.offer(batch, runs)
        self._batches.append((batch, [audience for audience, _ in offers]))
        self.bytes += _weight(batch, len(offers))
        self.last = batch.last
        while self.bytes > self._max_bytes and len(self._batches) > 1:
            old, audiences = self._batches.popleft()
            self.bytes -= _weight(old, len(audiences))
            self.floor = old.last
            for audience in audiences:
                audience.evict(old)

    def _pass_over(self, last: int) -> None:
        """Forgets everything, since what comes up to a sequence is not known here.

        Who has not read so far finds in the log what it holds of that, and that the rest is lost.
        """
        while self._batches:
            old, audiences = self._batches.popleft()
            for audience in audiences:
                audience.evict(old)
        self.bytes = 0
        self.floor = self.last = last
        self.gaps += 1
        for audience in self._audiences.values():
            audience.pass_over(last)

    def find(self, sequence: int) -> Batch | None:
        """The batch that holds an event; None: it is not in the tail."""
        if not self.floor < sequence <= self.last:
            return None
        place = bisect_right(self._batches, sequence, key=_first) - 1
        return self._batches[place][0]

    def read(self, after: int, max_bytes: int) -> list[Batch]:
        """The batches that follow a sequence, which is not below the floor.

        Args:
            after: The first event wanted is the one after this sequence.
            max_bytes: Stop when this many bytes are read.
        """
        found: list[Batch] = []
        for batch, _ in reversed(self._batches):
            if batch.last <= after:
                break
            found.append(batch)
        found.reverse()
        size = 0
        for number, batch in enumerate(found):
            size += len(batch.frames)
            if size >= max_bytes:
                return found[: number + 1]
        return found

    def _offers(self, batch: Batch) -> list[tuple[Audience, Sequence[Run]]]:
        """Who wants what of a batch."""
        if batch.route_of is None:
            everything = batch.all_runs()
            offers: list[tuple[Audience, Sequence[Run]]] = [
                (audience, everything) for audience in self._router.by_route(batch.routes[0])
            ]
        else:
            offers = self._offers_by_route(batch, batch.route_of)
        if batch.attributes:
            offers += self._offers_by_attributes(batch)
        return offers

    def _offers_by_route(
        self, batch: Batch, route_of: Sequence[int]
    ) -> list[tuple[Audience, Sequence[Run]]]:
        wanted: dict[Audience, list[int]] = {}
        for number, route in enumerate(batch.routes):
            for audience in self._router.by_route(route):
                wanted.setdefault(audience, []).append(number)
        if not wanted:
            return []
        places: list[list[int]] = [[] for _ in batch.routes]
        for index, number in enumerate(route_of):
            places[number].append(index)
        everything = batch.all_runs()
        return [
            (
                audience,
                everything
                if len(numbers) == len(places)
                else runs_of(sorted(index for number in numbers for index in places[number])),
            )
            for audience, numbers in wanted.items()
        ]

    def _offers_by_attributes(self, batch: Batch) -> list[tuple[Audience, Sequence[Run]]]:
        wanted: dict[Audience, list[int]] = {}
        for index, attributes in batch.attributes.items():
            for audience in self._router.by_attributes(batch.route(index), attributes):
                wanted.setdefault(audience, []).append(index)
        return [(audience, runs_of(sorted(indexes))) for audience, indexes in wanted.items()]


def _weight(batch: Batch, audiences: int) -> int:
    return batch.weight + MATCH_BYTES * audiences


def _first(held: tuple[Batch, object]) -> int:
    return held[0].first

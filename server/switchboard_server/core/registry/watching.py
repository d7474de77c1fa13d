"""Watchers: a snapshot, then changes, at each one's own pace and in bounded memory.

A change is offered to those who watch its service, found by the service's name. A watcher that has
not read yet keeps one change for each instance, the latest; and when even these become too many, it
forgets them all and begins anew with a snapshot.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from switchboard_server.core.errors import SwitchboardError, invalid_field, too_large
from switchboard_server.core.filters import MAX_NAME, covers
from switchboard_server.core.registry.entries import Entry
from switchboard_server.core.registry.model import Change, Key, Status
from switchboard_server.core.registry.roster import Roster
from switchboard_server.core.sleeping import Sleeper

HISTORY = 10_000
"""Changes that are kept for watchers who come back."""
MAX_PENDING = 10_000
"""Changes that wait for one watcher at most."""
MAX_PATTERNS = 1000
"""Most services that a watcher can name."""
CHUNK = 256
"""Most instances or changes that a watcher is handed at once."""


@dataclass(frozen=True, slots=True)
class SnapshotBegin:
    """A snapshot follows."""


@dataclass(frozen=True, slots=True)
class SnapshotPart:
    """Instances as they stand."""

    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class SnapshotEnd:
    """The snapshot is complete, and shows the registry at this revision or later."""

    revision: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """The stream goes on after this revision."""

    revision: int


@dataclass(frozen=True, slots=True)
class Compacted:
    """The stream cannot go on; the lowest revision to go on after, 0: none yet."""

    oldest: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing came for a while; the watcher knows everything up to this revision."""

    revision: int


@dataclass(frozen=True, slots=True)
class Delta:
    """Changes in the order of their revisions; with them the watcher knows all up to `revision`."""

    changes: Sequence[Change]
    revision: int


Item = SnapshotBegin | SnapshotPart | SnapshotEnd | Resumed | Compacted | Heartbeat | Delta
"""What a watcher is handed."""


class History:
    """The last changes, one for each revision.

    Args:
        limit: How many are kept.
        revision: The registry's revision; nothing before it is known.

    Attributes:
        last: Revision of the last change.
    """

    def __init__(self, limit: int, revision: int) -> None:
        self._changes: deque[Change] = deque(maxlen=limit)
        self.last = revision

    @property
    def oldest(self) -> int:
        """The lowest revision to go on after."""
        return self._changes[0].revision - 1 if self._changes else self.last

    def begin(self, revision: int, changes: Iterable[Change] = ()) -> None:
        """Forgets everything, and goes on from a revision.

        Args:
            revision: The registry's revision.
            changes: What led there, one for each revision.
        """
        self._changes.clear()
        self._changes.extend(changes)
        self.last = revision

    def add(self, change: Change) -> None:
        """Takes the next change."""
        self._changes.append(change)
        self.last = change.revision

    def after(self, revision: int) -> list[Change] | None:
        """The changes after a revision; None: they are not known, or not all of them."""
        if not self.oldest <= revision <= self.last:
            return None
        missing = self.last - revision
        return [self._changes[index] for index in range(-missing, 0)]


class Watchers:
    """All watchers of a directory, by what they watch.

    Args:
        directory: The directory.
        history: Its last changes.
        time: Monotonic seconds.

    Attributes:
        compactions: How often a watcher began anew with a snapshot because too much waited for it.
    """

    def __init__(self, directory: Roster, history: History, time: Callable[[], float]) -> None:
        self.directory = directory
        self.history = history
        self.time = time
        self._exact: dict[str, dict[Watcher, None]] = {}
        self._prefixes: dict[str, dict[Watcher, None]] = {}
        self._all: dict[Watcher, None] = {}
        self.compactions = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all)

    def __iter__(self) -> Iterator["Watcher"]:
        """All of them."""
        return iter(self._all)

    def join(self, watcher: "Watcher") -> None:
        """Offers changes to a watcher from now on."""
        self._all[watcher] = None
        for pattern in watcher.patterns:
            table, name = self._place(pattern)
            table.setdefault(name, {})[watcher] = None

    def leave(self, watcher: "Watcher") -> None:
        """Offers it nothing any more. May be called twice."""
        if self._all.pop(watcher, self) is self:
            return
        for pattern in watcher.patterns:
            table, name = self._place(pattern)
            watchers = table.get(name, {})
            watchers.pop(watcher, None)
            if not watchers:
                table.pop(name, None)

    def changed(self, change: Change) -> None:
        """Offers a change to whom it concerns. Costs what watches it, not what watches others."""
        self.history.add(change)
        name = change.instance.spec.service
        for watcher in self._exact.get(name, ()):
            watcher.offer(change)
        if self._prefixes:
            for length in range(len(name) + 1):
                for watcher in self._prefixes.get(name[:length], ()):
                    watcher.offer(change)

    def begin(self, revision: int, changes: Iterable[Change] = ()) -> None:
        """Has every watcher begin anew, because what led here is not known.

        Args:
            revision: The registry's revision.
            changes: The last ones that are known.
        """
        self.history.begin(revision, changes)
        for watcher in self._all:
            watcher.compact()

    def matching(self, patterns: Sequence[str]) -> list[Entry]:
        """The instances of services that patterns match."""
        services = self.directory.services
        if all(not each.endswith("*") for each in patterns):
            found = [services[name] for name in dict.fromkeys(patterns) if name in services]
        else:
            found = [
                service
                for name, service in services.items()
                if any(covers(pattern, name) for pattern in patterns)
            ]
        return [entry for service in found for entry in service.entries.values()]

    def _place(self, pattern: str) -> tuple[dict[str, dict["Watcher", None]], str]:
        if pattern.endswith("*"):
            return self._prefixes, pattern[:-1]
        return self._exact, pattern


class Watcher(Sleeper):
    """Follows the instances of some services.

    Made by `Registry.watch`. One task calls `next`; `close` must be called in the end.

    Args:
        hub: Where it belongs.
        patterns: The services: exact, or a prefix that ends in "*".
        after: Revision to go on after; 0: begin with a snapshot.
        all_statuses: Whether to show instances of every status, and not only those that serve.
        heartbeat: Seconds of silence after which a heartbeat is due.
    """

    def __init__(
        self,
        hub: Watchers,
        patterns: Sequence[str],
        *,
        after: int,
        all_statuses: bool,
        heartbeat: float,
    ) -> None:
        super().__init__()
        self._hub = hub
        self.patterns = tuple(patterns)
        self.all_statuses = all_statuses
        self._heartbeat = heartbeat
        self._spoken = hub.time()
        self._words: deque[Item] = deque()
        self._snapshot: deque[Entry] | None = None
        self._snapshot_revision = 0
        self._pending: dict[Key, Change] = {}
        self._compacted = False
        self._end: SwitchboardError | None = None
        self._begin(after)
        hub.join(self)

    async def next(self) -> Item:
        """Waits for what comes next.

        Raises:
            SwitchboardError: The hub has ended the stream.

        Safe to cancel: nothing is lost, the next call goes on. Not safe to call concurrently.
        """
        while True:
            if self._end is not None:
                raise self._end
            item = self._item()
            if item is None and self._hub.time() >= self._spoken + self._heartbeat:
                item = Heartbeat(self._hub.directory.revision)
            if item is not None:
                self._spoken = self._hub.time()
                return item
            await self._sleep_until(self._spoken + self._heartbeat)

    def offer(self, change: Change) -> None:
        """Takes a change of a service that is watched."""
        if self._compacted or not change.concerns(all_statuses=self.all_statuses):
            return
        # Put at the end, so that the changes stay in the order of their revisions.
        self._pending.pop(change.key, None)
        self._pending[change.key] = change
        if len(self._pending) > MAX_PENDING:
            self.compact()
        self.wake()

    def compact(self) -> None:
        """Begins anew with a snapshot."""
        self._pending.clear()
        self._compacted = True
        self._hub.compactions += 1
        self.wake()

    def end(self, error: SwitchboardError) -> None:
        """Has `next` raise an error."""
        self._end = error
        self.wake()

    def close(self) -> None:
        """Leaves the hub. May be called twice."""
        self._hub.leave(self)

    def _begin(self, after: int) -> None:
        if not after:
            self._begin_snapshot()
            return
        missed = self._hub.history.after(after)
        if missed is None:
            self._words.append(Compacted(self._hub.history.oldest))
            self._begin_snapshot()
            return
        self._words.append(Resumed(after))
        for change in missed:
            if any(covers(pattern, change.key.service) for pattern in self.patterns):
                self.offer(change)

    def _begin_snapshot(self) -> None:
        self._words.append(SnapshotBegin())
        self._snapshot = deque(self._hub.matching(self.patterns))
        self._snapshot_revision = self._hub.directory.revision

    def _item(self) -> Item | None:
        if self._compacted:
            self._compacted = False
            self._words.clear()
            self._words.append(Compacted(self._hub.history.oldest))
            self._begin_snapshot()
        if self._words:
            return self._words.popleft()
        if self._snapshot is not None:
            return self._from_snapshot(self._snapshot)
        if self._pending:
            return self._from_pending()
        return None

    def _from_snapshot(self, left: deque[Entry]) -> Item:
        part: list[Entry] = []
        while left and len(part) < CHUNK:
            entry = left.popleft()
            # What left or stopped serving meanwhile is told by a change that waits.
            there = self._hub.directory.find(entry.instance.spec.key) is entry
            if there and (self.all_statuses or entry.instance.status is Status.SERVING):
                part.append(entry)
        if part:
            return SnapshotPart(part)
        self._snapshot = None
        return SnapshotEnd(self._snapshot_revision)

    def _from_pending(self) -> Delta:
        pending = self._pending
        if len(pending) <= CHUNK:
            self._pending = {}
            return Delta(list(pending.values()), self._hub.directory.revision)
        taken = [pending.pop(key) for key in list(pending)[:CHUNK]]
        return Delta(taken, taken[-1].revision)


def check_patterns(patterns: Sequence[str]) -> None:
    """Checks which services a watcher asks for.

    Raises:
        InvalidArgumentError: There are too many, or one is not allowed.
    """
    if len(patterns) > MAX_PATTERNS:
        raise too_large("service_names", len(patterns), MAX_PATTERNS, "entries")
    for pattern in patterns:
        if not pattern:
            raise invalid_field("service_names", "an entry is empty; leave the list empty for all")
        if len(pattern) > MAX_NAME or "*" in pattern[:-1]:
            raise invalid_field(
                "service_names",
                f"{pattern[:40]!r} must have at most {MAX_NAME} characters, a '*' only at its end",
            )

"""Events that are to be numbered, and which of them need not be, for they were accepted before."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from switchboard_server.backends.rabbitmq.records import Columns
from switchboard_server.core.idempotency import Key
from switchboard_server.core.records import Drafts

REMEMBERED = 100_000
"""Requests of a node that are known again when they are sent twice."""


@dataclass(slots=True)
class Entry:
    """Events that are to be numbered.

    Args:
        node: Id of the node whose request it is; empty: they were scheduled, or come from another
            program.
        number: Number of the request.
        drafts: The events.
        settle: Takes the answer where nothing is stored, for all are duplicates.
        fail: Takes the defect that keeps it from being stored.
        released: Numbers of the scheduled events that these are.

    Attributes:
        size: Bytes of the events.
        duplicates: Which of them were accepted before.
        since: When it began to wait, seconds of the loop's clock.
    """

    node: str
    number: int
    drafts: Drafts
    settle: Callable[[Mapping[int, int]], None]
    fail: Callable[[Exception], None]
    released: Sequence[int] = ()
    size: int = field(init=False)
    duplicates: Mapping[int, int] = field(default_factory=dict)
    since: float = 0.0

    def __post_init__(self) -> None:
        """Measures it."""
        self.size = self.drafts.size()


class Known(Protocol):
    """Tells which events were accepted before; see `LogListener.known`."""

    def __call__(self, drafts: Drafts) -> Mapping[int, int]:
        """By index, the sequences of those events."""


class Sifter:
    """Tells what is new in one term of who numbers: requests, and events by their ids.

    Args:
        known: Tells which events were accepted before; not those on their way, which are known
            here.
    """

    def __init__(self, known: Known) -> None:
        self._known = known
        self.reset()

    def reset(self) -> None:
        """Begins a term."""
        self._keys: dict[Key, int] = {}
        self._seen: dict[str, dict[int, Mapping[int, int] | None]] = {}

    def is_new(self, entry: Entry) -> bool:
        """Whether a request comes for the first time in this term.

        One of which nothing was stored gets its answer again, which may have been lost.
        """
        seen = self._seen.setdefault(entry.node, {})
        if entry.number in seen:
            settled = seen[entry.number]
            if settled is not None:
                entry.settle(settled)
            return False
        seen[entry.number] = None
        if len(seen) > REMEMBERED:
            del seen[next(iter(seen))]
        return True

    def settle(self, entry: Entry, duplicates: Mapping[int, int]) -> None:
        """Answers a request of which no record will tell."""
        seen = self._seen.get(entry.node)
        if seen is not None and entry.number in seen:
            seen[entry.number] = duplicates
        entry.settle(duplicates)

    def sift(self, entry: Entry, following: int) -> bool:
        """Leaves out of some events what was accepted before.

        Args:
            entry: The events; those that remain are on their way from now on.
            following: The sequence that comes next.

        Returns:
            Whether any remains; if not, the request is answered.
        """
        drafts = entry.drafts
        if drafts.ids is None:
            return True
        if not entry.released:
            entry.duplicates = self.duplicates(drafts, following)
            fresh = [index for index in range(len(drafts)) if index not in entry.duplicates]
            if not fresh:
                self.settle(entry, entry.duplicates)
                return False
            if entry.duplicates:
                entry.drafts = drafts = drafts.select(fresh)
        for index, key in keys_of(drafts).items():
            self._keys[key] = following + index
        return True

    def duplicates(self, drafts: Drafts, following: int) -> dict[int, int]:
        """Which events were accepted before, or are on their way: their sequences, by index.

        Args:
            drafts: The events.
            following: The sequence that the first one that is new will have.
        """
        found = dict(self._known(drafts))
        fresh: dict[Key, int] = {}
        keys = keys_of(drafts)
        skipped = 0
        for index in range(len(drafts)):
            key = keys.get(index)
            if index in found:
                skipped += 1
            elif key is not None:
                on_its_way = self._keys.get(key)
                # Where the same call has it twice, its rank among those that remain tells.
                earlier = on_its_way if on_its_way is not None else fresh.get(key)
                if earlier is None:
                    fresh[key] = following + index - skipped
                else:
                    found[index] = earlier
                    skipped += 1
        return found

    def begin_keys(self, keys: Iterable[Key], sequence: int) -> None:
        """Notes that events are on their way, all under one sequence (0: to be scheduled)."""
        self._keys.update(dict.fromkeys(keys, sequence))

    def end_keys(self, keys: Iterable[Key]) -> None:
        """Notes that events are known now, or not stored."""
        for key in keys:
            self._keys.pop(key, None)

    def learned(self, columns: Columns) -> None:
        """Takes notice that the events of a record are known now."""
        for batch in columns.batches if self._keys else ():
            for index, each in batch.ids.items():
                self._keys.pop((batch.route(index).source_service, each), None)


def keys_of(drafts: Drafts) -> dict[int, Key]:
    """By index, the keys of events that have an id."""
    return {
        index: (drafts.route(index).source_service, each)
        for index, each in enumerate(drafts.ids or ())
        if each
    }

"""Dead letters of a group, and everything else that needs an event's bytes once more."""

from __future__ import annotations  # array[int] is for type checkers only

from array import array
from collections.abc import Awaitable, Callable, Sequence

from switchboard_server.core.groups.changes import DeadLetter, Open
from switchboard_server.core.groups.config import Mode
from switchboard_server.core.groups.entries import Entry
from switchboard_server.core.groups.ledger import Doomed, Ledger
from switchboard_server.core.groups.ports import GroupStore, StoredGroup
from switchboard_server.core.records import Batch

RETURNED = 256
"""Most redriven events that are read at once."""
MAX_RETURNED = 1024
"""Most redriven events that are open at a time; the others wait in the store."""
READ = 1000
"""Most events that are looked up at once."""


class Undertaker:
    """Buries what a group gives up, and brings back what is redriven.

    Args:
        ledger: What the group owes.
        store: Keeps the dead letters.
        stored: How the group was found.

    Attributes:
        dead_letters: How many dead letters the group has.
    """

    def __init__(self, ledger: Ledger, store: GroupStore, stored: StoredGroup) -> None:
        self._ledger = ledger
        self._store = store
        self._number = stored.record.number
        self._keyed = stored.record.config.mode is Mode.KEY_SHARED
        self._after = 0
        self._generation = 0
        self._exhausted = not stored.redriven
        self._redriven = stored.redriven
        self.dead_letters = stored.dead_letters

    @property
    def can_return(self) -> bool:
        """Whether redriven events are worth reading now."""
        return not self._exhausted and self._ledger.redriven < MAX_RETURNED

    @property
    def returning(self) -> int:
        """How many redriven events wait in the store."""
        return max(0, self._redriven - self._ledger.finished - self._ledger.redriven)

    @property
    def before(self) -> int:
        """What waits in the store comes after this sequence."""
        return self._after

    async def look(self) -> None:
        """Finds out where what waits in the store begins.

        Raises:
            UnavailableError: It cannot be read now.
        """
        if self.returning:
            letters = await self._store.redriven(self._number, 0, 1)
            self._after = letters[0].sequence - 1 if letters else 0

    async def oldest_ns(self) -> int | None:
        """When the first event that waits in the store entered the log; None: nothing waits.

        Raises:
            UnavailableError: It cannot be read now.
        """
        if not self.returning:
            return None
        letters = await self._store.redriven(self._number, self._after, 1)
        return letters[0].event_ns if letters else None

    async def restore(self, opened: Sequence[Open], now_ns: int) -> list[int]:
        """Gives the ledger back what was open before a restart.

        Args:
            opened: What was open, in the order of the log.
            now_ns: The time, Unix nanoseconds.

        Returns:
            The events that are not retained any more.

        Raises:
            UnavailableError: The log cannot be read now.
        """
        lost = []
        for start in range(0, len(opened), READ):
            part = opened[start : start + READ]
            sequences = [each.sequence for each in part]
            letters = await self._letters(sequences)
            found = (await self._store.read_each(sequences)).batches
            for each in part:
                letter, batch = letters.get(each.sequence), found.get(each.sequence)
                if letter is not None and letter.redriven:
                    entry = self._returned(letter)
                elif batch is not None:
                    entry = self._entry(batch, each.sequence - batch.first)
                else:
                    lost.append(each.sequence)
                    self._ledger.counters.lost += 1
                    self._ledger.pending.settled.append(each.sequence)
                    continue
                # What is open may be much; it is fetched again when a member is to have it.
                entry.batch = None
                self._ledger.readmit(entry, each, now_ns)
        return lost

    async def bury(self, now_ns: int) -> list[int]:
        """Makes dead letters of what is doomed, at most a thousand events at a time.

        Returns:
            The events that are not retained any more, of which there is nothing to keep.

        Raises:
            UnavailableError: The log cannot be read now; nothing is buried.
        """
        doomed = self._ledger.doomed[:READ]
        sequences = sorted(each.entry.sequence for each in doomed)
        letters = await self._letters(sequences)
        found = (await self._store.read_each(sequences)).batches
        if self._ledger.doomed[: len(doomed)] != doomed:
            return []  # A seek has shelved them meanwhile.
        del self._ledger.doomed[: len(doomed)]
        lost, pending = [], self._ledger.pending
        for each in doomed:
            sequence = each.entry.sequence
            pending.settled.append(sequence)
            known = letters.get(sequence)
            content = known if each.entry.redriven else found.get(sequence)
            if content is None:
                self._ledger.counters.lost += 1
                lost.append(sequence)
                continue
            pending.buried.append(_letter(each, content, now_ns))
            if each.entry.redriven:
                self._redriven -= 1
            if known is None or known.redriven:
                self.dead_letters += 1
        return lost

    async def fetch(self, limit: int) -> list[int]:
        """Gets the bytes of what is ready but for them.

        Args:
            limit: How many events at most.

        Returns:
            The events that are not retained any more.

        Raises:
            UnavailableError: The log cannot be read now; they are asked for again.
        """
        wanted = sorted(self._ledger.wanted(limit))
        plain = [each.sequence for each in wanted if not each.redriven]
        again = [each.sequence for each in wanted if each.redriven]
        found: dict[int, Batch] = {}
        try:
            if plain:
                found |= (await self._store.read_each(plain)).batches
            if again:
                letters = await self._letters(again)
                found |= {each: _batch(letter) for each, letter in letters.items()}
        except BaseException:
            for entry in wanted:
                self._ledger.supply(entry, None)
            raise
        lost = []
        for entry in wanted:
            batch = found.get(entry.sequence)
            if batch is not None:
                # By itself: it may wait for long, and would hold all that stands with it.
                self._ledger.supply(entry, _alone(batch, entry.sequence - batch.first))
            elif self._ledger.lose(entry):
                lost.append(entry.sequence)
        return lost

    def redrive(self, sequences: Sequence[int]) -> None:
        """Has dead letters come back."""
        self._ledger.pending.redriven += sequences
        self.dead_letters -= len(sequences)
        # They are dead letters in the store, so what they were before is durable.
        self._ledger.closed.difference_update(sequences)
        first = min(sequences) - 1
        self._after = min(self._after, first) if self.returning else first
        self._redriven += len(sequences)

    def returnable(self) -> None:
        """Takes notice that something redriven can be read now, wherever it lies."""
        self._after = 0
        self._exhausted = False
        self._generation += 1  # What is being read now may lack it.

    async def bring_back(self, save: Callable[[], Awaitable[None]]) -> None:
        """Reads redriven events.

        Args:
            save: Makes durable what has happened so far.

        Raises:
            UnavailableError: They cannot be read now.
        """
        after, generation = self._after, self._generation
        # What has been settled, and is not durable yet, must not look as if it was still to come.
        known = set(self._ledger.closed)
        await save()
        letters = await self._store.redriven(self._number, after, RETURNED)
        if self._after != after or generation != self._generation:
            return  # Something else is to come back by now.
        self._ledger.offer_redriven(
            [
                self._returned(each)
                for each in letters
                if each.sequence not in self._ledger.open
                and each.sequence not in self._ledger.closed
            ]
        )
        self._ledger.closed -= known
        if letters:
            self._after = letters[-1].sequence
        self._exhausted = len(letters) < RETURNED

    def shelve(self) -> None:
        """Makes dead letters again of all that was redriven; the ledger has forgotten it."""
        self.dead_letters += self._redriven - self._ledger.finished
        self._redriven = self._ledger.finished
        self._after = 0
        self._exhausted = True
        self._generation += 1

    async def _letters(self, sequences: Sequence[int]) -> dict[int, DeadLetter]:
        letters = await self._store.dead_letters_of(self._number, sequences)
        return {each.sequence: each for each in letters}

    def _entry(self, batch: Batch, index: int) -> Entry:
        return Entry(
            batch.first + index,
            batch.route(index).priority,
            batch.ordering_keys.get(index, "") if self._keyed else "",
            time_ns=batch.time_ns,
            expires_ns=batch.expiries.get(index, 0),
            batch=batch,
            index=index,
        )

    def _returned(self, letter: DeadLetter) -> Entry:
        entry = self._entry(_batch(letter), 0)
        entry.redriven = True
        entry.redrives = letter.redrives + 1
        return entry


def _alone(batch: Batch, index: int) -> Batch:
    """One event of a batch, as far as delivering it has to know it."""
    frame = batch.frame(index)
    return Batch(
        first=batch.first + index,
        time_ns=batch.time_ns,
        frames=frame,
        ends=array("I", [len(frame)]),
        routes=(batch.route(index),),
    )


def _batch(letter: DeadLetter) -> Batch:
    """A dead letter's event as the log had it."""
    return Batch(
        first=letter.sequence,
        time_ns=letter.event_ns,
        frames=letter.frame,
        ends=array("I", [len(letter.frame)]),
        routes=(letter.route,),
        attributes={0: letter.attributes} if letter.attributes else {},
        ordering_keys={0: letter.ordering_key} if letter.ordering_key else {},
    )


def _letter(doomed: Doomed, content: DeadLetter | Batch, now_ns: int) -> DeadLetter:
    """The dead letter of an event."""
    entry = doomed.entry
    batch = _batch(content) if isinstance(content, DeadLetter) else content
    index = entry.sequence - batch.first
    return DeadLetter(
        sequence=entry.sequence,
        frame=batch.frame(index),
        route=batch.route(index),
        attributes=batch.attributes.get(index, {}),
        ordering_key=batch.ordering_keys.get(index, ""),
        event_ns=batch.time_ns,
        cause=doomed.cause,
        reason=doomed.reason,
        attempts=entry.attempts,
        holder=doomed.holder,
        time_ns=now_ns,
        redrives=entry.redrives,
    )

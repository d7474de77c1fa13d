"""Groups in memory, for as long as the process lasts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from switchboard_server.backends.embedded.store import (
    CreateGroup,
    DeleteGroup,
    ExpireLetters,
    GroupWork,
)
from switchboard_server.core.groups.changes import Change, DeadLetter


class MemoryGroups:
    """Dead letters of groups. Where groups stand is the hub's to know: nothing survives it."""

    def __init__(self) -> None:
        self._numbers = 0
        self._letters: dict[int, dict[int, DeadLetter]] = {}

    def apply(self, works: Iterable[GroupWork]) -> None:
        """Does what becomes of groups."""
        for work in works:
            if isinstance(work, CreateGroup):
                self._numbers += 1
                work.number = self._numbers
                self._letters[work.number] = {}
            elif isinstance(work, DeleteGroup):
                self._letters.pop(work.number, None)
            elif isinstance(work, ExpireLetters):
                work.gone = self._expire(work.before_ns)
            elif work.number in self._letters:
                self._save(self._letters[work.number], work.change)

    def before(
        self, number: int, before: tuple[int, int] | None, limit: int
    ) -> Sequence[DeadLetter]:
        """See `GroupStore.dead_letters`."""
        found = [
            each
            for each in self._letters.get(number, {}).values()
            if not each.redriven and (before is None or _place(each) < before)
        ]
        return sorted(found, key=_place, reverse=True)[:limit]

    def of(self, number: int, sequences: Sequence[int]) -> Sequence[DeadLetter]:
        """See `GroupStore.dead_letters_of`."""
        letters = self._letters.get(number, {})
        return [letters[each] for each in sequences if each in letters]

    def redriven(self, number: int, after: int, limit: int) -> Sequence[DeadLetter]:
        """See `GroupStore.redriven`."""
        letters = self._letters.get(number, {})
        found = sorted(each for each in letters if each > after and letters[each].redriven)
        return [letters[each] for each in found[:limit]]

    def _expire(self, before_ns: int) -> Counter[int]:
        gone: Counter[int] = Counter()
        for number, letters in self._letters.items():
            old = [
                each.sequence
                for each in letters.values()
                if not each.redriven and each.time_ns < before_ns
            ]
            for sequence in old:
                del letters[sequence]
            if old:
                gone[number] = len(old)
        return gone

    @staticmethod
    def _save(letters: dict[int, DeadLetter], change: Change) -> None:
        for sequence in change.finished:
            if sequence in letters and letters[sequence].redriven:
                del letters[sequence]
        if change.shelved:
            for sequence, letter in letters.items():
                letters[sequence] = replace(letter, redriven=False)
        for letter in change.buried:
            letters[letter.sequence] = letter
        for sequence in change.redriven:
            if sequence in letters:
                letters[sequence] = replace(letters[sequence], redriven=True)


def _place(letter: DeadLetter) -> tuple[int, int]:
    return letter.time_ns, letter.sequence

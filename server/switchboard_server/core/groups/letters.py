"""Dead letters from outside: reading them, and giving them back to their group."""

import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from switchboard_server.core.clock import Clock
from switchboard_server.core.errors import UnavailableError, too_large
from switchboard_server.core.events import check_scope
from switchboard_server.core.filters import EVERYTHING, Filter, validate
from switchboard_server.core.groups.changes import DeadLetter
from switchboard_server.core.groups.group import Group
from switchboard_server.core.groups.hub import GroupHub
from switchboard_server.core.groups.ports import GroupStore
from switchboard_server.core.listing import MAX_PAGE_BYTES
from switchboard_server.core.paging import make_token, page_limit, read_token
from switchboard_server.core.principal import ANONYMOUS, Principal

MAX_SEQUENCES = 10_000
"""Most dead letters that are redriven by name."""
MAX_SEQUENCE = 2**63 - 1
"""No event has a higher one; backends keep sequences in 64 bits with a sign."""
SCANNED = 5000
"""Dead letters that one page looks through at most."""
_READ = 250
_PLACE = struct.Struct(">QQ")


@dataclass(frozen=True, slots=True)
class LettersQuery:
    """Which dead letters are asked for.

    Args:
        filter: Only those whose event matches.
        page_size: How many at most, 1 to 1000; 0: 100.
        page_token: Where the page before ended; empty: the first page.
    """

    filter: Filter = EVERYTHING
    page_size: int = 0
    page_token: str = ""


LATEST_LETTERS = LettersQuery()
"""The first page of all."""


@dataclass(slots=True)
class LetterPage:
    """Part of a group's dead letters.

    Attributes:
        letters: The latest first.
        next_page_token: Asks for the next page; empty: there is none.
    """

    letters: list[DeadLetter] = field(default_factory=list)
    next_page_token: str = ""


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of a redrive.

    Args:
        redriven: How many went back.
        remaining: How many dead letters the group has left.
        unknown: Sequences asked for that are none.
    """

    redriven: int
    remaining: int
    unknown: Sequence[int]


class DeadLetters:
    """What clients can do with dead letters.

    Args:
        groups: The hub's groups.
        store: Keeps dead letters.
        clock: Unix time in nanoseconds.
    """

    def __init__(self, groups: GroupHub, store: GroupStore, clock: Clock) -> None:
        self._groups = groups
        self._store = store
        self._clock = clock

    async def page(
        self,
        name: str,
        query: LettersQuery = LATEST_LETTERS,
        principal: Principal = ANONYMOUS,
    ) -> LetterPage:
        """Reads a page.

        Args:
            name: The group.
            query: Which of them.
            principal: Who asks.

        Raises:
            InvalidArgumentError: The filter, the page size or the token is not allowed.
            NotFoundError: There is no such group.
            PermissionDeniedError: The caller may not see what the group receives.
            UnavailableError: They cannot be read now.
        """
        validate(query.filter)
        limit = page_limit(query.page_size)
        group = self._groups.find(name)
        check_scope(principal, "events.view", group.filter)
        asked = (group.record.number, group.record.secret, query.filter.key)
        place = _PLACE.unpack(read_token(query.page_token, asked)) if query.page_token else None
        with suppress(UnavailableError):
            # So that it shows what has just been given up; where nothing can be written, reading
            # goes on.
            await group.flush()
        page, size, scanned = LetterPage(), 0, 0
        async for letter in self._letters(group.record.number, place):
            place = (letter.time_ns, letter.sequence)
            scanned += 1
            if _matches(query.filter, letter):
                page.letters.append(letter)
                size += len(letter.frame)
            full = len(page.letters) >= limit or size >= MAX_PAGE_BYTES
            if full or scanned >= SCANNED:
                page.next_page_token = make_token(_PLACE.pack(*place), asked)
                break
        return page

    async def redrive(
        self,
        name: str,
        *,
        sequences: Sequence[int] = (),
        wish: Filter | None = None,
        principal: Principal = ANONYMOUS,
    ) -> Redriven:
        """Gives dead letters back to their group; answers when that is durable.

        Args:
            name: The group.
            sequences: Those of these events.
            wish: Those whose event matches. Neither: all.
            principal: Who asks.

        Raises:
            InvalidArgumentError: The filter is not allowed, or there are too many sequences.
            NotFoundError: There is no such group.
            PermissionDeniedError: The caller may not manage it.
            UnavailableError: It could not be stored; a part may have been.
        """
        if len(sequences) > MAX_SEQUENCES:
            raise too_large("sequences", len(sequences), MAX_SEQUENCES, "entries")
        if wish is not None:
            validate(wish)
        group = self._groups.managed(name, principal)
        # One after the other, or two would each bring back the same dead letters.
        async with group.redriving:
            await group.flush()
            try:
                if sequences:
                    return await self._redrive_named(group, sequences)
                return await self._redrive_matching(group, wish)
            finally:
                group.bring_back()

    async def _redrive_named(self, group: Group, sequences: Sequence[int]) -> Redriven:
        number = group.record.number
        distinct = [each for each in dict.fromkeys(sequences) if each <= MAX_SEQUENCE]
        unknown = [each for each in dict.fromkeys(sequences) if each > MAX_SEQUENCE]
        done = 0
        for start in range(0, len(distinct), _READ):
            part = distinct[start : start + _READ]
            found = {
                each.sequence
                for each in await self._store.dead_letters_of(number, part)
                if not each.redriven
            }
            unknown += [each for each in part if each not in found]
            if found:
                await group.redrive(sorted(found))
                done += len(found)
        return Redriven(done, group.burial.dead_letters, unknown)

    async def _redrive_matching(self, group: Group, wish: Filter | None) -> Redriven:
        done, taken = 0, list[int]()
        # What becomes a dead letter from now on is not meant.
        async for letter in self._letters(group.record.number, (self._clock() + 1, 0)):
            if wish is None or _matches(wish, letter):
                taken.append(letter.sequence)
            if len(taken) >= _READ:
                await group.redrive(taken)
                done, taken = done + len(taken), []
        if taken:
            await group.redrive(taken)
            done += len(taken)
        return Redriven(done, group.burial.dead_letters, ())

    async def _letters(
        self, number: int, before: tuple[int, int] | None
    ) -> AsyncIterator[DeadLetter]:
        while letters := await self._store.dead_letters(number, before, _READ):
            for letter in letters:
                yield letter
            before = (letters[-1].time_ns, letters[-1].sequence)


def _matches(wish: Filter, letter: DeadLetter) -> bool:
    return wish.matches_route(letter.route) and wish.matches_attributes(letter.attributes)

"""Groups kept by whoever holds their seat, in its journal."""

import asyncio
import logging
import sqlite3
from asyncio import Future
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from switchboard_server.backends.embedded.store import (
    CreateGroup,
    DeleteGroup,
    ExpireLetters,
    GroupWork,
    SaveChange,
)
from switchboard_server.backends.embedded.worker import Thread
from switchboard_server.backends.rabbitmq.group_state import GroupState, record_of
from switchboard_server.backends.rabbitmq.journal import Journal
from switchboard_server.backends.rabbitmq.waiting import failed, unavailable
from switchboard_server.core.errors import SwitchboardError, UnavailableError
from switchboard_server.core.groups.changes import Change, DeadLetter, Snapshot
from switchboard_server.core.groups.config import GroupConfig
from switchboard_server.core.groups.ports import Found, GroupRecord, StoredGroup

CLOSE_SECONDS = 3.0
"""How long what waits may take when the store is closed."""

ReadEach = Callable[[Sequence[int]], Awaitable[Found]]
T = TypeVar("T")

_logger = logging.getLogger(__name__)


class JournalGroups:
    """A `GroupStore` for the groups of one seat, in one term of it.

    What is saved is written to the journal, and at the same time into tables of this node's own,
    which answer what is asked. When the term ends nothing can be saved any more: the next holder
    makes another store, of what the journal has.

    Args:
        journal: The journal of the seat. Opened and closed here.
        read_each: Reads events of the log. See `GroupStore.read_each`.
        earliest: Tells the sequence before the first event that is retained.
    """

    def __init__(
        self, journal: Journal, read_each: ReadEach, earliest: Callable[[], int] = int
    ) -> None:
        self._journal = journal
        self._read_each = read_each
        self._earliest = earliest
        self._state = GroupState()
        self._thread: Thread | None = None
        self._works: list[GroupWork] = []
        self._applied: Future[None] | None = None
        self._flying: set[Future[Any]] = set()
        self._compacting: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> None:
        """Begins the term, and reads what the journal has.

        Raises:
            UnavailableError: It cannot be read, or another node has the seat.
        """
        # In the event loop, a few milliseconds at a time: so no more is read than is replayed.
        await self._journal.open(self._state.replay)
        self._thread = Thread("groups")

    async def load_groups(self) -> Sequence[StoredGroup]:
        """See `GroupStore.load_groups`."""
        return await self._ask(partial(self._state.groups, self._earliest()))

    def create_group(
        self, name: str, config: GroupConfig, secret: int, snapshot: Snapshot, time_ns: int
    ) -> Future[GroupRecord]:
        """See `GroupStore.create_group`."""
        self._state.last += 1
        return self._write(CreateGroup(name, config, secret, snapshot, time_ns, self._state.last))

    def delete_group(self, number: int) -> Future[None]:
        """See `GroupStore.delete_group`."""
        return self._write(DeleteGroup(number))

    def save(self, number: int, change: Change) -> Future[None]:
        """See `GroupStore.save`."""
        return self._write(SaveChange(number, change))

    async def read_each(self, sequences: Sequence[int]) -> Found:
        """See `GroupStore.read_each`."""
        self._running()
        return await self._read_each(sequences)

    async def dead_letters(
        self, number: int, before: tuple[int, int] | None, limit: int
    ) -> Sequence[DeadLetter]:
        """See `GroupStore.dead_letters`."""
        return await self._ask(partial(self._state.dead_letters, number, before, limit))

    async def dead_letters_of(self, number: int, sequences: Sequence[int]) -> Sequence[DeadLetter]:
        """See `GroupStore.dead_letters_of`."""
        return await self._ask(partial(self._state.dead_letters_of, number, sequences))

    async def redriven(self, number: int, after: int, limit: int) -> Sequence[DeadLetter]:
        """See `GroupStore.redriven`."""
        return await self._ask(partial(self._state.redriven, number, after, limit))

    def expire_dead_letters(self, before_ns: int) -> Future[Mapping[int, int]]:
        """See `GroupStore.expire_dead_letters`."""
        return self._write(ExpireLetters(before_ns))

    async def close(self) -> None:
        """Makes what waits durable, if the term lasts, and lets go of everything."""
        if self._closed:
            return
        self._closed = True
        if self._flying:
            await asyncio.wait(self._flying, timeout=CLOSE_SECONDS)
        if self._compacting is not None:
            self._compacting.cancel()
            await asyncio.wait([self._compacting])
        await self._journal.close()
        if self._flying:
            # The journal has failed them.
            await asyncio.wait(self._flying)
        if self._thread is not None:
            await self._thread.close()
        self._state.close()

    def _write(self, work: GroupWork) -> Future[Any]:
        if self._closed or self._thread is None:
            return failed(self._shut())
        kept, applied = self._journal.append(record_of(work)), self._apply(work)
        answer: Future[Any] = asyncio.get_running_loop().create_future()
        self._flying.add(answer)
        answer.add_done_callback(self._landed)

        def settle(_: object) -> None:
            if not kept.done() or not applied.done() or answer.done():
                return
            error = kept.exception() or applied.exception()
            if error is None:
                answer.set_result(work.answer())
            else:
                answer.set_exception(error)

        kept.add_done_callback(settle)
        applied.add_done_callback(settle)
        if self._journal.should_compact:
            self.compact()
        return answer

    def _landed(self, answer: Future[Any]) -> None:
        self._flying.discard(answer)
        if not answer.cancelled():
            answer.exception()

    def _apply(self, work: GroupWork) -> Future[None]:
        """Has something done in the tables, together with what else comes in this turn."""
        self._works.append(work)
        if self._applied is None:
            loop = asyncio.get_running_loop()
            self._applied = loop.create_future()
            loop.call_soon(self._flush)
        return self._applied

    def _flush(self) -> None:
        applied, self._applied = self._applied, None
        works, self._works = self._works, []
        if applied is None or self._thread is None:
            return
        done = self._thread.call(partial(self._state.apply, works))
        done.add_done_callback(partial(self._pass_on, applied))

    def _pass_on(self, applied: Future[None], done: Future[None]) -> None:
        error = done.exception()
        if error is None:
            applied.set_result(None)
            return
        # What is asked from now on would be answered wrongly.
        text = f"groups cannot be kept at hand: {error}"
        self._journal.give_up(text)
        applied.set_exception(unavailable(text))
        applied.exception()

    def compact(self) -> asyncio.Task[None]:
        """Makes the journal anew, of what is live; called by itself when it has grown.

        Raises:
            UnavailableError: The store is closed.
        """
        thread = self._running()
        self._flush()
        making = self._journal.compact(self._live(thread, thread.call(self._state.live)))
        self._compacting = asyncio.create_task(self._compact(making))
        return self._compacting

    async def _compact(self, making: Awaitable[None]) -> None:
        try:
            await making
        except UnavailableError as error:
            _logger.warning("the journal of groups was not made anew: %s", error.message)

    async def _live(self, thread: Thread, copied: "Future[Any]") -> AsyncIterator[bytes]:
        parts = await copied
        while (part := await thread.call(lambda: next(parts, None))) is not None:
            for record in part:
                yield record

    async def _ask(self, question: Callable[[], T]) -> T:
        thread = self._running()
        self._flush()
        try:
            return await thread.call(question)
        except sqlite3.Error as error:
            raise unavailable(f"groups cannot be read: {error}") from error

    def _running(self) -> Thread:
        """The thread that has the tables.

        Raises:
            UnavailableError: The store is closed.
        """
        if self._closed or self._thread is None:
            raise self._shut()
        return self._thread

    def _shut(self) -> SwitchboardError:
        return UnavailableError("SHUTTING_DOWN", "the node does not keep these groups any more")

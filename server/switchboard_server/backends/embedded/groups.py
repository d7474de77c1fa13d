"""Groups kept beside the embedded log, in its transactions."""

from asyncio import Future
from collections.abc import Mapping, Sequence
from functools import partial

from switchboard_server.backends.embedded.log import EmbeddedLog
from switchboard_server.backends.embedded.store import (
    CreateGroup,
    DeleteGroup,
    ExpireLetters,
    SaveChange,
)
from switchboard_server.core.groups.changes import Change, DeadLetter, Snapshot
from switchboard_server.core.groups.config import GroupConfig
from switchboard_server.core.groups.ports import Found, GroupRecord, StoredGroup


class EmbeddedGroups:
    """A `GroupStore` beside an `EmbeddedLog`: publishing and settling share their fsyncs.

    Args:
        log: The log, which is open while this is used.
    """

    def __init__(self, log: EmbeddedLog) -> None:
        self._log = log

    async def load_groups(self) -> Sequence[StoredGroup]:
        """See `GroupStore.load_groups`."""
        return await self._log.exclusively(self._log.store.groups)

    def create_group(
        self, name: str, config: GroupConfig, secret: int, snapshot: Snapshot, time_ns: int
    ) -> Future[GroupRecord]:
        """See `GroupStore.create_group`."""
        return self._log.write(CreateGroup(name, config, secret, snapshot, time_ns))

    def delete_group(self, number: int) -> Future[None]:
        """See `GroupStore.delete_group`."""
        return self._log.write(DeleteGroup(number))

    def save(self, number: int, change: Change) -> Future[None]:
        """See `GroupStore.save`."""
        return self._log.write(SaveChange(number, change))

    async def read_each(self, sequences: Sequence[int]) -> Found:
        """See `GroupStore.read_each`."""
        return await self._log.reading(partial(self._log.store.read_each, sequences))

    async def dead_letters(
        self, number: int, before: tuple[int, int] | None, limit: int
    ) -> Sequence[DeadLetter]:
        """See `GroupStore.dead_letters`."""
        return await self._log.reading(partial(self._log.store.dead_letters, number, before, limit))

    async def dead_letters_of(self, number: int, sequences: Sequence[int]) -> Sequence[DeadLetter]:
        """See `GroupStore.dead_letters_of`."""
        return await self._log.reading(partial(self._log.store.dead_letters_of, number, sequences))

    async def redriven(self, number: int, after: int, limit: int) -> Sequence[DeadLetter]:
        """See `GroupStore.redriven`."""
        return await self._log.reading(partial(self._log.store.redriven, number, after, limit))

    def expire_dead_letters(self, before_ns: int) -> Future[Mapping[int, int]]:
        """See `GroupStore.expire_dead_letters`."""
        return self._log.write(ExpireLetters(before_ns))

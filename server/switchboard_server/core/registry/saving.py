"""Keeps the store in step: what changes while one save runs goes into the next."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.registry.model import Key
from switchboard_server.core.registry.ports import RegistryStore, StoredInstance

RETRY_SECONDS = 1.0
"""How often a store that takes nothing is tried again."""


class Saver:
    """Saves what has changed.

    A change shows at once and is saved after it; who asked for it waits in `durable`. What could
    not be saved is tried again until it is, so that the store comes right by itself.

    Args:
        store: Where to.
        row: An instance as it is now, to be kept; None: it is gone.
        revision: The registry's revision as it is now.
        reported: Is told when the store takes nothing, and why; None: it does again.
    """

    def __init__(
        self,
        store: RegistryStore,
        row: Callable[[Key], StoredInstance | None],
        revision: Callable[[], int],
        reported: Callable[[str | None], None],
    ) -> None:
        self._store = store
        self._row = row
        self._revision = revision
        self._reported = reported
        self._dirty: dict[Key, None] = {}
        self._saving: dict[Key, None] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._wanted = asyncio.Event()
        self._closing = asyncio.Event()
        self._failed = False
        self._task = asyncio.create_task(self._run())

    def touch(self, key: Key) -> None:
        """Has an instance saved as it is, or forgotten if it is gone."""
        self._dirty[key] = None
        self._wanted.set()

    async def durable(self, key: Key) -> None:
        """Waits until an instance is kept as it is now. Safe to cancel and to call concurrently.

        Raises:
            UnavailableError: The store takes nothing now. It is tried again without the caller.
        """
        if key not in self._dirty and key in self._saving:
            # On its way as it is now; saved together with what comes after, which is no harm.
            self.touch(key)
        if key in self._dirty:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def close(self) -> bool:
        """Saves what is left, as far as the store takes it.

        Returns:
            Whether all is saved.
        """
        self._closing.set()
        self._wanted.set()
        await self._task
        return not self._dirty

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._dirty and not (self._closing.is_set() and self._failed):
                await self._save()
            if self._closing.is_set():
                return

    async def _save(self) -> None:
        self._saving, self._dirty = self._dirty, {}
        waiters, self._waiters = self._waiters, []
        rows = {key: self._row(key) for key in self._saving}
        error: UnavailableError | None = None
        try:
            await self._store.save(
                [row for row in rows.values() if row is not None],
                [key for key, row in rows.items() if row is None],
                self._revision(),
            )
        except UnavailableError as raised:
            error = raised
            self._dirty = {**self._saving, **self._dirty}
        self._saving = {}
        if self._failed is not (error is not None):
            self._failed = error is not None
            self._reported(None if error is None else str(error))
        for waiter in waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(UnavailableError(error.reason, error.message))
        if error is not None:
            # A shutdown does not wait for the next try.
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._closing.wait()

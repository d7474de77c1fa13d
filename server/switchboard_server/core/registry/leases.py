"""A KeepAlive stream as the registry sees it: it holds a lease, and is told the status."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.registry.entries import Entry
from switchboard_server.core.registry.model import Instance


@dataclass(frozen=True, slots=True)
class Standing:
    """What the holder of a lease is told: its instance as others see it."""

    instance: Instance


class Lease:
    """Holds the lease of an instance.

    Made by `Registry.keep_alive`. One task calls `next`; `Registry.let_go` must be called in the
    end.

    Args:
        entry: The instance.
        renew: Takes a sign of life and what load it reports.
    """

    def __init__(self, entry: Entry, renew: Callable[["Lease", float | None], None]) -> None:
        self.entry = entry
        self._renew = renew
        self._owed = 1
        self._told: Instance | None = None
        self._finished = False
        self._end: SwitchboardError | None = None
        self._changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether the hub has ended it."""
        return self._end is not None

    def renew(self, load: float | None) -> None:
        """Takes a request; `next` answers it."""
        if self._end is None:
            self._renew(self, load)
            self._owed += 1
            self._changed.set()

    def finish(self) -> None:
        """Takes notice that no request will come; `next` ends when all are answered."""
        self._finished = True
        self._changed.set()

    def end(self, error: SwitchboardError) -> None:
        """Has `next` raise an error."""
        if self._end is None:
            self._end = error
            self._changed.set()

    def changed(self) -> None:
        """Takes notice that the instance has changed."""
        self._changed.set()

    async def next(self) -> Standing | None:
        """Waits until there is something to answer.

        Returns:
            The answer, one for each request and one for each new status; None: it is finished.

        Raises:
            SwitchboardError: The instance is gone, another stream took over, or the hub shuts down.

        Safe to cancel. Not safe to call concurrently.
        """
        while True:
            if self._end is not None:
                raise self._end
            now = self.entry.instance
            if self._owed:
                self._owed -= 1
                self._told = now
                return Standing(now)
            told = self._told
            if told is None or (told.status, told.status_reason) != (now.status, now.status_reason):
                self._told = now
                return Standing(now)
            if self._finished:
                return None
            self._changed.clear()
            await self._changed.wait()

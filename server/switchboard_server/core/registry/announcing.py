"""Changes of the registry as events, so that anyone can subscribe to them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from switchboard_server.core.errors import ResourceExhaustedError, UnavailableError
from switchboard_server.core.registry.model import Change
from switchboard_server.core.registry.watching import History

MOST = 256
"""Changes that are published at once."""
RETRY_SECONDS = 1.0
"""How long to wait when events are not taken."""

Publish = Callable[[Sequence[Change]], Awaitable[None]]
"""Publishes an event for each change, in order. Raises UnavailableError, ResourceExhaustedError."""

_logger = logging.getLogger(__name__)


class Announcer:
    """Publishes every change of a history, in order, however the log is at the moment.

    The history is its queue, so it holds nothing itself; what the history forgets while the log
    takes nothing is counted and not announced any more.

    Args:
        history: The changes.
        publish: Publishes them.
    """

    def __init__(self, history: History, publish: Publish) -> None:
        self._history = history
        self._publish = publish
        self._position = history.last
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self.lost = 0
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Takes notice that there are changes."""
        self._settled.clear()
        self._changed.set()

    async def settle(self, seconds: float) -> None:
        """Waits until all changes are announced, or so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            _logger.warning(
                "changes of the registry were not published",
                extra={"changes": self._history.last - self._position},
            )

    async def close(self) -> None:
        """Announces nothing any more. May be called twice."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._position < self._history.last:
                await self._announce()
            self._settled.set()

    async def _announce(self) -> None:
        oldest = self._history.oldest
        if self._position < oldest:
            self.lost += oldest - self._position
            self._position = oldest
        changes = (self._history.after(self._position) or [])[:MOST]
        try:
            await self._publish(changes)
        except (UnavailableError, ResourceExhaustedError):
            await asyncio.sleep(RETRY_SECONDS)
        else:
            self._position = changes[-1].revision

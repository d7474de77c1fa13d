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
        after: Revision after which to begin; None: the history's last.

    Attributes:
        position: All up to this revision is announced.
        lost: How many changes could not be.
    """

    def __init__(self, history: History, publish: Publish, after: int | None = None) -> None:
        self._history = history
        self._publish = publish
        self.position = history.last if after is None else after
        self._left: list[Change] = []
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self.lost = 0
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Takes notice that there are changes."""
        self._settled.clear()
        self._changed.set()

    def begin_anew(self, oldest: int) -> None:
        """Goes on in another history, which is about to take the place of this one.

        Args:
            oldest: The lowest revision after which it knows everything.
        """
        missed = self._history.after(max(self.position, self._history.oldest)) or []
        self._left += [change for change in missed if change.revision <= oldest]
        self.position = max(self.position, oldest)
        self.wake()

    async def settle(self, seconds: float) -> None:
        """Waits until all changes are announced, or so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            _logger.warning(
                "changes of the registry were not published",
                extra={"changes": self._history.last - self.position},
            )

    async def close(self) -> None:
        """Announces nothing any more. May be called twice."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._left or self.position < self._history.last:
                await self._announce()
            self._settled.set()

    async def _announce(self) -> None:
        if self._left:
            if await self._told(self._left[:MOST]):
                del self._left[:MOST]
            return
        oldest = self._history.oldest
        if self.position < oldest:
            self.lost += oldest - self.position
            self.position = oldest
        changes = (self._history.after(self.position) or [])[:MOST]
        if changes and await self._told(changes):
            # Unless it has begun anew meanwhile.
            self.position = max(self.position, changes[-1].revision)

    async def _told(self, changes: Sequence[Change]) -> bool:
        """Whether they could be published; waits a moment where not."""
        news = [each for each in changes if not each.quiet]
        try:
            if news:
                await self._publish(news)
        except (UnavailableError, ResourceExhaustedError):
            await asyncio.sleep(RETRY_SECONDS)
            return False
        return True

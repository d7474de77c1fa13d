"""Errands to a place that may be away: each is tried again until it is done."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress

from switchboard_server.core.errors import UnavailableError

RETRY_SECONDS = 1.0
"""How soon what could not be done is tried again."""
MOST = 256
"""Errands that are run at the same time."""

_logger = logging.getLogger(__name__)

Errand = Callable[[], Awaitable[bool]]
"""Does something; returns whether it is done. Raises UnavailableError where it cannot be now."""


class Errands:
    """Runs errands, those first that came first.

    An errand that is given under the name of one that waits replaces it.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, Errand] = {}
        self._wanted = asyncio.Event()
        self._nudged = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task = asyncio.create_task(self._run())

    def give(self, name: Hashable, errand: Errand) -> None:
        """Has an errand run."""
        self._waiting[name] = errand
        self._idle.clear()
        self._wanted.set()

    def cancel(self, name: Hashable) -> None:
        """Takes an errand back, unless it is under way."""
        self._waiting.pop(name, None)

    def nudge(self) -> None:
        """Tries again now."""
        self._nudged.set()

    async def settle(self, seconds: float) -> None:
        """Waits until all is done, or so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    async def close(self) -> None:
        """Runs nothing any more. May be called twice."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            if not self._waiting:
                self._idle.set()
            await self._wanted.wait()
            self._wanted.clear()
            while self._waiting:
                self._nudged.clear()
                if not await self._try_some():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(RETRY_SECONDS):
                            await self._nudged.wait()

    async def _try_some(self) -> bool:
        """Whether all that was tried is done."""
        names = list(self._waiting)[:MOST]
        taken = [(name, self._waiting.pop(name)) for name in names]
        outcomes = await asyncio.gather(*(_done(errand) for _, errand in taken))
        for (name, errand), done in zip(taken, outcomes, strict=True):
            if not done:
                self._waiting.setdefault(name, errand)
        return all(outcomes)


async def _done(errand: Errand) -> bool:
    try:
        return await errand()
    except UnavailableError:
        return False
    except Exception:
        # A defect of one must not keep the others from being run, and it would fail again.
        _logger.exception("an errand has failed")
        return True

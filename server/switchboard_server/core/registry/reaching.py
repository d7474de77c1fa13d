"""Who waits until this node has heard of what it did itself."""

import asyncio
import heapq
from itertools import count

REACH_SECONDS = 1.0
"""How long one waits at most: it is done in any case, and who asked for it gets an answer."""


class Reaching:
    """Those who wait for revisions.

    Attributes:
        revision: The registry's, as this node knows it.
    """

    def __init__(self) -> None:
        self.revision = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = count()

    async def wait(self, revision: int) -> None:
        """Waits for a revision, but not for long. Safe to cancel and to call concurrently."""
        if self.revision >= revision:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (revision, next(self._numbers), waiter))
        await asyncio.wait([waiter], timeout=REACH_SECONDS)
        waiter.cancel()

    def reached(self, revision: int) -> None:
        """Takes notice of a revision."""
        self.revision = revision
        while self._waiting and self._waiting[0][0] <= revision:
            _, _, waiter = heapq.heappop(self._waiting)
            if not waiter.done():
                waiter.set_result(None)

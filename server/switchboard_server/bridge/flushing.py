"""When what waits for clients is written: at once, or together with what comes meanwhile."""

import asyncio
from collections.abc import Callable

LARGE = 256
"""A round of writes to at least so many clients holds back the next one, and messages gather."""
SHARE = 0.5
"""How long, as a part of what the round took."""


class Flusher:
    """Writes to clients in rounds.

    A message to thousands of clients is thousands of system calls. Where messages come faster than
    that, a short wait between rounds has several of them go out in one call for each client; so it
    is the load that makes batches, and a message that comes alone waits for nothing.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready: list[Callable[[], None]] = []
        self._clients = 0
        self._ended = self._took = 0.0
        self._large = False

    def add(self, write: Callable[[], None], clients: int = 1) -> None:
        """Has clients written to in the next round.

        Args:
            write: Does it. Must not raise.
            clients: To how many.
        """
        self._ready.append(write)
        self._clients += clients
        if len(self._ready) > 1:
            return
        if self._large and self._loop.time() < self._ended + self._took:
            self._loop.call_later(self._took * SHARE, self._flush)
        else:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        began = self._loop.time()
        ready, self._ready = self._ready, []
        self._large, self._clients = self._clients >= LARGE, 0
        for write in ready:
            write()
        self._ended = self._loop.time()
        self._took = self._ended - began

"""Waiting for something to say, but not for ever."""

import asyncio


class Sleeper:
    """What waits until it is woken, or its time has come. One task at a time sleeps in it.

    Belongs to the event loop in which it is made.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Ends the sleep, if there is one, because there may be something to say."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def _sleep_until(self, when: float) -> None:
        """Sleeps until woken, at the latest until a time of the event loop. Safe to cancel."""
        self._woken = self._loop.create_future()
        timer = self._loop.call_at(when, self.wake)
        try:
            await self._woken
        finally:
            timer.cancel()
            self._woken = None

"""Wakes subscriptions a few in each turn of the event loop.

One that has been woken writes in the next turn. Were all woken at once, thousands of writes would
make that turn last for tenths of a second, in which hardly a call is accepted: every publish
would wait for the writes of the one before, and none would ever share a delivery.
"""

import asyncio
from itertools import islice
from typing import Protocol

MAX_AT_ONCE = 100
"""So many subscriptions are woken in one turn."""
SLICE = 10
"""Where there are more, so many are woken in each turn."""


class Waiter(Protocol):
    """A subscription that has nothing to deliver."""

    def wake(self) -> None:
        """Tells it that there is something now."""


class Waking:
    """The subscriptions that are to be woken, in the order in which they came."""

    __slots__ = ("_next", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[Waiter, None] = {}
        self._next: asyncio.Handle | None = None

    def add(self, waiters: dict[Waiter, None]) -> None:
        """Wakes some, now or in one of the next turns."""
        if not self._waiting and len(waiters) <= MAX_AT_ONCE:
            for waiter in waiters:
                waiter.wake()
            return
        self._waiting.update(waiters)
        if self._next is None:
            self._wake()

    def forget(self, waiter: Waiter) -> None:
        """Does not wake one that is woken already, or has left."""
        self._waiting.pop(waiter, None)

    def _wake(self) -> None:
        self._next = None
        count = SLICE if len(self._waiting) > MAX_AT_ONCE else MAX_AT_ONCE
        for waiter in list(islice(self._waiting, count)):
            del self._waiting[waiter]
            waiter.wake()
        if self._waiting:
            self._next = asyncio.get_running_loop().call_soon(self._wake)

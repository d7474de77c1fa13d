"""Wakes subscriptions a few in each turn of the event loop.

One that has been woken writes in the next turn. Were all woken at once, thousands of writes would
make that turn last for tenths of a second, in which hardly a call is accepted: every publish
would wait for the writes of the one before, and none would ever share a delivery. For the same
reason, when many have been woken, the loop belongs to the calls for as long as that has taken.
"""

import asyncio
from itertools import islice
from typing import Protocol

MAX_AT_ONCE = 100
"""So many subscriptions are woken in one turn."""
SLICE = 10
"""Where there are more, so many are woken in each turn."""
MAX_REST = 0.2
"""Seconds after which more are woken in any case."""


class Waiter(Protocol):
    """A subscription that has nothing to deliver."""

    def wake(self) -> None:
        """Tells it that there is something now."""


class Waking:
    """The subscriptions that are to be woken, in the order in which they came.

    Many are woken in a wave. Whoever comes during a wave, as one does that has been woken in it and
    has more to deliver, waits for the next.
    """

    __slots__ = ("_begun", "_later", "_next", "_rested", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[Waiter, None] = {}
        self._later: dict[Waiter, None] = {}
        self._next: asyncio.Handle | None = None
        self._begun = self._rested = 0.0

    @property
    def busy(self) -> bool:
        """Whether who is to be woken now has to wait for its turn."""
        if self._next is not None:
            return True
        return self._rested > 0 and _now() < self._rested

    def add(self, waiters: dict[Waiter, None]) -> None:
        """Wakes some, now or in one of the next turns."""
        if len(waiters) <= MAX_AT_ONCE and not self.busy:
            for waiter in waiters:
                waiter.wake()
            return
        self._later.update(waiters)
        if self._next is None:
            self._begin_later()

    def forget(self, waiter: Waiter) -> None:
        """Does not wake one that is woken already, or has left."""
        self._waiting.pop(waiter, None)
        self._later.pop(waiter, None)

    def _begin_later(self) -> None:
        if self._rested > _now():
            self._next = asyncio.get_running_loop().call_at(self._rested, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        self._waiting, self._later = self._later, {}
        self._begun = _now()
        self._wake()

    def _wake(self) -> None:
        count = SLICE if len(self._waiting) > MAX_AT_ONCE else MAX_AT_ONCE
        for waiter in list(islice(self._waiting, count)):
            del self._waiting[waiter]
            waiter.wake()
        following = self._wake if self._waiting else self._end
        self._next = asyncio.get_running_loop().call_soon(following)

    def _end(self) -> None:
        self._next = None
        now = _now()
        self._rested = now + min(now - self._begun, MAX_REST)
        if self._later:
            self._begin_later()


def _now() -> float:
    return asyncio.get_running_loop().time()

"""Pings to every connection, by one timer: a task for each would cost more than the connection."""

import asyncio
import math
from itertools import islice
from typing import Generic, Protocol, TypeVar

TICK_SECONDS = 0.5
"""How often the timer looks around, at the least."""


class Pinged(Protocol):
    """What is kept alive."""

    @property
    def heard(self) -> float:
        """When anything last came from it, by the loop's clock."""

    def ping(self) -> None:
        """Asks it for a sign of life."""

    def lost(self) -> None:
        """Gives it up."""


P = TypeVar("P", bound=Pinged)


class Keepalive(Generic[P]):
    """Pings each member at an interval, and gives up those that stay silent.

    Members that came at once are pinged little by little, so that they do not hold up the loop.

    Args:
        interval: Seconds from one ping to the next.
        timeout: Seconds that a ping may stay without any sign of life.
    """

    def __init__(self, interval: float, timeout: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._tick_seconds = min(TICK_SECONDS, interval / 4, timeout / 4)
        # Each in the order in which it is due, for all wait equally long.
        self._next: dict[P, float] = {}
        self._asked: dict[P, float] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, member: P) -> None:
        """Begins to ping a member."""
        self._next[member] = self._loop.time() + self._interval
        self._schedule()

    def remove(self, member: P) -> None:
        """Leaves a member alone. May be called twice."""
        self._next.pop(member, None)
        self._asked.pop(member, None)

    def close(self) -> None:
        """Stops."""
        self._next.clear()
        self._asked.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        if self._timer is None and self._next:
            self._timer = self._loop.call_later(self._tick_seconds, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        for member in _due(self._asked, now - self._timeout):
            asked = self._asked.pop(member)
            if member.heard < asked:
                self.remove(member)
                member.lost()
        # All of them within half of the interval, so that they are spread over it from then on.
        most = math.ceil(2 * len(self._next) * self._tick_seconds / self._interval)
        for member in islice(_due(self._next, now), most):
            del self._next[member]
            self._next[member] = now + self._interval
            self._asked.setdefault(member, now)
            member.ping()
        self._schedule()


def _due(waiting: dict[P, float], time: float) -> list[P]:
    """Those at the head of a queue whose time has come."""
    due = []
    for member, when in waiting.items():
        if when > time:
            break
        due.append(member)
    return due

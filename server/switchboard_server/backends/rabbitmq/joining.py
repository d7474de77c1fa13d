"""Opens what needs RabbitMQ when that is there, however late."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.log import ClusterLog
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.events import EventHub

REACH_SECONDS = 5.0
"""So long a hub that starts waits for a connection to RabbitMQ, or for what is wrong with the log
to pass, before it serves without it."""
OPEN_SECONDS = 30.0
"""So long it waits for the log when there is one: another node may have to give up a seat first."""
LOOK_SECONDS = 1.0
"""How often it looks what it waits for."""
TELL_SECONDS = 30.0
"""How often the hub's log says so: a wrong password is found there, and does not heal by itself."""

_logger = logging.getLogger(__name__)


class Joining:
    """Opens a node's events, and then whatever stands on them.

    Args:
        link: The connection.
        log: The node's log.
        events: The events in it.
        then: What is to begin when they are open, in order.
    """

    def __init__(
        self,
        link: Link,
        log: ClusterLog,
        events: EventHub,
        then: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        self._link = link
        self._log = log
        self._events = events
        self._then = then
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins, and returns when all is open, or when it is clear that it will take its time."""
        self._task = asyncio.create_task(self._join(), name="joining")
        self._task.add_done_callback(_tell_defect)
        try:
            await self._link.wait_connected(REACH_SECONDS)
        except UnavailableError:
            return
        await self._opened(self._task)

    async def close(self) -> None:
        """Ends it, whether it is done or not."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _opened(self, joining: "asyncio.Task[None]") -> None:
        """Waits until all is open, or something that is wrong with the log stays so."""
        loop = asyncio.get_running_loop()
        well = began = loop.time()
        while loop.time() < min(began + OPEN_SECONDS, well + REACH_SECONDS):
            done, _ = await asyncio.wait([joining], timeout=LOOK_SECONDS)
            if done:
                return
            if self._log.problem is None:
                well = loop.time()

    async def _join(self) -> None:
        opening = asyncio.create_task(self._events.open())
        try:
            await self._attend(opening)
        finally:
            opening.cancel()  # Which does nothing where it is done.
            await asyncio.wait([opening])
        await opening
        for begin in self._then:
            await begin()

    async def _attend(self, opening: "asyncio.Task[None]") -> None:
        """Says what the opening waits for until it is done."""
        loop = asyncio.get_running_loop()
        due = loop.time() + REACH_SECONDS
        while not opening.done():
            await asyncio.wait([opening], timeout=LOOK_SECONDS)
            self._events.waits_for(self._log.problem)
            if not opening.done() and loop.time() >= due:
                due = loop.time() + TELL_SECONDS
                _logger.warning("events and groups cannot be served yet: %s", self._events.problem)


def _tell_defect(joining: "asyncio.Task[None]") -> None:
    if not joining.cancelled() and (error := joining.exception()) is not None:
        _logger.critical("events and groups cannot be served", exc_info=error)

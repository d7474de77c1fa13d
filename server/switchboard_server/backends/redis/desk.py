"""One node's desk in Redis: runs scripts of realtime in its name."""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from switchboard_server.backends.redis.link import LinkError, RedisLink
from switchboard_server.backends.redis.scripts import Argument, Script
from switchboard_server.backends.redis.session import plain
from switchboard_server.core.errors import UnavailableError


class SweptError(Exception):
    """The node was taken for dead, and all that was known of it is forgotten."""


class Desk:
    """Runs scripts, with what each of them is told first.

    Args:
        link: The way to Redis.
        node: Tells this process from all others that are or were nodes.
        clock: Milliseconds that only grow, for tests; None: Redis's own, which all nodes share.

    Attributes:
        link: As given.
        node: As given.
        channel: The channel that all nodes hear.
    """

    def __init__(self, link: RedisLink, node: str, clock: Any = None) -> None:
        self.link = link
        self.node = node
        self._clock = clock
        self._base = link.key("rt", "")
        self.channel = link.channel("rt", "")

    def channel_of(self, node: str) -> str:
        """The channel that a node hears."""
        return self.channel + node

    def begin(self, script: Script, *args: Argument) -> asyncio.Future[Any]:
        """Has a script run after all that was begun before.

        Raises:
            LinkError: Redis cannot be used now.
        """
        clock = "" if self._clock is None else self._clock()
        return self.link.begin(script, (self._base,), self.node, clock, self.channel, *args)

    async def run(self, script: Script, *args: Argument) -> Any:
        """Runs a script.

        Raises:
            LinkError: As of `RedisLink.run`.
            SweptError: See there.
        """
        return await answer(self.begin(script, *args))

    async def ask(self, script: Script, *args: Argument) -> Any:
        """Runs a script for a caller of the hub.

        Raises:
            UnavailableError: Redis did not do it, or nobody knows.
        """
        try:
            return await self.run(script, *args)
        except LinkError as error:
            raise unavailable(error.problem, sent=error.sent) from error
        except SweptError:
            raise unavailable("this node was taken for dead, and is about to come back") from None

    async def publish(self, node: str, frame: bytes) -> bool:
        """Tells a node something; whether it is there to hear it.

        Raises:
            LinkError: As of `RedisLink.call`.
        """
        return bool(await self.link.call("PUBLISH", self.channel_of(node), frame))


async def answer(running: asyncio.Future[Any]) -> Any:
    """Waits for what a script returns.

    Raises:
        LinkError: Redis did not do it, or nobody knows.
        SweptError: See there.
    """
    try:
        return await running
    except ResponseError as error:
        if str(error).startswith("SWEPT"):
            raise SweptError from None
        # Out of memory, a script that somebody stopped: the server's word for it is the best.
        raise LinkError(f"Redis refused: {plain(error)}") from error


def unavailable(problem: str, *, sent: bool = False) -> UnavailableError:
    """The error for what cannot be done without Redis.

    Args:
        problem: Why it cannot, for people.
        sent: It was under way: it may have been done.
    """
    doubt = "; what was asked for may have been done" if sent else ""
    return UnavailableError("REALTIME_UNAVAILABLE", f"{problem}{doubt}; try again in a moment")


def texts(values: Sequence[bytes]) -> list[str]:
    """Texts as Redis returns them."""
    return [each.decode() for each in values]

"""Where in Redis the shared registry is, and how it is asked."""

import asyncio
import secrets
from typing import Any

from switchboard_server.backends.redis import registry_scripts as scripts
from switchboard_server.backends.redis.link import LinkError, RedisLink
from switchboard_server.backends.redis.scripts import Argument, Script

Answer = list[str]
"""What a script returns: what happened, and facts."""


class LostError(Exception):
    """Redis does not have the registry that was known, or not as it was known."""


class Place:
    """The registry's keys, as seen by one node.

    Args:
        link: The way to Redis.
        name: The node's name, which no other one has.

    Attributes:
        id: Of the store that is known; empty: none is.
        seen: The last stamp that is known.
        ahead: Redis's Unix time less the monotonic clock here, in seconds.
        token: Names the node since it joined last. It gets another one when the others took it for
            dead.
        channel: The channel on which every write is told.
    """

    def __init__(self, link: RedisLink, name: str) -> None:
        self._link = link
        self._name = name
        self._keys = [link.key("registry", each) for each in scripts.KEYS]
        self.channel = link.channel("registry")
        self.id = ""
        self.seen = 0
        self.ahead = 0.0
        self.token = ""
        self.rename()

    def key(self, part: str) -> str:
        """A key by its last part."""
        return self._keys[scripts.KEYS.index(part)]

    def rename(self) -> None:
        """Makes another token."""
        self.token = f"{self._name}#{secrets.token_hex(4)}"

    async def ask(self, script: Script, *args: Argument, within: float | None = None) -> Answer:
        """Runs a script.

        Args:
            script: The script.
            args: What it is given.
            within: Seconds after which it may not be done any more; None: it always may.

        Raises:
            LostError: The store is not as it was known; nothing was done.
            LinkError: Redis cannot be used; it may have been done.
            redis.exceptions.ResponseError: Redis refuses it.
        """
        expires = ""
        if within is not None:
            now = asyncio.get_running_loop().time()
            expires = str(round((now + self.ahead + within) * 1000))
        head = (self.token, self.id, f"{self.seen} {expires}", self.channel)
        answer = [
            each.decode(errors="replace")
            for each in await self._link.run(script, self._keys, *head, *args)
        ]
        if answer[0] == "lost":
            raise LostError
        if answer[0] == "stale":
            raise LinkError("Redis was reached too late")
        return answer

    async def call(self, command: str, part: str, *args: Argument) -> Any:
        """Does a command on one of the keys; see `RedisLink.call`."""
        return await self._link.call(command, self.key(part), *args)


def node_name(token: str) -> str:
    """The node of a token."""
    return token.rpartition("#")[0]

"""What Redis tells of the shared registry, brought into order and passed on."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import orjson

from switchboard_server.backends.redis.registry_place import Place
from switchboard_server.backends.redis.registry_records import (
    Dial,
    read_change,
    read_key,
    read_row,
)
from switchboard_server.core.registry.sharing import SharedHandler

MAX_WAITING = 100_000
"""Messages that wait for what is missing before them; more of them are missing then, too."""

_logger = logging.getLogger(__name__)


class Feed:
    """Passes messages on in the order of their stamps, as long as none is left out.

    Args:
        handler: Is told.
        place: Where the registry is; it learns the stamp of what was passed on.
        missing: Is called when something is left out; messages then wait until `resume`.
        looked: Is called when other nodes live than before.

    Attributes:
        dial: How the registry's clock stands.
        revision: Of the last change that was passed on.
    """

    def __init__(
        self,
        handler: SharedHandler,
        place: Place,
        missing: Callable[[], None],
        looked: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self._place = place
        self._missing = missing
        self._looked = looked
        self._waiting: list[list[Any]] | None = []
        self.dial = Dial()
        self.revision = 0

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be missing."""
        return self._waiting is None

    def hear(self, data: bytes) -> None:
        """Takes a message of the channel."""
        message = orjson.loads(data)
        kind = message[0]
        if kind == "view":
            self._looked()
        elif kind == "loads":
            self._handler.loads({read_key(key): float(load) for key, load in message[1]})
        elif self._waiting is None:
            self._take(message)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(message)

    def hold(self) -> None:
        """Lets messages wait from now on, because something before them is missing.

        Those that came before are told by what the registry is asked for after that. They may be of
        a registry that is lost, whose stamps say nothing about those of the next.
        """
        self._waiting = []

    def resume(self, stamp: int) -> None:
        """Goes on with the messages that wait.

        Args:
            stamp: Everything up to this one is known.
        """
        waiting, self._waiting = self._waiting or [], None
        self._place.seen = stamp
        for index, message in enumerate(waiting):
            self._take(message)
            if not self.complete:
                # Something is missing again.
                self._waiting = waiting[index:]
                return

    def _take(self, message: list[Any]) -> None:
        stamp = int(message[1])
        if stamp <= self._place.seen:
            return
        if stamp > self._place.seen + 1:
            _logger.info("writes of the registry were not heard; looking them up")
            self._waiting = [message]
            self._missing()
            return
        self._place.seen = stamp
        kind = message[0]
        if kind == "changed":
            change = read_change(message, message[7], self.dial, self._loop.time())
            self.revision = change.revision
            self._handler.changed(change)
        elif kind == "touched":
            self._handler.touched(read_row(message[2], self.dial))
        elif kind == "renewed":
            self._handler.renewed(read_key(message[2]), self.dial.wall_ns(message[3]), stamp)

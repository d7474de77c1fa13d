"""Follows the stream: every message once and in order, over all interruptions."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from switchboard_server.backends.rabbitmq.channel import Channel
from switchboard_server.backends.rabbitmq.credit import Credit
from switchboard_server.backends.rabbitmq.encoding import OFFSET, Delivery
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.stream import (
    Found,
    SilentError,
    Start,
    StreamReader,
    found,
)
from switchboard_server.backends.rabbitmq.waiting import unavailable
from switchboard_server.core.errors import SwitchboardError

PREFETCH = 128
"""Messages on their way here."""
BACK = 64
"""So many messages before the newest one a new reader begins: among those that were not stored,
there is then one that shows it."""
SILENCE_SECONDS = 3.0
"""How long a stream may take to give back a message that was read from it before."""

_logger = logging.getLogger(__name__)


class TailListener(Protocol):
    """Who is told what the tail reads. Must not block and must not raise."""

    def take(self, message: Found, *, newest: bool) -> None:
        """Takes the next message.

        Args:
            message: The message.
            newest: Whether it is among those that came after reading began, or is the last that
                had come before.
        """

    def skipped(self) -> None:
        """Takes notice that messages before the next one are gone."""

    def replaced(self) -> None:
        """Takes notice that the stream is not the one that was read so far, or lost its end."""

    def attached(self, problem: str | None) -> None:
        """Takes notice that the stream is followed (None), or why not."""


class LogTail:
    """The consumer that follows the stream.

    After an interruption it goes on with the message that it read last, to see that the stream
    still is what it was: a consumer that begins beyond the end of a stream waits for ever.

    Args:
        link: The connection.
        reader: Reads ranges of the stream.
        queue: The stream.
        prepare: Sees to it that the stream is there, and tells how many messages are in it, about.
        listener: Who is told.

    Attributes:
        offset: Of the last message; None: none has been read.
        started: Set once it is known what is in the stream, if only that there is nothing.
    """

    def __init__(
        self,
        link: Link,
        reader: StreamReader,
        queue: str,
        prepare: Callable[[], Awaitable[int]],
        listener: TailListener,
    ) -> None:
        self.offset: int | None = None
        self.started = asyncio.Event()
        self._link = link
        self._reader = reader
        self._queue = queue
        self._prepare = prepare
        self._listener = listener
        self._target = 0
        self._digest = 0
        self._expected: int | None = None
        self._verified = asyncio.Event()
        self._channel: Channel | None = None
        self._credit: Credit | None = None
        self._closing: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to follow."""
        self._task = asyncio.create_task(
            self._link.keep("reading the log", self._follow), name="log tail"
        )

    async def close(self) -> None:
        """Stops."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _follow(self) -> None:
        try:
            if not await self._prepare():
                self.started.set()
        except SwitchboardError as error:
            self._listener.attached(error.message)
            raise
        channel = await self._link.channel(prefetch=PREFETCH)
        try:
            start = await self._start()
            self._channel, self._credit = channel, Credit(channel, PREFETCH // 4)
            receiver = partial(self._received, channel)
            await channel.consume(self._queue, receiver, arguments={OFFSET: start})
            await self._verify(channel)
            self._listener.attached(None)
            await channel.ended.wait()
        finally:
            self._channel = None
            self._listener.attached(channel.reason or "it is not read now")
            await channel.close()
        raise unavailable(channel.reason)

    async def _start(self) -> Start:
        """Where to begin."""
        self._verified.clear()
        self._expected = self.offset
        if self.offset is not None:
            return self.offset
        newest = await self._newest()
        self._target = newest.offset
        self.started.set()
        self._verified.set()
        return max(0, newest.offset - BACK)

    async def _newest(self) -> Found:
        """One of the newest messages; waits until there is one."""
        try:
            return await self._reader.first("last", SILENCE_SECONDS)
        except SilentError:
            self.started.set()
        while True:
            try:
                return await self._reader.first("last", 60.0)
            except SilentError:
                _logger.debug("the log is empty")

    async def _verify(self, channel: Channel) -> None:
        """Waits until the stream has shown that it is what it was."""
        waits = [
            asyncio.ensure_future(self._verified.wait()),
            asyncio.ensure_future(channel.ended.wait()),
        ]
        try:
            await asyncio.wait(waits, timeout=SILENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._verified.is_set() or channel.ended.is_set():
            return
        try:
            newest = await self._reader.first("last", SILENCE_SECONDS)
        except SilentError:
            newest = None
        if not self._verified.is_set() and (newest is None or newest.offset < (self.offset or 0)):
            self._begin_anew("it has lost its end")

    def _begin_anew(self, why: str) -> None:
        _logger.error("the stream %s is not what it was: %s", self._queue, why)
        self.offset = self._expected = None
        self._listener.replaced()
        raise unavailable(f"the stream {self._queue} is not what it was: {why}")

    def _received(self, channel: Channel, message: Delivery) -> None:
        if channel is not self._channel:
            return
        each = found(message)
        if self._credit is not None:
            self._credit.took(message.tag)
        if self._expected is not None and not self._recognise(each):
            return
        if self.offset is not None and each.offset <= self.offset:
            return
        self.offset, self._digest = each.offset, _digest(each)
        self._listener.take(each, newest=each.offset >= self._target)

    def _recognise(self, message: Found) -> bool:
        """Looks whether the first message after an interruption is the last one before it."""
        same = message.offset == self._expected and _digest(message) == self._digest
        if message.offset == self._expected and not same:
            if self._channel is not None:
                self.offset = self._expected = None
                _logger.error("the stream %s is another one", self._queue)
                self._listener.replaced()
                self._closing = asyncio.create_task(self._channel.close())
            return False
        self._expected = None
        self._verified.set()
        if not same:
            self._listener.skipped()
        return not same


def _digest(message: Found) -> int:
    body = message.body
    return hash((message.type, len(body), body[:256], body[-256:]))

"""Reading a stream: a consumer that begins at an offset, for as long as somebody wants it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiormq.abc import DeliveredMessage

from switchboard_server.backends.rabbitmq.channel import Channel
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.waiting import CALL_SECONDS, unavailable
from switchboard_server.core.errors import UnavailableError

OFFSET = "x-stream-offset"
"""Where a consumer begins, and in a message where it stands."""
READERS = 3
"""Ranges that are read at the same time; others wait."""
PREFETCH = 32
"""Messages on their way to a reader."""

Start = int | str
"""An offset, or "first" or "last": the first message of the last few, stored together."""


class SilentError(UnavailableError):
    """The stream can be read, and nothing came."""


@dataclass(frozen=True, slots=True)
class Found:
    """A message of a stream.

    Args:
        offset: Where it stands.
        type: Its AMQP type.
        body: Its body.
    """

    offset: int
    type: str
    body: bytes


def found(message: DeliveredMessage) -> Found:
    """A delivered message as what it is in the stream."""
    properties = message.header.properties
    headers: Any = properties.headers or {}
    return Found(int(headers[OFFSET]), properties.message_type or "", message.body)


class Scan:
    """Messages of a stream in order, from an offset on.

    Args:
        channel: Its consumer is on it, and nothing else.
        queue: The stream.
    """

    def __init__(self, channel: Channel, queue: str) -> None:
        self._channel = channel
        self._queue = queue
        self._arrived: asyncio.Queue[DeliveredMessage | None] = asyncio.Queue()
        self._tag = ""
        self._taken = self._acknowledged = 0
        channel.on_end(lambda: self._arrived.put_nowait(None))

    async def begin(self, start: Start) -> None:
        """Begins to read."""
        self._tag = await self._channel.consume(
            self._queue, self._arrived.put_nowait, arguments={OFFSET: start}
        )

    async def next(self, seconds: float = CALL_SECONDS) -> Found:
        """Waits for the next message.

        Raises:
            SilentError: None came in that time.
            UnavailableError: The connection has ended.
        """
        try:
            async with asyncio.timeout(seconds):
                message = await self._arrived.get()
        except TimeoutError:
            raise SilentError(
                "LOG_UNAVAILABLE", f"RabbitMQ: nothing came from {self._queue} in {seconds:g} s"
            ) from None
        if message is None:
            raise unavailable(f"reading {self._queue} ended: {self._channel.reason}")
        self._taken = message.delivery_tag or 0
        if self._taken % (PREFETCH // 2) == 0:
            await self._acknowledge()
        return found(message)

    async def end(self) -> None:
        """Stops, so that the channel can be used again."""
        await self._channel.cancel(self._tag)
        while not self._arrived.empty():
            message = self._arrived.get_nowait()
            if message is not None:
                self._taken = message.delivery_tag or 0
        await self._acknowledge()

    async def _acknowledge(self) -> None:
        if self._taken > self._acknowledged:  # Twice would be an error.
            self._acknowledged = self._taken
            await self._channel.acknowledge(self._taken, multiple=True)


class StreamReader:
    """Reads ranges of a stream, a few at a time, over channels that are kept.

    Args:
        link: The connection; better not the one that the tail comes through, which would wait.
        queue: The stream.
    """

    def __init__(self, link: Link, queue: str) -> None:
        self._link = link
        self._queue = queue
        self._room = asyncio.Semaphore(READERS)
        self._idle: list[Channel] = []

    @asynccontextmanager
    async def scan(self, start: Start) -> AsyncIterator[Scan]:
        """Reads from an offset on.

        Raises:
            UnavailableError: The stream cannot be read now.
        """
        async with self._room:
            channel = await self._channel()
            scan = Scan(channel, self._queue)
            try:
                await scan.begin(start)
                try:
                    yield scan
                except GeneratorExit:  # Who reads has enough.
                    await self._end(scan, channel)
                    raise
                await self._end(scan, channel)
            except GeneratorExit:
                raise
            except BaseException:
                await channel.close()
                raise

    async def _end(self, scan: Scan, channel: Channel) -> None:
        await scan.end()
        self._idle.append(channel)

    async def first(self, start: Start, seconds: float = CALL_SECONDS) -> Found:
        """The first message from an offset on."""
        async with self.scan(start) as scan:
            return await scan.next(seconds)

    async def close(self) -> None:
        """Lets go of the channels."""
        idle, self._idle = self._idle, []
        for channel in idle:
            await channel.close()

    async def _channel(self) -> Channel:
        while self._idle:
            channel = self._idle.pop()
            if not channel.ended.is_set():
                return channel
        return await self._link.channel(prefetch=PREFETCH)

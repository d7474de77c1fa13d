"""Reading a stream: a consumer that begins at an offset, for as long as somebody wants it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from switchboard_server.backends.rabbitmq.channel import Channel
from switchboard_server.backends.rabbitmq.encoding import OFFSET, Delivery
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.waiting import CALL_SECONDS, unavailable
from switchboard_server.core.errors import UnavailableError

"""Where a consumer begins, and in a message where it stands."""
READERS = 3
"""Ranges that are read at the same time; others wait."""
PREFETCH = 32
"""Messages on their way to a reader."""
FEW = 2
"""The same where the first ones may be enough, since each may be as large as a record."""

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


def found(message: Delivery) -> Found:
    """A delivered message as what it is in the stream."""
    return Found(message.offset, message.type, message.body)


class Scan:
    """Messages of a stream in order, from an offset on. It can be begun again when it has ended.

    Args:
        channel: Its consumer is on it, and nothing else.
        queue: The stream.
        prefetch: How many messages the channel lets come at once.
    """

    def __init__(self, channel: Channel, queue: str, prefetch: int) -> None:
        self.channel = channel
        self._every = max(1, prefetch // 2)
        self._queue = queue
        self._arrived: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self._tag = ""
        self._taken = self._acknowledged = 0
        channel.on_end(lambda: self._arrived.put_nowait(None))

    async def begin(self, start: Start) -> None:
        """Begins to read."""
        self._tag = await self.channel.consume(
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
            raise unavailable(f"reading {self._queue} ended: {self.channel.reason}")
        self._taken = message.tag
        if self._taken - self._acknowledged >= self._every:
            await self._acknowledge()
        return found(message)

    async def end(self) -> None:
        """Stops, so that the channel can be used again."""
        await self.channel.cancel(self._tag)
        while not self._arrived.empty():
            message = self._arrived.get_nowait()
            if message is not None:
                self._taken = message.tag
        await self._acknowledge()

    async def _acknowledge(self) -> None:
        if self._taken > self._acknowledged:  # Twice would be an error.
            self._acknowledged = self._taken
            await self.channel.acknowledge(self._taken, multiple=True)


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
        self._idle: dict[int, list[Scan]] = {PREFETCH: [], FEW: []}

    @asynccontextmanager
    async def scan(self, start: Start, prefetch: int = PREFETCH) -> AsyncIterator[Scan]:
        """Reads from an offset on.

        Args:
            start: Where.
            prefetch: PREFETCH, or FEW where the first message may be enough.

        Raises:
            UnavailableError: The stream cannot be read now.
        """
        async with self._room:
            scan = await self._scan(prefetch)
            try:
                await scan.begin(start)
                yield scan
            except GeneratorExit:  # Who reads has enough.
                await self._end(scan, prefetch)
                raise
            except BaseException:
                await scan.channel.close()
                raise
            await self._end(scan, prefetch)

    async def first(self, start: Start, seconds: float = CALL_SECONDS) -> Found:
        """The first message from an offset on."""
        async with self.scan(start, FEW) as scan:
            return await scan.next(seconds)

    async def close(self) -> None:
        """Lets go of the channels."""
        for idle in self._idle.values():
            while idle:
                await idle.pop().channel.close()

    async def _end(self, scan: Scan, prefetch: int) -> None:
        try:
            await scan.end()
        except UnavailableError:
            await scan.channel.close()
        else:
            self._idle[prefetch].append(scan)

    async def _scan(self, prefetch: int) -> Scan:
        idle = self._idle[prefetch]
        while idle:
            scan = idle.pop()
            if not scan.channel.ended.is_set():
                return scan
        return Scan(await self._link.channel(prefetch=prefetch), self._queue, prefetch)

"""The bytes of a connection, of which frequent frames are taken on their way to the driver.

The driver reads every frame in three steps and hands it from task to task, which takes longer than
RabbitMQ needs to pass a message on. What it does not have to see is handed over at once instead, in
the call that the event loop makes when bytes have come.
"""

import asyncio
from typing import Any, Protocol

from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

from switchboard_server.backends.rabbitmq.encoding import (
    BODY,
    HEAD_BYTES,
    HEADER,
    HEARTBEAT,
    METHOD,
)

_KINDS = frozenset((METHOD, HEADER, BODY, HEARTBEAT))
_READ_BUFFER = 1024 * 1024


class FrameTaker(Protocol):
    """Who wants the frames of a channel."""

    def take(self, data: bytes, start: int, end: int) -> bool:
        """Takes a frame.

        Args:
            data: Bytes that hold the frame.
            start: Where it begins there.
            end: Where it ends.

        Returns:
            Whether it was taken; the driver gets it otherwise.
        """


class FrameProtocol(asyncio.StreamReaderProtocol):
    """Cuts what comes into frames.

    Args:
        reader: What the driver reads from.
        loop: The event loop.

    Attributes:
        takers: Who wants the frames of which channel.
        heard: When bytes came the last time, seconds of the loop's clock.
    """

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self.takers: dict[int, FrameTaker] = {}
        self.heard = loop.time()
        self._clock = loop.time
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.heard = self._clock()
        if self._rest:
            data = self._rest + data
        start, size = 0, len(data)
        while size - start > HEAD_BYTES:
            if data[start] not in _KINDS:
                # No frame: a server of another protocol, about which the driver complains.
                super().data_received(data[start:])
                start = size
                break
            end = start + HEAD_BYTES + int.from_bytes(data[start + 3 : start + 7], "big") + 1
            if end > size:
                break
            taker = self.takers.get(data[start + 1] << 8 | data[start + 2])
            if taker is None or not taker.take(data, start, end):
                super().data_received(data[start:end])
            start = end
        self._rest = data[start:]

    def eof_received(self) -> bool | None:
        """See `asyncio.Protocol`."""
        if self._rest:
            super().data_received(self._rest)
            self._rest = b""
        return super().eof_received()


class Transport(TransportFactory):
    """Makes a connection's transport, can write past the driver, and can cut it.

    Attributes:
        frames: What comes; only once there is a connection.
    """

    frames: FrameProtocol

    def __init__(self) -> None:
        self._writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connects."""
        context = None
        if url.scheme == "amqps":
            context = await kwargs["ssl_context_provider"].get_context()
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_READ_BUFFER, loop=loop)
        frames = FrameProtocol(reader, loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: frames, url.host or "", url.port or 0, ssl=context
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self.frames = frames
        self._writer = asyncio.StreamWriter(transport, frames, reader, loop)
        return reader, self._writer

    def write(self, frames: bytes) -> None:
        """Sends whole frames, before all that the driver has not written yet.

        None where the connection has ended and nobody has noticed: uvloop would raise then.
        """
        if self._writer is not None and not self._writer.transport.is_closing():
            self._writer.transport.write(frames)

    def abort(self) -> None:
        """Cuts it, if it is not gone."""
        if self._writer is not None:
            self._writer.transport.abort()

"""The bytes of a connection, of which frequent frames are taken on their way to the driver.

The driver reads every frame in three steps and hands it from task to task, which takes several
times as long as what RabbitMQ itself needs for a message. What it does not have to see is handed
over at once instead, in the call that the event loop makes when bytes have come.
"""

import asyncio
from typing import Any, Protocol

from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

METHOD, HEADER, BODY = 1, 2, 3
"""Kinds of frames; there is also the heartbeat's."""
_HEARTBEAT = 8
_KINDS = frozenset((METHOD, HEADER, BODY, _HEARTBEAT))
_HEAD_BYTES = 7
"""Kind, channel (2) and size (4); behind the payload stands one byte that ends a frame."""
_READ_BUFFER = 1024 * 1024


class FrameTaker(Protocol):
    """Who wants the frames of a channel."""

    def take(self, frame: bytes) -> bool:
        """Takes a frame.

        Args:
            frame: All of it.

        Returns:
            Whether it was taken; the driver gets it otherwise. It also gets nothing of a message of
            which the first frame was taken.
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
        at, size = 0, len(data)
        while size - at > _HEAD_BYTES:
            if data[at] not in _KINDS:
                # No frame: a server of another protocol, about which the driver complains.
                super().data_received(data[at:])
                at = size
                break
            end = at + _HEAD_BYTES + int.from_bytes(data[at + 3 : at + 7], "big") + 1
            if end > size:
                break
            frame = data[at:end]
            at = end
            taker = self.takers.get(int.from_bytes(frame[1:3], "big"))
            if taker is None or not taker.take(frame):
                super().data_received(frame)
        self._rest = data[at:]

    def eof_received(self) -> bool | None:
        """See `asyncio.Protocol`."""
        if self._rest:
            super().data_received(self._rest)
            self._rest = b""
        return super().eof_received()


class Transport(TransportFactory):
    """Makes a connection's transport, hears and writes past the driver, and can cut it.

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
        """Sends whole frames, before all that the driver has not written yet."""
        if self._writer is not None:
            self._writer.write(frames)

    def abort(self) -> None:
        """Cuts it, if it is not gone."""
        if self._writer is not None:
            self._writer.transport.abort()

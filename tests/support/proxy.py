"""A TCP link that a test cuts, mends, clogs and slows down."""

import asyncio
import socket
import struct
from typing import Self

from tests.support.servers import LOOPBACK, free_port

_CHUNK_BYTES = 65536
_CHUNKS = 64
"""How much of each direction it holds before it reads no more."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: closing resets the connection instead of ending it in good order."""


class TcpProxy:
    """Passes bytes between who connects to its port and a server, until told otherwise.

    It belongs to the event loop in which it was entered.

    Args:
        port: The server's port, on loopback.
    """

    def __init__(self, port: int) -> None:
        self.port = free_port()
        """Where it listens, from its start to its end."""
        self.connections = 0
        """How many were ever made through it."""
        self._target = port
        self._listener: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay = 0.0

    async def cut(self) -> None:
        """Resets all connections, and refuses new ones."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for link in self._links:
            link.cancel()
        if self._links:
            await asyncio.wait(self._links)

    async def restore(self) -> None:
        """Accepts connections again, and lets go on what a black hole held up."""
        self._flowing.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._accept, LOOPBACK, self.port, reuse_address=True
            )

    def blackhole(self) -> None:
        """Lets nothing through any more, in either direction, without closing anything."""
        self._flowing.clear()

    def delay(self, seconds: float) -> None:
        """Delays what comes from now on by so much, in each direction."""
        self._delay = seconds

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = asyncio.create_task(self._join(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            # A connection that is made through a black hole waits for the far end as well.
            await self._flowing.wait()
            far_reader, far_writer = await asyncio.open_connection(LOOPBACK, self._target)
            ends.append(far_writer)
            ways = [
                asyncio.create_task(self._pass(reader, far_writer)),
                asyncio.create_task(self._pass(far_reader, writer)),
            ]
            try:
                # One end that closes, closes the other: no protocol here goes on in one direction.
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except asyncio.CancelledError:
            for end in ends:
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.transport.abort()
            raise
        except OSError:
            pass  # The server cannot be reached, which the near end learns by being closed.
        finally:
            for end in ends:
                end.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Passes on what one end sends, until it has closed or either is lost."""
        loop = asyncio.get_running_loop()
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS)

        async def deliver() -> None:
            while True:
                due, data = await held.get()
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                await self._flowing.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()

        delivering = asyncio.create_task(deliver())
        try:
            data = b"."
            while data:
                data = await reader.read(_CHUNK_BYTES)
                await held.put((loop.time() + self._delay, data))
            await delivering
        finally:
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

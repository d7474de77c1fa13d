"""A WebSocket connection of the websockets library, with what the bridge needs besides.

**Raw writes.** What goes to many connections is framed once, and written to each transport as it
is, past the library. That is safe beside the library's own writes because

- the library writes whole frames, each in one call of `transport.write`, from the loop's thread;
- only a message that is sent in fragments is unfinished between two calls, and the bridge sends
  none;
- without extensions (compression is off) a frame is what RFC 6455 says, and a server masks nothing;
- after a close frame nothing more is written, and nothing to a transport that is closed, because
  `write` asks first.

What goes to thousands is written past the transport as well (`fan_out`), which is safe while the
transport has nothing to write itself, and until it says that the connection is lost: only then does
it close the socket.

`tests/integration/test_raw_writes.py` holds it to that.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Event, State

from switchboard_server.bridge.rates import TokenBucket

PING = b"\x89\x00"
"""A ping without content."""

_OTHER_METHODS = frozenset({b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"})
_LONGEST_METHOD = max(map(len, _OTHER_METHODS))
_OPEN = State.OPEN
_CONTROL = (Opcode.PING, Opcode.PONG)
_BITE_BYTES = 4096
"""How much of what came is looked at before looking whether it is too much: a read brings up to
256 KB, which hold 40 thousand pings."""
_NOBODY_WATCHES = bytearray(1)
_NO_REQUEST = Request("", Headers())
_NO_RESPONSE = Response(HTTPStatus.SWITCHING_PROTOCOLS, "", Headers())


class BridgeConnection(ServerConnection):
    """One connection, of a browser or of whoever asks for a page.

    Attributes:
        made: When it began, by the loop's clock.
        heard: When anything last came, by the loop's clock.
        on_writable: Is called when the write buffer has room again.
        on_lost: Is called when the connection is gone.
        on_flood: Is called when the client sends so many pings and pongs that nothing more of it is
            looked at.
        socket: Its file descriptor, for writing past the transport; -1: there must be none such.
    """

    registry: set["BridgeConnection"]
    """Holds every connection that is open; set by `connection_class`."""

    refusal: Callable[[HTTPStatus], Response]
    """Makes the response to what is no proper request; set by `connection_class`."""

    on_unasked: Callable[["BridgeConnection"], None]
    """Is called when a connection is gone that never sent a request; set by `connection_class`."""

    control_rate: int
    """How many pings and pongs a second are a client's right; set by `connection_class`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._start = b""
        self._deaf = False
        self._ready, self._place = _NOBODY_WATCHES, 0
        self.socket = -1
        self.made = self.heard = self.loop.time()
        self.on_writable: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.on_flood: Callable[[], None] | None = None
        self._controls = TokenBucket(self.control_rate, self.made)
        self._flooded = False

    @property
    def open(self) -> bool:
        """Whether frames may be written."""
        # A transport may be closed for a moment before the protocol hears of it, and then uvloop's
        # raises an error.
        return self.protocol.state is _OPEN and not self.transport.is_closing()

    @property
    def gone(self) -> bool:
        """Whether it has ended, so that `on_lost` will not be called any more."""
        return self not in self.registry

    def behind(self) -> bool:
        """Whether the client has yet to read so much that more should wait."""
        return self.paused

    def write(self, frames: bytes) -> None:
        """Writes whole frames, unless the connection is closing.

        Never waits: whoever writes much asks `behind` first.
        """
        self._ready[self._place] = 0
        if self.open:
            self.transport.write(frames)

    def watch(self, ready: bytearray, place: int) -> None:
        """Has a byte set to 0 whenever the socket is not to be written to past the transport."""
        self._ready, self._place = ready, place

    def drained(self) -> bool:
        """Whether the socket can be written to past the transport, which has nothing to write."""
        return self.socket >= 0 and not self.transport.get_write_buffer_size()

    def begin_close(self, code: int, reason: str, seconds: float) -> None:
        """Starts the closing handshake, after all that was written.

        Args:
            code: Close code.
            reason: At most 123 bytes.
            seconds: How long the client has to take it; then the connection is cut.
        """
        if self.open:
            self.protocol.send_close(code, reason)
            self.send_data()
            self.loop.call_later(seconds, self.transport.abort)

    def forget_handshake(self) -> None:
        """Lets go of the headers, which would take more memory than all the rest."""
        self.request, self.response = _NO_REQUEST, _NO_RESPONSE

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.registry.add(self)
        super().connection_made(transport)
        if transport.get_extra_info("sslcontext") is None:
            self.socket = transport.get_extra_info("socket").fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.registry.discard(self)
        self._ready[self._place] = 0
        self.socket = -1
        super().connection_lost(exc)
        if self.request is None:
            type(self).on_unasked(self)
        if self.on_lost is not None:
            self.on_lost()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().resume_writing()
        if self._deaf:
            self._deaf = False
            if not self.recv_messages.paused:
                self.transport.resume_reading()
        if self.on_writable is not None:
            self.on_writable()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.heard = self.loop.time()
        if self.request is None and len(self._start) <= _LONGEST_METHOD:
            self._start += data[: _LONGEST_METHOD + 1]
        for start in range(0, len(data), _BITE_BYTES):
            if self._flooded:
                return
            super().data_received(data[start : start + _BITE_BYTES])
        if self.paused and not self._deaf and not self.transport.is_closing():
            # Pings are answered as they come. A client that sends them and reads no answer would
            # have them fill the memory, so it is not read either until it reads.
            self._deaf = True
            self.transport.pause_reading()

    def process_event(self, event: Event) -> None:
        """See `websockets`."""
        super().process_event(event)
        if isinstance(event, Frame) and event.opcode in _CONTROL:
            self._count_control()

    def _count_control(self) -> None:
        """Counts a ping or a pong, which no queue holds back as it does other frames."""
        controls = self._controls
        if controls.take(self.heard) or controls.refused < self.control_rate or self._flooded:
            return
        self._flooded = True
        if self.on_flood is None:
            self.transport.abort()
        else:
            self.on_flood()

    def send_data(self) -> None:
        """Writes what the library has to say; answers what it would only hang up on.

        That is anything that cannot start a WebSocket: a request with a body, and what is no HTTP
        at all. A client deserves to be told.
        """
        self._ready[self._place] = 0
        # Something came that cannot be parsed, and only the end of the stream is to be sent.
        if self._start and self.protocol.handshake_exc and self.protocol.writes == [b""]:
            method = self._start.partition(b" ")[0]
            allowed = method not in _OTHER_METHODS
            status = HTTPStatus.BAD_REQUEST if allowed else HTTPStatus.METHOD_NOT_ALLOWED
            self.transport.write(type(self).refusal(status).serialize())
        super().send_data()


def connection_class(
    registry: set[BridgeConnection],
    refusal: Callable[[HTTPStatus], Response],
    on_unasked: Callable[[BridgeConnection], None],
    control_rate: int,
) -> type[BridgeConnection]:
    """Makes the class of a server's connections.

    Args:
        registry: Holds the connections while they are open.
        refusal: Makes the response to what is no proper request.
        on_unasked: Is called when a connection is gone that never sent a request.
        control_rate: How many pings and pongs a second are a client's right.
    """
    members = {
        "registry": registry,
        "refusal": staticmethod(refusal),
        "on_unasked": staticmethod(on_unasked),
        "control_rate": control_rate,
    }
    return type("Connection", (BridgeConnection,), members)

"""Sends what goes to thousands of WebSockets: framed once, and written to each in one short loop.

What that loop looks at lies side by side in two arrays. To look into each connection and transport
instead would take longer than Python takes for all the rest, since thousands of them do not fit
into a processor's cache.
"""

import os
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress

from switchboard_server.bridge.connection import BridgeConnection
from switchboard_server.bridge.flushing import Flusher
from switchboard_server.bridge.messages import ItemFrames
from switchboard_server.core.realtime.messages import Delivered
from switchboard_server.telemetry.bridge_metrics import BridgeMetrics


class FanOut:
    """The `Fan` of the bridge.

    Args:
        flusher: Says when to write.
        frames: Makes the frames.
        metrics: Counts.
    """

    def __init__(self, flusher: Flusher, frames: ItemFrames, metrics: BridgeMetrics) -> None:
        self._flusher = flusher
        self._frames = frames
        self._metrics = metrics
        # By outlet: the connection, its socket, and whether that can be written to without further
        # ado. That one has just begun, or something was given to its transport, ends it.
        self._connections: list[BridgeConnection | None] = []
        self._sockets = array("i")
        self._ready = bytearray()
        self._free: list[int] = []

    def add(self, connection: BridgeConnection) -> int:
        """Gives a connection an outlet, until `remove`."""
        if self._free:
            outlet = self._free.pop()
            self._connections[outlet] = connection
            self._sockets[outlet] = connection.socket
        else:
            outlet = len(self._connections)
            self._connections.append(connection)
            self._sockets.append(connection.socket)
            self._ready.append(0)
        connection.watch(self._ready, outlet)
        return outlet

    def remove(self, outlet: int) -> None:
        """Takes an outlet back, which may then be another's."""
        self._connections[outlet] = None
        self._ready[outlet] = 0
        self._free.append(outlet)

    def schedule(self, send: Callable[[], None], receivers: int) -> None:
        """See `Fan`."""
        self._flusher.add(send, receivers)

    def send(self, messages: Sequence[Delivered], outlets: Sequence[int]) -> Sequence[int]:
        """See `Fan`."""
        frames = b"".join(map(self._frames.of, messages))
        size = len(frames)
        ready, sockets, write = self._ready, self._sockets, os.write
        missed = []
        for index, outlet in enumerate(outlets):
            sent = 0
            if ready[outlet]:
                try:
                    sent = write(sockets[outlet], frames)
                except OSError:
                    # It takes nothing now, or is broken; its transport finds out which.
                    sent = 0
                if sent == size:
                    continue
            if not self._write(outlet, frames, sent):
                missed.append(index)
        self._metrics.frames_out += len(messages) * (len(outlets) - len(missed))
        return missed

    def _write(self, outlet: int, frames: bytes, sent: int) -> bool:
        """Writes what remains of some frames, unless the client does not read, or is gone."""
        connection = self._connections[outlet]
        if connection is None or not connection.open or (connection.behind() and not sent):
            return False
        if not sent and connection.drained():
            self._ready[outlet] = 1
            with suppress(OSError):
                sent = os.write(connection.socket, frames)
        if sent < len(frames):
            connection.write(frames[sent:])
        return True

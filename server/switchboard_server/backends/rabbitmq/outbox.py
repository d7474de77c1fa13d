"""What a node sends to another, gathered into messages by load."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from switchboard_server.backends.rabbitmq.packets import Pieces
from switchboard_server.backends.rabbitmq.waiting import UnroutableError
from switchboard_server.core.errors import ResourceExhaustedError, SwitchboardError

MESSAGE_BYTES = 512 * 1024
"""An AMQP message takes no further packet once it holds so many bytes."""
IN_FLIGHT = 4
"""Messages on their way to a node while others gather."""
MOST_BYTES = 64 * 1024 * 1024
"""What may wait for a node."""

Failed = Callable[[SwitchboardError], None]


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet that waits.

    Args:
        pieces: Its bytes.
        failed: Hears that it did not arrive, or that nobody knows.
        size: How many bytes it has.
    """

    pieces: Pieces
    failed: Failed | None
    size: int


class Outbox:
    """The packets for one node, in order. Sends whatever has gathered as one message.

    Args:
        send: Sends a message of some packets, and calls `sent` when that is over.
        wake: Has `flush` called soon.
    """

    def __init__(self, send: Callable[[list[Packet]], None], wake: Callable[[], None]) -> None:
        self._send = send
        self._wake = wake
        self._waiting: deque[Packet] = deque()
        self._bytes = 0
        self._in_flight = 0
        self._awake = False

    def put(self, pieces: Pieces, failed: Failed | None = None, *, bounded: bool = True) -> None:
        """Sends a packet, after those before it.

        Args:
            pieces: The packet.
            failed: As of `Packet`.
            bounded: Refuse it where too much waits.

        Raises:
            ResourceExhaustedError: Too much waits.
        """
        size = sum(map(len, pieces))
        if bounded and self._bytes and self._bytes + size > MOST_BYTES:
            raise ResourceExhaustedError(
                "OVERLOADED",
                "another node does not keep up with what it is sent; try again later",
                metadata={"limit": str(MOST_BYTES)},
            )
        self._bytes += size
        self._waiting.append(Packet(pieces, failed, size))
        if not self._awake and self._in_flight < IN_FLIGHT:
            self._awake = True
            self._wake()

    def flush(self) -> None:
        """Sends what waits."""
        self._awake = False
        while self._waiting and self._in_flight < IN_FLIGHT:
            taken, size = [], 0
            while self._waiting and size < MESSAGE_BYTES:
                packet = self._waiting.popleft()
                size += packet.size
                taken.append(packet)
            self._bytes -= size
            self._in_flight += 1
            self._send(taken)

    def sent(self, taken: list[Packet], error: SwitchboardError | None) -> None:
        """Takes notice that a message has arrived, or why not."""
        self._in_flight -= 1
        if error is not None:
            fail(taken, error)
        self.flush()

    def close(self, error: SwitchboardError) -> None:
        """Lets go of what waits."""
        waiting, self._waiting = list(self._waiting), deque()
        self._bytes = 0
        fail(waiting, error)


def fail(packets: list[Packet], error: SwitchboardError) -> None:
    """Tells who waits for them that they did not arrive."""
    for packet in packets:
        if packet.failed is not None:
            packet.failed(error)


class Outboxes:
    """One outbox for each node that something was sent to.

    Args:
        send: Publishes a message for a node.
        gone: Is told of a node for which a message came back.
    """

    def __init__(
        self,
        send: Callable[[str, bytes], "asyncio.Future[None]"],
        gone: Callable[[str], None],
    ) -> None:
        self._send = send
        self._gone = gone
        self._boxes: dict[str, Outbox] = {}

    def put(
        self, session: str, pieces: Pieces, failed: Failed | None = None, *, bounded: bool = True
    ) -> None:
        """Sends a packet to a node. See `Outbox.put`."""
        box = self._boxes.get(session)
        if box is None:

            def wake() -> None:
                asyncio.get_running_loop().call_soon(made.flush)

            made = box = self._boxes[session] = Outbox(
                lambda taken: self._publish(session, made, taken), wake
            )
        box.put(pieces, failed, bounded=bounded)

    def close(self, session: str, error: SwitchboardError) -> None:
        """Lets go of what waits for a node that is gone."""
        box = self._boxes.pop(session, None)
        if box is not None:
            box.close(error)

    def _publish(self, session: str, box: Outbox, taken: list[Packet]) -> None:
        body = b"".join([piece for packet in taken for piece in packet.pieces])

        def done(outcome: "asyncio.Future[None]") -> None:
            error = outcome.exception()
            if isinstance(error, UnroutableError):
                # First, so that who waits knows that this was certainly not done.
                fail(taken, error)
                self._gone(session)
                self.close(session, error)
            box.sent(taken, error if isinstance(error, SwitchboardError) else None)

        self._send(session, body).add_done_callback(done)

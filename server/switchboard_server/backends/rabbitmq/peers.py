"""Messages between the nodes of a hub: to one of them, to whoever holds a seat, to all."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from switchboard_server.backends.rabbitmq.agreement import Agreement
from switchboard_server.backends.rabbitmq.attendance import Attendance
from switchboard_server.backends.rabbitmq.channel import Channel
from switchboard_server.backends.rabbitmq.encoding import Delivery, Envelope, Properties
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.messages import (
    AtSeat,
    Body,
    Received,
    Receiver,
    Target,
    joined,
    name_of,
)
from switchboard_server.backends.rabbitmq.outbox import Failed, Outboxes
from switchboard_server.backends.rabbitmq.packets import (
    Head,
    Kind,
    PacketError,
    Pieces,
    Reply,
    decode,
    encode,
    pack,
    unpack,
)
from switchboard_server.backends.rabbitmq.requests import Requests
from switchboard_server.backends.rabbitmq.roster import (
    SILENT_BEATS,
    Alive,
    Holding,
    Node,
)
from switchboard_server.backends.rabbitmq.topology import NODE, Topology
from switchboard_server.backends.rabbitmq.waiting import UnroutableError, failed, unavailable

BEAT_SECONDS = 1.0
"""How often a node says that it is there."""

T = TypeVar("T")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Expelled:
    """Tells a node that it was thought to be gone."""


@dataclass(frozen=True, slots=True)
class _Ping:
    """Comes back where the connection of a node has ended, before the node is missed."""


class Peers(Attendance):
    """The nodes that share a RabbitMQ and a prefix, as one of them sees them.

    A node has an address for as long as its connection lasts (a *session*): what was sent to an
    earlier one does not arrive, and both sides hear that the other is gone and has come back.
    Messages of one session to another arrive in the order of the calls, each at most once.

    A request to a seat goes to the node that said it holds it, for just that term: who does not
    hold it any more says so, and does nothing. While nobody holds it, requests wait.

    Args:
        link: The connection. Closed by who made it.
        topology: The names.
        node_id: Name of this node, unlike those of all others and of its own earlier runs.

    Attributes:
        id: The name of this node.
        agreement: What all nodes need in common.
    """

    def __init__(self, link: Link, topology: Topology, node_id: str) -> None:
        super().__init__()
        self.id = node_id
        self.agreement = Agreement()
        self._link = link
        self._topology = topology
        self._requests = Requests(self)
        self._roster.node_listeners[self] = self._node_changed
        self._roster.seat_listeners[self] = self._requests.seat_changed
        self._receivers: dict[str, tuple[type[Any], Receiver]] = {}
        self._outboxes = Outboxes(self._send, self._roster.remove)
        self._channel: Channel | None = None
        self._envelope = Envelope(Properties())
        self._ready = asyncio.Event()
        self._beat = 0
        self._heard = 0
        self._ending: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.on_tell(Alive, self._alive)
        self.on_tell(_Expelled, self._expelled)
        self.on_tell(_Ping, lambda _: None)

    # --- Messages ----------------------------------------------------------------------------

    def on_request(
        self, kind: type[T], handler: Callable[[Received[T]], Awaitable[object]]
    ) -> None:
        """Says who answers requests.

        Args:
            kind: The dataclass that is the message.
            handler: Answers with a dataclass, a `Reply`, or None, or raises a SwitchboardError,
                which the sender then gets. Each runs in a task of its own, and is cancelled when
                its sender does not wait any longer.
        """
        self._requests.handle(kind, handler)

    def on_tell(self, kind: type[T], receiver: Callable[[Received[T]], None]) -> None:
        """Says who takes messages that want no answer.

        Args:
            kind: The dataclass that is the message.
            receiver: Must not block and must not raise.
        """
        self._receivers[name_of(kind)] = (kind, receiver)

    async def request(
        self,
        target: Target,
        message: object,
        expects: type[T],
        *,
        body: Body = b"",
        seconds: float,
        again: bool = False,
    ) -> Reply[T]:
        """Sends a message and waits for the answer.

        Safe to cancel: what has been sent is done all the same.

        Args:
            target: To whom.
            message: A dataclass.
            expects: Of which type the answer's message is; `type(None)`: it has none.
            body: Bytes to go with it.
            seconds: How long to wait, for a seat to be taken too.
            again: Where the holder of a seat is lost before it answered, send it to the next one.
                It may then be done twice. What was certainly not done is always sent again.

        Raises:
            UnavailableError: The node is gone, or there was no answer in time. Whether it was done
                is not known.
            ResourceExhaustedError: Too much waits to be sent to that node.
            SwitchboardError: What the handler raised.
        """
        return await self._requests.request(
            target, message, expects, body=body, seconds=seconds, again=again
        )

    def tell(self, target: Target, message: object, body: Body = b"") -> bool:
        """Sends a message that wants no answer. It arrives, or the node is soon said to be gone.

        Args:
            target: To whom.
            message: A dataclass.
            body: Bytes to go with it.

        Returns:
            Whether it was sent: False where the node is gone, or nobody holds the seat.

        Raises:
            ResourceExhaustedError: Too much waits to be sent to that node.
        """
        seat = target.name if isinstance(target, AtSeat) else ""
        term = self.term(seat) if isinstance(target, AtSeat) else Holding(target, 0)
        if term is None or term.session not in self.nodes:
            return False
        name = name_of(type(message))
        if term.session == self.session:
            received = Received(message, joined(body), self.session)
            asyncio.get_running_loop().call_soon(self._receive, name, received)
            return True
        head = Head(Kind.TELL, name, 0, encode(message), seat, term.epoch)
        self._outboxes.put(term.session, pack(head, body))
        return True

    # --- Life --------------------------------------------------------------------------------

    async def wait_ready(self) -> None:
        """Waits until this node has an address. Others are known a moment later."""
        await self._ready.wait()

    async def start(self) -> None:
        """Begins to take part, and does not wait until it does."""
        self._task = asyncio.create_task(
            self._link.keep("talking to other nodes", self._take_part), name="peers"
        )

    async def close(self) -> None:
        """Says good-bye. Requests that wait fail."""
        if self._task is None:
            return
        if self._channel is not None:
            self._holds.clear()
            self._stands.clear()
            gone = self._say(leaving=True)
            if gone is not None:
                await asyncio.wait([gone], timeout=1.0)
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait([task])
        await self._requests.close()

    async def _take_part(self) -> None:
        channel = await self._link.channel(confirms=True)
        session = f"{self.id}.{secrets.token_hex(4)}"
        queue = self._topology.node(session)
        try:
            await channel.declare_exchange(self._topology.nodes, "fanout")
            await channel.declare_queue(queue, NODE, durable=False, exclusive=True)
            await channel.bind(queue, self._topology.nodes)
            self._channel, self._beat, self._heard = channel, 0, 0
            self._envelope = Envelope(Properties(reply_to=session))
            self._roster.begin(session)
            await channel.consume(queue, self._received, no_ack=True)
            self._say(joined=True)
            self._ready.set()
            await self._keep_saying(channel)
        finally:
            self._channel = None
            self._ready.clear()
            self._roster.begin("")
            await channel.close()
        raise unavailable(channel.reason)

    async def _keep_saying(self, channel: Channel) -> None:
        while not channel.ended.is_set():
            self._beat += 1
            self._say()
            for session in self.nodes:
                if session != self.session:
                    self._outboxes.put(session, _PING, bounded=False)
            try:
                async with asyncio.timeout(BEAT_SECONDS):
                    await channel.ended.wait()
            except TimeoutError:
                # A broker that takes no messages now takes none on another connection either.
                if self._beat - self._heard > 2 * SILENT_BEATS and not self._link.blocked:
                    self._link.reset("it does not deliver what this node sends to itself")

    def _say(
        self, *, joined: bool = False, leaving: bool = False, to: str = ""
    ) -> "asyncio.Future[None] | None":
        if self._channel is None:
            return None
        alive = Alive(
            self.id,
            self.session,
            dict(self._holds),
            sorted(self._stands),
            self._beat,
            joined,
            leaving,
            self.agreement.facts(),
        )
        pieces = pack(Head(Kind.TELL, name_of(Alive), 0, encode(alive)))
        if to:
            self._outboxes.put(to, pieces, bounded=False)
            return None
        return self._channel.publish(self._topology.nodes, "", b"".join(pieces), self._envelope)

    def _alive(self, received: Received[Alive]) -> None:
        alive = received.message
        late = False
        if alive.session == self.session:
            self._heard = alive.beat
            late = alive.beat < self._beat
        known = self._roster.hear(alive, asyncio.get_running_loop().time(), late=late)
        if not known:
            # It would not know that what is on its way from it to us is lost.
            self._outboxes.put(
                alive.session,
                pack(Head(Kind.TELL, name_of(_Expelled), 0, encode(_Expelled()))),
                bounded=False,
            )
        elif alive.session != self.session and not alive.leaving:
            self.agreement.hear(alive.node, alive.session, alive.facts)
            if alive.joined:
                self._say(to=alive.session)

    def _expelled(self, received: Received[_Expelled]) -> None:
        if self._channel is not None and (self._ending is None or self._ending.done()):
            _logger.warning("node %s had given this one up; beginning anew", received.sender)
            self._ending = asyncio.create_task(self._channel.close())

    def put(
        self, session: str, pieces: Pieces, failed: Failed | None = None, *, bounded: bool = True
    ) -> None:
        """Sends a packet, for `Requests`. See `Outbox.put`."""
        self._outboxes.put(session, pieces, failed, bounded=bounded)

    def _send(self, session: str, body: bytes) -> "asyncio.Future[None]":
        if self._channel is None:
            return failed(unavailable("not connected"))
        return self._channel.publish(
            "",
            self._topology.node(session),
            body,
            self._envelope,
            mandatory=True,
        )

    def _node_changed(self, node: Node, is_there: bool) -> None:
        if is_there:
            _logger.info("node %s is there", node.session)
            return
        _logger.info("node %s is gone", node.session)
        self.agreement.forget(node.session)
        gone = UnroutableError("LOG_UNAVAILABLE", f"node {node.id} is gone")
        self._outboxes.close(node.session, gone)
        self._requests.node_gone(node)

    # --- Receiving ---------------------------------------------------------------------------

    def _received(self, message: Delivery) -> None:
        sender = message.reply_to
        try:
            for head, body in unpack(message.body):
                self._take(head, body, sender)
        except PacketError:
            _logger.exception("node %s sent what cannot be read", sender)

    def _take(self, head: Head, body: memoryview, sender: str) -> None:
        if head.kind == Kind.TELL:
            if not head.seat or self.holds(head.seat, head.epoch):
                kind = self._receivers.get(head.name, (None,))[0]
                if kind is None:
                    _logger.error("node %s sent %s, which nobody takes", sender, head.name)
                else:
                    self._receive(head.name, Received(decode(head.message, kind), body, sender))
        elif head.kind == Kind.REQUEST:
            self._requests.serve(head, body, sender)
        else:
            self._requests.answered(head, body)

    def _receive(self, name: str, received: Received[Any]) -> None:
        entry = self._receivers.get(name)
        try:
            if entry is not None:
                entry[1](received)
        except Exception:
            _logger.exception("taking %s of node %s failed", name, received.sender)


_PING = pack(Head(Kind.TELL, _Ping.__name__, 0, encode(_Ping())))

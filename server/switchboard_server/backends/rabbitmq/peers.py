"""Messages between the nodes of a hub: to one of them, to whoever holds a seat, to all."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from switchboard_server.backends.rabbitmq.channel import Channel, Properties
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.outbox import Outbox, Packet, fail
from switchboard_server.backends.rabbitmq.packets import (
    Bytes,
    Head,
    Kind,
    PacketError,
    Reply,
    decode,
    decode_error,
    encode,
    encode_error,
    pack,
    unpack,
)
from switchboard_server.backends.rabbitmq.roster import (
    SILENT_BEATS,
    Alive,
    Holding,
    Node,
    NodeListener,
    Roster,
    SeatListener,
)
from switchboard_server.backends.rabbitmq.topology import NODE, Topology
from switchboard_server.backends.rabbitmq.waiting import UnroutableError, unavailable
from switchboard_server.core.errors import SwitchboardError, UnavailableError

BEAT_SECONDS = 1.0
"""How often a node says that it is there."""

T = TypeVar("T")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AtSeat:
    """Whoever holds a seat, as a target."""

    name: str


Target = str | AtSeat
"""A node's address (`Node.session`), or a seat."""


@dataclass(frozen=True, slots=True)
class Received(Generic[T]):
    """A message of another node, or of this one.

    Args:
        message: What it says.
        body: Bytes that came with it, as they were sent.
        sender: Address of the node that sent it.
    """

    message: T
    body: Bytes
    sender: str


Handler = Callable[[Received[Any]], Awaitable[object]]
Receiver = Callable[[Received[Any]], None]


@dataclass(frozen=True, slots=True)
class _Expelled:
    """Tells a node that it was thought to be gone."""


@dataclass(frozen=True, slots=True)
class _Ping:
    """Comes back where the connection of a node has ended, before the node is missed."""


class _UndeliveredError(Exception):
    """Nothing was done: the request can be sent again."""


class _LostError(Exception):
    """The request may have been done, and no answer can come any more."""


@dataclass(slots=True)
class _Open:
    """A request that waits for its answer."""

    answer: "asyncio.Future[Reply[Any]]"
    expects: type[Any]
    address: Holding
    seat: str


class Peers:
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
    """

    def __init__(self, link: Link, topology: Topology, node_id: str) -> None:
        self.id = node_id
        self._link = link
        self._topology = topology
        self._roster = Roster()
        self._roster.node_listeners[self] = self._node_changed
        self._roster.seat_listeners[self] = self._seat_changed
        self._holds: dict[str, int] = {}
        self._stands: set[str] = set()
        self._handlers: dict[str, tuple[type[Any], Handler]] = {}
        self._receivers: dict[str, tuple[type[Any], Receiver]] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._open: dict[int, _Open] = {}
        self._numbers = 0
        self._moves: dict[str, set[asyncio.Future[None]]] = {}
        self._channel: Channel | None = None
        self._ready = asyncio.Event()
        self._beat = 0
        self._heard = 0
        self._tasks: set[asyncio.Future[Any]] = set()
        self._task: asyncio.Task[None] | None = None
        self.on_tell(Alive, self._alive)
        self.on_tell(_Expelled, self._expelled)
        self.on_tell(_Ping, lambda _: None)

    # --- Who is there ------------------------------------------------------------------------

    @property
    def session(self) -> str:
        """This node's address; empty while it has none."""
        return self._roster.session

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Who is there, this node included, by address. None while there is no connection."""
        return self._roster.nodes

    async def wait_ready(self) -> None:
        """Waits until this node has an address. Others are known a moment later."""
        await self._ready.wait()

    def term(self, seat: str) -> Holding | None:
        """Who holds a seat; None: nobody says so."""
        return self._roster.terms.get(seat)

    @property
    def stands(self) -> Set[str]:
        """The seats that this node would take."""
        return self._stands

    def standing(self, seat: str) -> Mapping[str, Node]:
        """The nodes that would take a seat, by their ids."""
        return self._roster.standing(seat)

    def watch_nodes(self, listener: NodeListener) -> Callable[[], None]:
        """Has somebody hear who came (True) and who is gone (False).

        Args:
            listener: Called for those who are there at once. Must not block and must not raise.

        Returns:
            Ends it.
        """
        key = object()
        self._roster.node_listeners[key] = listener
        for node in list(self.nodes.values()):
            listener(node, True)
        return lambda: self._roster.node_listeners.pop(key, None) and None

    def watch_seats(self, listener: SeatListener) -> Callable[[], None]:
        """Has somebody hear who holds a seat now; None: nobody. See `watch_nodes`."""
        key = object()
        self._roster.seat_listeners[key] = listener
        for seat, term in list(self._roster.terms.items()):
            listener(seat, term)
        return lambda: self._roster.seat_listeners.pop(key, None) and None

    def stand(self, seat: str) -> None:
        """Lets all know that this node would take a seat."""
        self._stands.add(seat)
        self._say()

    def withdraw(self, seat: str) -> None:
        """Lets all know that this node would not take a seat any more."""
        self._stands.discard(seat)
        self._say()

    def hold(self, seat: str, epoch: int) -> None:
        """Lets all know that this node holds a seat, and takes what is sent to it from now on.

        Args:
            seat: The seat.
            epoch: Higher than that of any earlier term.
        """
        self._holds[seat] = epoch
        self._say()

    def release(self, seat: str) -> None:
        """Lets all know that this node does not hold a seat any more."""
        if self._holds.pop(seat, None) is not None:
            self._say()

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
        self._handlers[_name(kind)] = (kind, handler)

    def on_tell(self, kind: type[T], receiver: Callable[[Received[T]], None]) -> None:
        """Says who takes messages that want no answer.

        Args:
            kind: The dataclass that is the message.
            receiver: Must not block and must not raise.
        """
        self._receivers[_name(kind)] = (kind, receiver)

    async def request(
        self,
        target: Target,
        message: object,
        expects: type[T],
        *,
        body: Bytes | Sequence[Bytes] = b"",
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
        seat = target.name if isinstance(target, AtSeat) else ""
        what, last = _name(type(message)), ""
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    address = await self._address(target)
                    try:
                        return await self._ask(
                            address, seat, message, expects, body=body, until=deadline
                        )
                    except _UndeliveredError as error:
                        last = str(error)
                        if not seat:
                            raise unavailable(f"{what}: {error}") from None
                    except _LostError as error:
                        last = str(error)
                        if not seat or not again:
                            raise unavailable(f"{what}: {error}") from None
                    await self._moved(seat, address)
        except TimeoutError:
            waited = last or (f"nobody holds {seat}" if seat and not self.term(seat) else "")
            raise unavailable(
                f"{what} was not answered within {seconds:g} s{waited and ': ' + waited}"
            ) from None

    def tell(self, target: Target, message: object, body: Bytes | Sequence[Bytes] = b"") -> bool:
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
        name = _name(type(message))
        if term.session == self.session:
            received = Received(message, _joined(body), self.session)
            asyncio.get_running_loop().call_soon(self._receive, name, received)
            return True
        head = Head(Kind.TELL, name, 0, encode(message), seat, term.epoch)
        self._outbox(term.session).put(pack(head, body))
        return True

    def tell_all(self, message: object, body: Bytes | Sequence[Bytes] = b"") -> None:
        """Sends a message to all nodes, this one included. It may be lost."""
        if self._channel is not None:
            pieces = pack(Head(Kind.TELL, _name(type(message)), 0, encode(message)), body)
            self._channel.publish(
                self._topology.nodes, "", b"".join(pieces), Properties(reply_to=self.session)
            )

    # --- Life --------------------------------------------------------------------------------

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
        tasks = [self._task, *self._tasks]
        self._task = None
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _take_part(self) -> None:
        channel = await self._link.channel(confirms=True)
        session = f"{self.id}.{secrets.token_hex(4)}"
        queue = self._topology.node(session)
        try:
            await channel.declare_exchange(self._topology.nodes, "fanout")
            await channel.declare_queue(queue, NODE, durable=False, exclusive=True)
            await channel.bind(queue, self._topology.nodes)
            self._channel, self._beat, self._heard = channel, 0, 0
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
                    self._outbox(session).put(_PING, bounded=False)
            try:
                async with asyncio.timeout(BEAT_SECONDS):
                    await channel.ended.wait()
            except TimeoutError:
                if self._beat - self._heard > 2 * SILENT_BEATS:
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
        )
        pieces = pack(Head(Kind.TELL, _name(Alive), 0, encode(alive)))
        if to:
            self._outbox(to).put(pieces, bounded=False)
            return None
        return self._channel.publish(
            self._topology.nodes, "", b"".join(pieces), Properties(reply_to=self.session)
        )

    def _alive(self, received: Received[Alive]) -> None:
        alive = received.message
        if alive.session == self.session:
            self._heard = alive.beat
        known = self._roster.hear(alive, asyncio.get_running_loop().time())
        if not known:
            # It would not know that what is on its way from it to us is lost.
            self._outbox(alive.session).put(
                pack(Head(Kind.TELL, _name(_Expelled), 0, encode(_Expelled()))), bounded=False
            )
        elif alive.joined and alive.session != self.session:
            self._say(to=alive.session)

    def _expelled(self, received: Received[_Expelled]) -> None:
        _logger.warning("node %s had given this one up; beginning anew", received.sender)
        if self._channel is not None:
            self._spawn(self._channel.close())

    # --- Sending -----------------------------------------------------------------------------

    def _outbox(self, session: str) -> Outbox:
        box = self._outboxes.get(session)
        if box is None:

            def send(taken: list[Packet]) -> None:
                self._send(session, made, taken)

            def wake() -> None:
                asyncio.get_running_loop().call_soon(made.flush)

            made = self._outboxes[session] = box = Outbox(send, wake)
        return box

    def _send(self, session: str, box: Outbox, taken: list[Packet]) -> None:
        if self._channel is None:
            asyncio.get_running_loop().call_soon(box.sent, taken, unavailable("not connected"))
            return
        body = b"".join([piece for packet in taken for piece in packet.pieces])
        sending = self._channel.publish(
            "",
            self._topology.node(session),
            body,
            Properties(reply_to=self.session),
            mandatory=True,
        )

        def done(outcome: "asyncio.Future[None]") -> None:
            error = outcome.exception()
            if isinstance(error, UnroutableError):
                fail(taken, error)
                self._roster.remove(session)
            box.sent(taken, error if isinstance(error, SwitchboardError) else None)
            if session not in self.nodes:
                self._outboxes.pop(session, None)

        sending.add_done_callback(done)

    async def _ask(
        self,
        address: Holding,
        seat: str,
        message: object,
        expects: type[T],
        *,
        body: Bytes | Sequence[Bytes],
        until: float,
    ) -> Reply[T]:
        loop = asyncio.get_running_loop()
        name = _name(type(message))
        if address.session == self.session:
            if seat and self._holds.get(seat) != address.epoch:
                raise _UndeliveredError(f"nobody holds {seat}")
            received = Received(message, _joined(body), self.session)
            return await asyncio.shield(self._spawn(self._handle(name, received)))
        self._numbers += 1
        number = self._numbers
        opened = _Open(loop.create_future(), expects, address, seat)
        self._open[number] = opened

        def failed(error: SwitchboardError) -> None:
            if not opened.answer.done():
                certain = isinstance(error, UnroutableError)
                opened.answer.set_exception(
                    (_UndeliveredError if certain else _LostError)(error.message)
                )

        seconds = max(until - loop.time(), 0.001)
        head = Head(Kind.REQUEST, name, number, encode(message), seat, address.epoch, seconds)
        try:
            self._outbox(address.session).put(pack(head, body), failed)
            return await opened.answer
        finally:
            del self._open[number]

    async def _address(self, target: Target) -> Holding:
        if isinstance(target, AtSeat):
            while (term := self.term(target.name)) is None:
                await self._moved(target.name, None)
            return term
        if target not in self.nodes:
            raise unavailable(f"node {target} is gone")
        return Holding(target, 0)

    async def _moved(self, seat: str, term: Holding | None) -> None:
        """Waits until somebody else holds a seat."""
        while self.term(seat) == term:
            waiter = asyncio.get_running_loop().create_future()
            waiters = self._moves.setdefault(seat, set())
            waiters.add(waiter)
            try:
                await waiter
            finally:
                waiters.discard(waiter)

    def _seat_changed(self, seat: str, term: Holding | None) -> None:
        for waiter in self._moves.pop(seat, set()):
            if not waiter.done():
                waiter.set_result(None)
        for opened in self._open.values():
            if opened.seat == seat and opened.address != term and not opened.answer.done():
                opened.answer.set_exception(_LostError(f"the holder of {seat} was lost"))

    def _node_changed(self, node: Node, is_there: bool) -> None:
        if is_there:
            _logger.info("node %s is there", node.session)
            return
        _logger.info("node %s is gone", node.session)
        box = self._outboxes.pop(node.session, None)
        if box is not None:
            box.close(UnroutableError("LOG_UNAVAILABLE", f"node {node.id} is gone"))
        for opened in self._open.values():
            if opened.address.session == node.session and not opened.answer.done():
                opened.answer.set_exception(_LostError(f"node {node.id} is gone"))

    # --- Receiving ---------------------------------------------------------------------------

    def _received(self, message: Any) -> None:
        sender = message.header.properties.reply_to or ""
        try:
            for head, body in unpack(message.body):
                self._take(head, body, sender)
        except PacketError:
            _logger.exception("node %s sent what cannot be read", sender)

    def _take(self, head: Head, body: memoryview, sender: str) -> None:
        if head.kind == Kind.TELL:
            if not head.seat or self._holds.get(head.seat) == head.epoch:
                kind = self._receivers.get(head.name, (None,))[0]
                if kind is None:
                    _logger.error("node %s sent %s, which nobody takes", sender, head.name)
                else:
                    self._receive(head.name, Received(decode(head.message, kind), body, sender))
        elif head.kind == Kind.REQUEST:
            if head.seat and self._holds.get(head.seat) != head.epoch:
                self._outbox(sender).put(pack(Head(Kind.MOVED, "", head.number)), bounded=False)
            else:
                self._spawn(self._answer(head, body, sender))
        else:
            self._answered(head, body)

    def _receive(self, name: str, received: Received[Any]) -> None:
        entry = self._receivers.get(name)
        try:
            if entry is not None:
                entry[1](received)
        except Exception:
            _logger.exception("taking %s of node %s failed", name, received.sender)

    async def _answer(self, head: Head, body: memoryview, sender: str) -> None:
        try:
            kind = self._handlers[head.name][0] if head.name in self._handlers else object
            async with asyncio.timeout(head.seconds):
                reply = await self._handle(
                    head.name, Received(decode(head.message, kind), body, sender)
                )
            answer = Head(Kind.ANSWER, "", head.number, encode(reply.message))
            pieces = pack(answer, reply.body)
        except SwitchboardError as error:
            name, message = encode_error(error)
            pieces = pack(Head(Kind.ERROR, name, head.number, message))
        except TimeoutError:
            return  # Its sender does not wait any longer.
        except Exception as error:
            _logger.exception("%s of node %s failed", head.name, sender)
            pieces = pack(Head(Kind.ERROR, "", head.number, encode(f"{type(error).__name__}")))
        try:
            if sender in self.nodes:
                self._outbox(sender).put(pieces)
        except SwitchboardError as error:
            _logger.warning("an answer for node %s was dropped: %s", sender, error)

    async def _handle(self, name: str, received: Received[Any]) -> Reply[Any]:
        if name not in self._handlers:
            raise UnavailableError("LOG_UNAVAILABLE", f"node {self.id} does not serve {name} yet")
        outcome = await self._handlers[name][1](received)
        return outcome if isinstance(outcome, Reply) else Reply(outcome)

    def _answered(self, head: Head, body: memoryview) -> None:
        opened = self._open.get(head.number)
        if opened is None or opened.answer.done():
            return
        try:
            if head.kind == Kind.ANSWER:
                opened.answer.set_result(Reply(decode(head.message, opened.expects), body))
            elif head.kind == Kind.MOVED:
                opened.answer.set_exception(_UndeliveredError(f"nobody holds {opened.seat}"))
            elif head.name:
                opened.answer.set_exception(decode_error(head.name, head.message))
            else:
                text = decode(head.message, str)
                opened.answer.set_exception(RuntimeError(f"failed on another node: {text}"))
        except PacketError as error:
            opened.answer.set_exception(RuntimeError(f"another node's answer: {error}"))

    def _spawn(self, work: Any) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


_PING = pack(Head(Kind.TELL, _Ping.__name__, 0, encode(_Ping())))


def _name(kind: type[Any]) -> str:
    return kind.__name__


def _joined(body: Bytes | Sequence[Bytes]) -> Bytes:
    return body if isinstance(body, bytes | memoryview) else b"".join(body)

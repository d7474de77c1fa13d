"""Requests of one node to another, and their answers."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from switchboard_server.backends.rabbitmq.messages import (
    AtSeat,
    Body,
    Handler,
    Received,
    Target,
    joined,
    name_of,
)
from switchboard_server.backends.rabbitmq.packets import (
    Head,
    Kind,
    PacketError,
    Pieces,
    Reply,
    decode,
    encode,
    pack,
)
from switchboard_server.backends.rabbitmq.roster import Holding, Node
from switchboard_server.backends.rabbitmq.waiting import UnroutableError, unavailable
from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.failures import Failure

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Post(Protocol):
    """What requests need to know of the nodes, and to send to them."""

    @property
    def session(self) -> str:
        """This node's address."""
        ...

    def is_there(self, session: str) -> bool:
        """Whether a node is there."""
        ...

    def term(self, seat: str) -> Holding | None:
        """Who holds a seat."""
        ...

    def holds(self, seat: str, epoch: int) -> bool:
        """Whether this node holds a seat, and this is the term of it."""
        ...

    def put(
        self,
        session: str,
        pieces: Pieces,
        failed: Callable[[SwitchboardError], None] | None = None,
        *,
        bounded: bool = True,
    ) -> None:
        """Sends a packet. See `Outbox.put`."""


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

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Requests:
    """The requests of this node that wait, and those of others that it serves.

    Args:
        post: The way to the nodes.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self._handlers: dict[str, tuple[type[Any], Handler]] = {}
        self._open: dict[int, _Open] = {}
        self._numbers = 0
        self._moves: dict[str, set[asyncio.Future[None]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def handle(self, kind: type[Any], handler: Handler) -> None:
        """See `Peers.on_request`."""
        self._handlers[name_of(kind)] = (kind, handler)

    async def request(
        self,
        target: Target,
        message: object,
        expects: type[T],
        *,
        body: Body,
        seconds: float,
        again: bool,
    ) -> Reply[T]:
        """See `Peers.request`."""
        seat = target.name if isinstance(target, AtSeat) else ""
        what, last = name_of(type(message)), ""
        until = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(until):
                while True:
                    address = await self._address(target)
                    try:
                        return await self._ask(
                            address, seat, message, expects, body=body, until=until
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
            if seat and self._post.term(seat) is None:
                last = last or f"nobody holds {seat}"
            raise unavailable(
                f"{what} was not answered within {seconds:g} s{last and ': ' + last}"
            ) from None

    def serve(self, head: Head, body: memoryview, sender: str) -> None:
        """Takes another node's request."""
        if head.seat and not self._post.holds(head.seat, head.epoch):
            self._post.put(sender, pack(Head(Kind.MOVED, "", head.number)), bounded=False)
        else:
            self._spawn(self._answer(head, body, sender))

    def answered(self, head: Head, body: memoryview) -> None:
        """Takes another node's answer."""
        opened = self._open.get(head.number)
        if opened is None or opened.answer.done():
            return
        try:
            if head.kind == Kind.ANSWER:
                opened.answer.set_result(Reply(decode(head.message, opened.expects), body))
            elif head.kind == Kind.MOVED:
                opened.fail(_UndeliveredError(f"nobody holds {opened.seat}"))
            elif head.name:
                opened.fail(decode(head.message, Failure).error())
            else:
                text = decode(head.message, str)
                opened.fail(RuntimeError(f"it failed on another node: {text}"))
        except PacketError as error:
            opened.fail(RuntimeError(f"another node's answer: {error}"))

    def seat_changed(self, seat: str, term: Holding | None) -> None:
        """Takes notice of who holds a seat now."""
        for waiter in self._moves.pop(seat, set()):
            if not waiter.done():
                waiter.set_result(None)
        for opened in self._open.values():
            if opened.seat == seat and opened.address != term:
                opened.fail(_LostError(f"the holder of {seat} was lost"))

    def node_gone(self, node: Node) -> None:
        """Takes notice that a node is gone."""
        for opened in self._open.values():
            if opened.address.session == node.session:
                opened.fail(_LostError(f"node {node.id} is gone"))

    async def close(self) -> None:
        """Serves nobody any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _address(self, target: Target) -> Holding:
        if isinstance(target, AtSeat):
            while (term := self._post.term(target.name)) is None:
                await self._moved(target.name, None)
            return term
        if not self._post.is_there(target):
            raise unavailable(f"node {target} is gone")
        return Holding(target, 0)

    async def _moved(self, seat: str, term: Holding | None) -> None:
        """Waits until somebody else holds a seat."""
        while self._post.term(seat) == term:
            waiter = asyncio.get_running_loop().create_future()
            waiters = self._moves.setdefault(seat, set())
            waiters.add(waiter)
            try:
                await waiter
            finally:
                waiters.discard(waiter)

    async def _ask(
        self,
        address: Holding,
        seat: str,
        message: object,
        expects: type[T],
        *,
        body: Body,
        until: float,
    ) -> Reply[T]:
        loop, name = asyncio.get_running_loop(), name_of(type(message))
        if address.session == self._post.session:
            if seat and not self._post.holds(seat, address.epoch):
                raise _UndeliveredError(f"nobody holds {seat}")
            received = Received(message, joined(body), address.session)
            return await asyncio.shield(self._spawn(self._handle(name, received)))
        self._numbers += 1
        number = self._numbers
        opened = self._open[number] = _Open(loop.create_future(), expects, address, seat)

        def failed(error: SwitchboardError) -> None:
            kind = _UndeliveredError if isinstance(error, UnroutableError) else _LostError
            opened.fail(kind(error.message))

        seconds = max(until - loop.time(), 0.001)
        head = Head(Kind.REQUEST, name, number, encode(message), seat, address.epoch, seconds)
        try:
            self._post.put(address.session, pack(head, body), failed)
            return await opened.answer
        finally:
            del self._open[number]

    async def _answer(self, head: Head, body: memoryview, sender: str) -> None:
        kind = self._handlers[head.name][0] if head.name in self._handlers else object
        waiting = asyncio.timeout(head.seconds)
        try:
            async with waiting:
                received = Received(decode(head.message, kind), body, sender)
                reply = await self._handle(head.name, received)
            answer = Head(Kind.ANSWER, "", head.number, encode(reply.message))
            pieces = pack(answer, reply.body)
        except SwitchboardError as error:
            failure = Failure.of(error)
            pieces = pack(Head(Kind.ERROR, failure.kind, head.number, encode(failure)))
        except Exception as error:
            if isinstance(error, TimeoutError) and waiting.expired():
                return  # Its sender does not wait any longer.
            _logger.exception("%s of node %s failed", head.name, sender)
            pieces = pack(Head(Kind.ERROR, "", head.number, encode(type(error).__name__)))
        if not self._post.is_there(sender):
            return
        try:
            self._post.put(sender, pieces)
        except SwitchboardError as error:
            _logger.warning("an answer for node %s was dropped: %s", sender, error)

    async def _handle(self, name: str, received: Received[Any]) -> Reply[Any]:
        if name not in self._handlers:
            raise unavailable(f"the node does not serve {name}")
        outcome = await self._handlers[name][1](received)
        return outcome if isinstance(outcome, Reply) else Reply(outcome)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Whoever asked may not wait any longer: then it is not an error left unheard.
            task.exception()

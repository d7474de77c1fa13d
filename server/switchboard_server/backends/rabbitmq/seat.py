"""Seats: what one node at a time does, and never two."""

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable

from switchboard_server.backends.rabbitmq.balance import assign
from switchboard_server.backends.rabbitmq.channel import Channel
from switchboard_server.backends.rabbitmq.encoding import PERSISTENT, TRANSIENT, Envelope
from switchboard_server.backends.rabbitmq.ending import Ending
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.peers import Peers
from switchboard_server.backends.rabbitmq.roster import Holding
from switchboard_server.backends.rabbitmq.topology import SEAT, Topology
from switchboard_server.backends.rabbitmq.waiting import CALL_SECONDS, Backoff, failed, unavailable
from switchboard_server.core.errors import SwitchboardError

TOKEN_SECONDS = 30.0
"""How often each candidate publishes a token: far below the half hour after which RabbitMQ ends a
consumer that does not acknowledge."""
PATIENCE_SECONDS = 10.0
"""How long a node that should hold a seat has to be there before the holder makes way for it."""
MOST_PATIENCE_SECONDS = 600.0
"""The same for a node that did not take it when it could."""
PASS_SECONDS = 5.0
"""Who passes a seat on and gets it again within this time keeps it: the other does not want it."""
LEAVE_SECONDS = 5.0
"""How long a holder that makes way may go on working."""
DRAIN_SECONDS = 2.0
"""How long a holder that makes way waits for the confirms of what it has published."""
_BALANCE_SECONDS = 2.0
_PREFETCH = 32

_logger = logging.getLogger(__name__)


class Term(Ending):
    """The time for which this node holds a seat.

    All that is to be done by the holder alone is published on `channel`, whose consumer is the
    seat: RabbitMQ gives the seat to another only when it has ended, so that a holder that was
    frozen and does not know publishes nothing any more. Where RabbitMQ itself is parted, two
    channels may live for a while: readers have to tell their terms apart, by `epoch`.

    Args:
        seat: Name of the seat.
        channel: The channel, with confirms.

    Attributes:
        nonce: Names this term, unlike any other.
        epoch: Set by who takes the seat: higher than that of any term before.
        is_open: Whether it has been taken, and requests to the seat come here.
    """

    def __init__(self, seat: str, channel: Channel) -> None:
        super().__init__()
        self.seat = seat
        self.channel = channel
        self.nonce = secrets.token_hex(8)
        self.epoch = 0
        self.is_open = False
        channel.on_end(lambda: self.end(channel.reason))

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        envelope: Envelope = TRANSIENT,
        *,
        mandatory: bool = False,
        seconds: float = CALL_SECONDS,
    ) -> "asyncio.Future[None]":
        """Publishes as the holder. See `Channel.publish`."""
        if self.ended.is_set():
            return failed(unavailable(f"{self.seat} is not held here: {self.reason}"))
        return self.channel.publish(
            exchange, routing_key, body, envelope, mandatory=mandatory, seconds=seconds
        )

    def end(self, reason: str) -> None:
        """Ends it, if it has not: nothing more is published, and another node gets the seat.

        What has been published is confirmed yet, where the connection allows it.
        """
        self.is_open = False
        super().end(reason)


Taken = Callable[[Term], Awaitable[None]]
Leaving = Callable[[Term], Awaitable[None]]
Lost = Callable[[Term], Awaitable[None]]


class Seat:
    """Stands for a seat: a quorum queue with a single active consumer, which is the holder.

    The active consumer learns that it is by getting a token. Every candidate publishes one when it
    begins to consume, and then now and again; the holder keeps the newest, unacknowledged, so that
    the next holder gets it the moment this one is lost, and acknowledges the others. A queue that
    lost its token has another soon.

    Args:
        link: The connection.
        topology: The names.
        peers: The nodes, on the same connection.
        name: Name of the seat.
        taken: Does what a holder has to do first, and sets `Term.epoch`. When it returns, all nodes
            learn that this one holds the seat, and requests to it come here. If it raises, the seat
            is given up. Cancelled if the term ends meanwhile.
        leaving: Called before this node gives the seat up of its own accord, while it can still
            publish, and after the last request to the seat has come. May take LEAVE_SECONDS.
        lost: Called once for each call of `taken`, after that has ended and the term too. Until it
            returns, this node does not stand for the seat.

    Attributes:
        term: The term, while this node holds the seat; `taken` may still be at work.
        problem: Why this node could not stand for it at the last try, for people; None: it does.
    """

    def __init__(
        self,
        link: Link,
        topology: Topology,
        peers: Peers,
        name: str,
        *,
        taken: Taken,
        lost: Lost,
        leaving: Leaving | None = None,
    ) -> None:
        self.name = name
        self.term: Term | None = None
        self.problem: str | None = None
        self._link = link
        self._queue = topology.seat(name)
        self._peers = peers
        self._taken = taken
        self._lost = lost
        self._leaving = leaving
        self._task: asyncio.Task[None] | None = None
        self._handing_over: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], None] | None = None
        self._passed = float("-inf")
        self._patience = PATIENCE_SECONDS
        self._rest = 0.0
        self._failures = Backoff(0.5, 10.0)

    async def start(self) -> None:
        """Begins to stand for it, and does not wait until it is taken."""
        self._unwatch = self._peers.watch_seats(self._holder_changed)
        self._peers.stand(self.name)
        self._task = asyncio.create_task(
            self._link.keep(f"standing for {self.name}", self._stand), name=f"seat {self.name}"
        )

    async def close(self) -> None:
        """Gives it up, if it is held, and stands for it no more."""
        task, self._task = self._task, None
        if task is None:
            return
        if self._unwatch is not None:
            self._unwatch()
        self._peers.withdraw(self.name)
        if self.term is not None:
            await self._leave(self.term, "this node makes way")
        task.cancel()
        await asyncio.wait([task])
        if self._handing_over is not None:
            await asyncio.wait([self._handing_over])

    async def _stand(self) -> None:
        """Waits for the seat, and holds it until it is lost."""
        await asyncio.sleep(self._rest)
        self._rest = 0.0
        await self._peers.wait_ready()
        channel = await self._link.channel(prefetch=_PREFETCH, confirms=True)
        tokens: asyncio.Queue[int] = asyncio.Queue()
        try:
            await channel.declare_queue(self._queue, SEAT)
            await self._first_publish(channel)
            await channel.consume(self._queue, lambda message: tokens.put_nowait(message.tag))
            self.problem = None
            token = await self._first_token(channel, tokens)
            if self._should_pass():
                _logger.debug("passing %s on", self.name)
                self._rest = random.uniform(0.2, 0.5)  # noqa: S311
            else:
                await self._sit(channel, tokens, token)
        except SwitchboardError as error:
            self.problem = error.message
            raise
        finally:
            await channel.close()

    async def _sit(self, channel: Channel, tokens: "asyncio.Queue[int]", token: int) -> None:
        term = self.term = Term(self.name, channel)
        keeping = asyncio.create_task(self._keep_token(term, tokens, token))
        holding = asyncio.create_task(self._hold(term))
        try:
            await term.ended.wait()
        finally:
            term.end("this node makes way")
            self._peers.release(self.name)
            keeping.cancel()
            holding.cancel()
            work = self._hand_over(term, keeping, holding)
            self._handing_over = asyncio.create_task(work)
            await asyncio.shield(self._handing_over)

    async def _hand_over(self, term: Term, *tasks: "asyncio.Task[None]") -> None:
        await asyncio.wait(tasks)
        await term.channel.drain(DRAIN_SECONDS)
        await term.channel.close()
        self.term = None
        _logger.info("%s is not held here any more: %s", self.name, term.reason)
        try:
            await self._lost(term)
        except Exception:
            _logger.exception("what follows from losing %s failed", self.name)

    async def _hold(self, term: Term) -> None:
        """Takes the seat, and then makes way for who should hold it."""
        try:
            await self._taken(term)
        except Exception as error:
            known = isinstance(error, SwitchboardError)
            _logger.warning("%s cannot be taken: %s", self.name, error, exc_info=not known)
            self._rest = self._failures.next()
            term.end(f"it could not be taken: {error}")
            return
        if term.ended.is_set():
            return
        self._failures.reset()
        _logger.info("%s is held here, term %d", self.name, term.epoch)
        term.is_open = True
        self._peers.hold(self.name, term.epoch)
        while True:
            await asyncio.sleep(_BALANCE_SECONDS)
            better = self._better()
            if better is not None and self._age(better) >= self._patience:
                self._patience = min(2 * self._patience, MOST_PATIENCE_SECONDS)
                await self._leave(term, f"node {better} should hold it")
                return

    async def _leave(self, term: Term, reason: str) -> None:
        """Gives the seat up while it is held."""
        self._peers.release(self.name)
        if term.is_open and self._leaving is not None and not term.ended.is_set():
            term.is_open = False
            try:
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._leaving(term)
            except TimeoutError:
                _logger.warning("giving up %s took too long", self.name)
            except Exception:
                _logger.exception("giving up %s failed", self.name)
        term.end(reason)

    async def _first_token(self, channel: Channel, tokens: "asyncio.Queue[int]") -> int:
        """Waits for a token, and sees to it that there is one."""
        while True:
            ending = asyncio.create_task(channel.ended.wait())
            getting = asyncio.create_task(tokens.get())
            try:
                await asyncio.wait(
                    [ending, getting],
                    timeout=TOKEN_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if getting.done():
                    return getting.result()
                if ending.done():
                    raise unavailable(channel.reason)
            finally:
                ending.cancel()
                getting.cancel()
            await self._publish_token(channel)

    async def _keep_token(self, term: Term, tokens: "asyncio.Queue[int]", token: int) -> None:
        while True:
            try:
                try:
                    async with asyncio.timeout(TOKEN_SECONDS):
                        newer = await tokens.get()
                except TimeoutError:
                    await self._publish_token(term.channel)
                    continue
                await term.channel.acknowledge(token)
                token = newer
            except SwitchboardError as error:
                # If the channel has ended so has the term; if not, the next one will do.
                _logger.debug("a token of %s: %s", self.name, error.message)

    async def _first_publish(self, channel: Channel) -> None:
        """Publishes a token before consuming.

        Whoever consumes from a quorum queue while another node is still making it has his whole
        connection ended by RabbitMQ 3.10 (INTERNAL_ERROR); a publish is only refused.
        """
        for pause in (0.05, 0.1, 0.2, 0.4):
            try:
                return await self._publish_token(channel)
            except SwitchboardError as error:
                if channel.ended.is_set():
                    raise
                _logger.debug("%s is not ready: %s", self._queue, error.message)
            await asyncio.sleep(pause)
        return await self._publish_token(channel)

    async def _publish_token(self, channel: Channel) -> None:
        await channel.publish("", self._queue, self._peers.id.encode(), PERSISTENT)

    def _holder_changed(self, seat: str, holding: Holding | None) -> None:
        if seat == self.name and holding is not None and holding.session != self._peers.session:
            self._patience = PATIENCE_SECONDS

    def _should_pass(self) -> bool:
        """Whether another node should have got the seat, and has not just let it pass."""
        now = asyncio.get_running_loop().time()
        if self._better() is None or now - self._passed < PASS_SECONDS:
            return False
        self._passed = now
        return True

    def _better(self) -> str | None:
        """Id of the node that should hold the seat; None: this one."""
        me = self._peers.id
        best = assign(
            {
                seat: self._peers.standing(seat).keys() | {me}
                for seat in (*self._peers.stands, self.name)
            }
        )[self.name]
        return None if best == me else best

    def _age(self, node_id: str) -> float:
        """For how many seconds a node has stood for the seat."""
        since = self._peers.standing(self.name)[node_id].since
        return asyncio.get_running_loop().time() - since

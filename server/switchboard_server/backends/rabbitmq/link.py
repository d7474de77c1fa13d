"""One supervised connection to RabbitMQ."""

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiormq
from aiormq import spec
from aiormq.exceptions import ConnectionClosed, InvalidFrameError
from yarl import URL

from switchboard_server.backends.complaints import Complaints
from switchboard_server.backends.rabbitmq.channel import Channel
from switchboard_server.backends.rabbitmq.frames import Transport
from switchboard_server.backends.rabbitmq.waiting import Backoff, answered, describe, unavailable
from switchboard_server.core.errors import SwitchboardError, UnavailableError

HEARTBEAT_SECONDS = 5
"""What both sides promise to send at least twice as often."""
CONNECT_SECONDS = 5.0
"""How long a host may take to answer."""
CLOSE_SECONDS = 3.0
"""How long saying good-bye may take."""
_LOOK_SECONDS = 1.0

Listener = Callable[[bool], None]

_logger = logging.getLogger(__name__)
# What it has to say about connections is said here, once and in context.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)


class Link:
    """A connection that is made anew whenever it is lost, and tells when it is.

    Not the driver's robust mode: that one consumes again from where a consumer began, and stalls.
    Here nothing survives a connection: who uses it hears that it is up, and declares, binds and
    consumes anew (`keep` does it for a coroutine).

    Args:
        urls: `amqp://` or `amqps://` URLs of the hosts of one cluster, with commas between.
        name: What RabbitMQ shows of it.
        heartbeat: Seconds; a peer that is silent for nearly twice as long is given up.
    """

    def __init__(self, urls: str, name: str, *, heartbeat: int = HEARTBEAT_SECONDS) -> None:
        self._urls = parse_urls(urls)
        self._name = name
        self._heartbeat = heartbeat
        self._connection: _Connection | None = None
        self._transport = Transport()
        self._problem: str | None = "not connected yet"
        self._blocked = False
        self._listeners: dict[object, Listener] = {}
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._reset_reason = ""

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._up.is_set()

    @property
    def blocked(self) -> bool:
        """Whether the broker has stopped reading from it, out of memory or disk space."""
        return self._blocked

    @property
    def problem(self) -> str | None:
        """What keeps it from being used, for people; None: nothing."""
        if self._blocked:
            return "it has an alarm, is short of memory or disk space, and takes no messages now"
        return self._problem

    async def start(self) -> None:
        """Begins to connect, and does not wait for it."""
        self._task = asyncio.create_task(self._run(), name=f"link {self._name}")

    async def close(self) -> None:
        """Ends the connection; it is not made again."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        self._task = None

    async def wait_connected(self, seconds: float) -> None:
        """Waits until there is a connection.

        Raises:
            UnavailableError: There was none in that time; the message says why.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._up.wait()
        except TimeoutError:
            raise unavailable(self._problem or "not connected") from None

    def watch(self, listener: Listener) -> Callable[[], None]:
        """Has somebody told when it is up (True) and when it is lost (False).

        Args:
            listener: Called in the event loop, at once if it is up. Must not block.

        Returns:
            Ends it.
        """
        key = object()
        self._listeners[key] = listener
        if self.connected:
            self._tell(listener, True)
        return lambda: self._listeners.pop(key, None) and None

    async def channel(self, *, prefetch: int = 0, confirms: bool = False) -> Channel:
        """Opens a channel.

        Args:
            prefetch: How many messages a consumer on it has unacknowledged at most; 0: any number.
            confirms: Whether the broker is to confirm what is published.

        Raises:
            UnavailableError: There is no connection now.
        """
        connection = self._connection
        if connection is None:
            raise unavailable(self._problem or "not connected")
        raw: Any = await answered(
            connection.channel(publisher_confirms=confirms), "opening a channel"
        )
        channel = Channel(raw, connection.transport)
        if prefetch:
            await answered(raw.basic_qos(prefetch_count=prefetch), "setting the prefetch")
        return channel

    def reset(self, reason: str) -> None:
        """Drops the connection, which does not do what it should, to make it anew."""
        if self._connection is not None:
            self._reset_reason = reason
            self._transport.abort()

    async def keep(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Runs something whenever there is a connection, again after it has failed or returned.

        Returns only by being cancelled.

        Args:
            what: What it is, for the log.
            work: Sets up what it needs, and returns or raises UnavailableError when that has ended.
        """
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        complaints = Complaints(_logger, loop.time)
        while True:
            await self._up.wait()
            began = loop.time()
            try:
                await work()
            except SwitchboardError as error:
                if self.connected:
                    complaints.tell(f"{what}: {error.message}; trying again")
            except Exception:
                _logger.exception("%s failed; trying again", what)
            if loop.time() - began > 5.0 or not self.connected:
                # It did well, or what it failed by was the connection, which has waits of its own.
                backoff.reset()
                complaints.end()
            await asyncio.sleep(backoff.next())

    async def _run(self) -> None:
        backoff = Backoff()
        place = random.randrange(len(self._urls))  # noqa: S311
        complaints = Complaints(_logger, asyncio.get_running_loop().time)
        try:
            while True:
                url = self._urls[place % len(self._urls)]
                try:
                    connection = await self._connect(url)
                    backoff.reset()
                    complaints.end()
                    await self._attend(connection, url)
                except UnavailableError as error:
                    self._problem = error.message
                    complaints.tell(f"{error.message}; trying again")
                    place += 1
                except Exception:
                    # What the driver may do beside what is known of it must not end this.
                    _logger.exception("the connection to %s failed; trying again", url.host)
                    await self._let_go()
                await asyncio.sleep(backoff.next())
        finally:
            self._problem = "the hub shuts down"
            await self._let_go()

    async def _connect(self, url: URL) -> "_Connection":
        self._transport = Transport()
        connection = _Connection(
            url.update_query(heartbeat=str(self._heartbeat), name=self._name),
            self._transport,
        )
        where = f"connecting to {url.host}:{url.port or connection.url.port}"
        await answered(connection.connect(), where, CONNECT_SECONDS)
        self._connection = connection
        self._reset_reason = ""
        self._problem = None
        self._up.set()
        version = connection.server_properties.get("version", "")
        _logger.info("connected to RabbitMQ %s at %s", version, url.host)
        self._tell_all(True)
        return connection

    async def _attend(self, connection: "_Connection", url: URL) -> None:
        """Waits for the end of a connection, and looks whether it is blocked meanwhile."""
        closing = connection.closing
        while not closing.done():
            await asyncio.wait([closing], timeout=_LOOK_SECONDS)
            blocked = not await connection.is_ready()
            if blocked != self._blocked and not closing.done():
                self._blocked = blocked
                _logger.warning("RabbitMQ %s", "takes no messages now" if blocked else "goes on")
        error = None if closing.cancelled() else closing.exception()
        reason = self._reset_reason or (describe(error) if error else "it was closed")
        self._problem = f"the connection to {url.host} was lost: {reason}"
        _logger.warning("RabbitMQ: %s", self._problem)
        await self._let_go()

    async def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        self._blocked = False
        if connection is None:
            return
        self._up.clear()
        self._tell_all(False)
        try:
            await answered(connection.close(), "closing the connection", CLOSE_SECONDS)
        except UnavailableError as error:
            _logger.debug("%s", error.message)
        self._transport.abort()

    def _tell_all(self, up: bool) -> None:
        for listener in list(self._listeners.values()):
            self._tell(listener, up)

    @staticmethod
    def _tell(listener: Listener, up: bool) -> None:
        try:
            listener(up)
        except Exception:
            _logger.exception("a listener of the link failed")


def parse_urls(urls: str) -> Sequence[URL]:
    """Reads the URLs of the hosts of a cluster, with commas between.

    Raises:
        ValueError: One is no `amqp://` or `amqps://` URL; the message names no password.
    """
    found = [URL(each.strip()) for each in re.split(r",\s*(?=amqps?://)", urls.strip())]
    for url in found:
        if url.scheme not in ("amqp", "amqps") or not url.host or "," in url.host:
            raise ValueError("must be amqp://host or amqps://host URLs with commas between")
    return found


class _Connection(aiormq.Connection):
    # A silent broker is given up after (5 + 1) * 1.5 = 9 s rather than 18.
    HEARTBEAT_GRACE_MULTIPLIER = 1.5  # type: ignore[assignment]

    def __init__(self, url: URL, transport: Transport) -> None:
        super().__init__(url, transport_factory=transport)
        self.transport = transport

    @property
    def is_connection_was_stuck(self) -> bool:
        """Whether the broker has been silent too long; the driver does not see all that comes."""
        silence = self.loop.time() - self.transport.frames.heard
        return silence > (self.heartbeat_timeout + 1) * self.HEARTBEAT_GRACE_MULTIPLIER

    async def is_ready(self) -> bool:
        """Whether the broker reads from it: `ready` waits as long as it does not."""
        try:
            async with asyncio.timeout(0.05):
                await self.ready()
        except TimeoutError:
            return False
        return True

    @staticmethod
    async def _rpc(
        request: Any, writer: asyncio.StreamWriter, frame_receiver: Any, wait_response: bool = True
    ) -> Any:
        """As the driver's, which keeps to itself why the broker ends a connection in its opening.

        So it does for a virtual host that is not there, or that the user may not enter.
        """
        frames = _Frames(frame_receiver)
        try:
            return await aiormq.Connection._rpc(request, writer, frames, wait_response)  # type: ignore[arg-type]
        except InvalidFrameError:
            if isinstance(frames.last, spec.Connection.Close):
                raise ConnectionClosed(frames.last.reply_text) from None
            raise


class _Frames:
    """The frames of a connection, of which it keeps the last."""

    def __init__(self, receiver: Any) -> None:
        self._receiver = receiver
        self.last: object = None

    async def get_frame(self) -> Any:
        """The next one, with its weight and its channel."""
        received = await self._receiver.get_frame()
        self.last = received[2]
        return received

"""One WebSocket connection's life: who it is, what it sends, what it is sent, how it ends."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from websockets.exceptions import ConnectionClosed

from switchboard_server.bridge import frames
from switchboard_server.bridge.commands import COMMANDS, MESSAGE, Command
from switchboard_server.bridge.connection import PING, BridgeConnection
from switchboard_server.bridge.errors import PING_TIMEOUT, closing, code_of
from switchboard_server.bridge.event_json import EventJson
from switchboard_server.bridge.fan_out import FanOut
from switchboard_server.bridge.flushing import Flusher
from switchboard_server.bridge.frames import BadFrame, Frame
from switchboard_server.bridge.handshake import Opening
from switchboard_server.bridge.keepalive import Keepalive
from switchboard_server.bridge.messages import ItemFrames, heartbeat
from switchboard_server.bridge.rates import TokenBucket
from switchboard_server.bridge.subscriptions import Subscriptions
from switchboard_server.core.errors import (
    ResourceExhaustedError,
    SwitchboardError,
    UnauthenticatedError,
    invalid_field,
    limit_reached,
)
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.items import Item
from switchboard_server.core.realtime.wishes import ConnectWish, Transport
from switchboard_server.core.use_cases import UseCases
from switchboard_server.telemetry.bridge_metrics import BridgeMetrics
from switchboard_server.wire.incidents import as_switchboard_error

AUTH_SECONDS = 10.0
"""How long a client has to send its token."""
CLOSE_SECONDS = 5.0
"""How long a client has to take the end of the connection."""
EXPIRY_NOTICE_SECONDS = 60.0
"""How long before its token expires a client is told; where less than twice as long is left,
halfway: told at once, a client whose tokens live no longer would get one after the other."""
MAX_CONCURRENT = 32
"""Frames of one connection that are worked on at the same time."""
MAX_CALLS = 128
"""Calls of one connection that wait for a response at the same time."""
MALFORMED_LIMIT = 10
"""So many messages that are no frame within `MALFORMED_SECONDS` end a connection."""
MALFORMED_SECONDS = 60.0
TAKE_BYTES = 64 * 1024
"""How much of an outbox is written at once, before looking whether the client keeps up."""


@dataclass(frozen=True, slots=True)
class BridgeLimits:
    """What one WebSocket client can ask for.

    Args:
        max_connections: Most connections at a time.
        max_frame_bytes: Largest frame that is taken.
        frames_per_second: How many frames a client may send, and in a burst of a second's worth.
        ping_interval: Seconds from one ping to the next.
        ping_timeout: Seconds without a sign of life after which a client is given up.
    """

    max_connections: int = 10_000
    max_frame_bytes: int = 64 * 1024
    frames_per_second: int = 100
    ping_interval: float = 30.0
    ping_timeout: float = 20.0


@dataclass(frozen=True, slots=True)
class Services:
    """What all sessions share.

    Args:
        hub: Does the work.
        authenticate: Tells whose a token is; None: nobody is asked for one.
        limits: What a client can ask for.
        metrics: Counts.
        keepalive: Pings.
        json: Events as JSON.
        frames: What the realtime hub has to say, as frames.
        flusher: Says when to write it.
        fan: Writes what goes to many.
    """

    hub: UseCases
    authenticate: Callable[[str], Principal] | None
    limits: BridgeLimits
    metrics: BridgeMetrics
    keepalive: "Keepalive[Session]"
    json: EventJson
    frames: ItemFrames
    flusher: Flusher
    fan: FanOut


class Session:
    """One client.

    Its own task reads frames and obeys those whose order matters; others run beside it. What the
    hub has for the client is written when the hub says so, without a task, and waits in the hub's
    outbox while the client does not read.

    Args:
        services: What all sessions share.
        connection: The WebSocket.
        opening: What the client asked for.

    Attributes:
        close_code: With which it ended the connection; None: it has not.
    """

    __slots__ = (
        "_bad_times",
        "_bucket",
        "_calls",
        "_connection",
        "_loop",
        "_member",
        "_opening",
        "_outlet",
        "_services",
        "_subscriptions",
        "_tasks",
        "_timers",
        "_waiting",
        "close_code",
    )

    def __init__(self, services: Services, connection: BridgeConnection, opening: Opening) -> None:
        self._services = services
        self._connection = connection
        self._opening = opening
        self._loop = connection.loop
        self._member: Connection | None = None
        self._outlet: int | None = None
        self._subscriptions: Subscriptions | None = None
        self._bucket = TokenBucket(services.limits.frames_per_second, self._loop.time())
        self._bad_times: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._timers: tuple[asyncio.TimerHandle, ...] = ()
        self._waiting: list[asyncio.Future[None]] = []
        self.close_code: int | None = None
        connection.on_flood = self._flooded

    # --- what commands ask of it --------------------------------------------------------------

    @property
    def hub(self) -> UseCases:
        """What the hub does."""
        return self._services.hub

    @property
    def principal(self) -> Principal:
        """With whose permissions it acts."""
        return self.member.principal

    @property
    def publisher(self) -> str:
        """Whose token says so; empty where the hub asks for none, whatever name the client gave."""
        return "" if self._services.authenticate is None else self.principal.subject

    @property
    def member(self) -> Connection:
        """The connection as the hub knows it."""
        if self._member is None:
            raise RuntimeError("the session has not begun")
        return self._member

    @property
    def subscriptions(self) -> Subscriptions:
        """Its event subscriptions."""
        if self._subscriptions is None:
            self._subscriptions = Subscriptions(
                self.hub, _peer(self._connection), self._services.json, self
            )
        return self._subscriptions

    def renew(self, token: str) -> Principal:
        """Takes a new token for the rest of the connection.

        Raises:
            SwitchboardError: It is not valid, or does not fit the connection.
        """
        if self._services.authenticate is None:
            return self.principal
        principal = self._services.authenticate(token)
        self.member.renew(principal)
        self._watch_expiry(principal)
        return principal

    # --- its life -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Serves the client until the connection has ended."""
        try:
            principal, identity = await self._authenticated()
            await self._enter(principal)
            if identity is not None:
                self.write(frames.ack(identity, {}))
            while True:
                message = await self._connection.recv()
                if not self._connection.open:
                    break
                await self.writable()
                await self._handle(message)
        except ConnectionClosed:
            pass
        except Exception as raised:  # Every failure becomes a close code.
            self.end(as_switchboard_error(raised, "the bridge"))
        finally:
            await self._leave()

    async def _authenticated(self) -> tuple[Principal, frames.FrameId]:
        """Who the client is, and what it called the frame by which it said so."""
        authenticate = self._services.authenticate
        if authenticate is None:
            return ANONYMOUS, None
        token, identity = self._opening.token, None
        if token is None:
            token, identity = await self._first_frame()
        principal = authenticate(token)
        principal.require("rooms.join")
        return principal, identity

    async def _first_frame(self) -> tuple[str, frames.FrameId]:
        """Waits for the frame that holds the token."""
        try:
            async with asyncio.timeout(AUTH_SECONDS):
                frame = frames.decode(await self._connection.recv())
        except TimeoutError:
            raise UnauthenticatedError(
                "TOKEN_MISSING", f"no token came within {AUTH_SECONDS:g} seconds"
            ) from None
        token = frame.data.get("token") if isinstance(frame, Frame) else None
        if isinstance(frame, BadFrame) or frame.type != "auth" or not isinstance(token, str):
            raise UnauthenticatedError(
                "TOKEN_MISSING",
                'send a token: in the subprotocols, or as the first frame {"type": "auth", '
                '"data": {"token": …}}',
            )
        return token, frame.id

    async def _enter(self, principal: Principal) -> None:
        """Has the hub know the client."""
        connection, services = self._connection, self._services
        opening, self._opening = self._opening, Opening("", "", None)
        self._outlet = services.fan.add(connection)
        self._member = await services.hub.realtime.connect(
            ConnectWish(Transport.WEBSOCKET, _peer(connection), opening.client_id, opening.user),
            principal,
            self.wake,
            fan=services.fan,
            outlet=self._outlet,
        )
        connection.on_writable = self.flush
        connection.on_lost = self._release
        services.keepalive.add(self)
        self._watch_expiry(principal)
        self.flush()

    async def _leave(self) -> None:
        self._services.keepalive.remove(self)
        self._cancel_timers()
        if open_tasks := self._tasks | self._calls:
            for task in open_tasks:
                task.cancel()
            await asyncio.wait(open_tasks)
        if self._subscriptions is not None:
            await self._subscriptions.close()
        if self._member is not None:
            self._services.hub.realtime.close(self._member)
        if self._outlet is not None:
            self._services.fan.remove(self._outlet)

    def end(self, error: SwitchboardError) -> None:
        """Ends the connection because of an error, which the client is told."""
        code, reason = closing(error)
        if error.reason != "CONNECTION_CLOSED":
            self.write(frames.error(code_of(error), error, close=code))
        self._close(code, reason)

    def _close(self, code: int, reason: str) -> None:
        if self.close_code is None:
            self.close_code = code
            self._connection.begin_close(code, reason, CLOSE_SECONDS)
        self._release()

    # --- what it sends ------------------------------------------------------------------------

    async def _handle(self, message: str | bytes) -> None:
        now = self._loop.time()
        frame = frames.decode(message)
        if not self._bucket.take(now):
            self._refuse_rate(frame.id)
            return
        if isinstance(frame, BadFrame):
            self._services.metrics.frames_in[""] += 1
            ends = not frame.is_object and self._too_many_malformed(now)
            self._fail(frame.error, frame.id, ends=ends)
            return
        command = COMMANDS.get(frame.type, MESSAGE)
        self._services.metrics.frames_in[command.name] += 1
        if frame.to is not None and command is not MESSAGE:
            problem = f"is for messages, and {frame.type!r} is a command; leave it out"
            self._fail(invalid_field("to", problem), frame.id)
        elif command.waits:
            self._apart(self._obey(command, frame), frame.id)
        elif command.concurrent:
            await self._beside(self._obey(command, frame))
        else:
            await self._obey(command, frame)

    async def _obey(self, command: Command, frame: Frame) -> None:
        try:
            if command.permission is not None:
                self.principal.require(command.permission)
            answer = await command.obey(self, frame)
        except Exception as raised:  # Every failure becomes a frame.
            self._fail(as_switchboard_error(raised, f"frame {command.name}"), frame.id)
            return
        if not command.concurrent and not command.waits:
            # What the hub was told to send because of the frame comes before the answer.
            self._write_all()
        if answer is not None and frame.id is not None:
            self.write(frames.ack(frame.id, answer))

    async def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs something while further frames are read, but not without bound."""
        if len(self._tasks) >= MAX_CONCURRENT:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _apart(self, work: Coroutine[Any, Any, None], identity: frames.FrameId) -> None:
        """Runs something that waits for others than the hub, so that no frame waits for it."""
        if len(self._calls) >= MAX_CALLS:
            work.close()
            problem = f"this connection waits for {MAX_CALLS} calls already"
            self._fail(limit_reached(problem, MAX_CALLS), identity)
            return
        task = self._loop.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    def _fail(
        self, error: SwitchboardError, identity: frames.FrameId, *, ends: bool = False
    ) -> None:
        """Tells an error, and ends the connection with it where it is to end."""
        self._services.metrics.errors[error.reason] += 1
        code, reason = closing(error)
        self.write(frames.error(code_of(error), error, identity, code if ends else None))
        if ends:
            self._close(code, reason)

    def _refuse_rate(self, identity: frames.FrameId) -> None:
        """Refuses a frame; ends the connection of a client that does not slow down for a second."""
        ends = self._bucket.refused >= self._services.limits.frames_per_second
        self._fail(self._too_fast("frames"), identity, ends=ends)

    def _flooded(self) -> None:
        """Ends the connection of a client that sends nothing but pings and pongs."""
        self._fail(self._too_fast("pings and pongs"), None, ends=True)

    def _too_fast(self, what: str) -> ResourceExhaustedError:
        limit = self._services.limits.frames_per_second
        return ResourceExhaustedError(
            "RATE_LIMITED",
            f"more than {limit} {what} a second; send them more slowly",
            metadata={"limit": str(limit), "retry_after_ms": str(-(-1000 // limit))},
        )

    def _too_many_malformed(self, now: float) -> bool:
        """Takes note of a message that is no frame, and says whether there were too many."""
        self._bad_times = [each for each in self._bad_times if each > now - MALFORMED_SECONDS]
        self._bad_times.append(now)
        return len(self._bad_times) >= MALFORMED_LIMIT

    # --- what it is sent ----------------------------------------------------------------------

    def wake(self) -> None:
        """Has what the hub has for the client written soon."""
        self._services.flusher.add(self.flush)

    def flush(self) -> None:
        """Writes what the hub has for the client, as long as the client reads."""
        connection, member = self._connection, self._member
        if member is None:
            return
        if connection.behind():
            # Whoever does not read gets no more than the reason.
            if member.ended is not None:
                self.end(member.ended)
            return
        # What many get together with it, if that is all there is, is left for the fan to write.
        while not member.outbox.idle:
            if items := member.take(TAKE_BYTES):
                self._write_items(items)
            if connection.behind():
                return
        if member.ended is not None:
            self.end(member.ended)
        if self._waiting:
            self._release()

    def _write_all(self) -> None:
        """Writes all that the hub has for the client now, whether the client reads or not.

        The client's next frame is read when it has, so there is no more than this.
        """
        while items := self.member.take(TAKE_BYTES):
            self._write_items(items)

    def _write_items(self, items: list[Item]) -> None:
        services = self._services
        count = len(items)
        if count == 1:
            written = services.frames.of(items[0])
        else:
            written = b"".join(map(services.frames.of, items))
        self._connection.write(written)
        services.metrics.frames_out += count

    def write(self, frame: bytes) -> None:
        """Writes a frame; never waits."""
        self._connection.write(frame)
        self._services.metrics.frames_out += 1

    async def writable(self) -> None:
        """Waits until the client has read enough of what was written. Safe to cancel."""
        while self._connection.behind() and self._connection.open:
            waiter = self._loop.create_future()
            self._waiting.append(waiter)
            await waiter

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    # --- whether it lives ---------------------------------------------------------------------

    @property
    def heard(self) -> float:
        """When anything last came from the client, by the loop's clock."""
        return self._connection.heard

    def ping(self) -> None:
        """Asks the client for a sign of life, and gives one that a page can see."""
        self.write(PING + heartbeat())

    def lost(self) -> None:
        """Gives the client up."""
        self._close(PING_TIMEOUT, "PING_TIMEOUT")

    def _watch_expiry(self, principal: Principal) -> None:
        self._cancel_timers()
        if principal.expires_at is None:
            return
        left = principal.expires_at - time.time()
        notice = max(left - EXPIRY_NOTICE_SECONDS, left / 2)
        self._timers = (
            self._loop.call_later(max(0.0, notice), self._warn_of_expiry, principal.expires_at),
            self._loop.call_later(max(0.0, left), self._expire),
        )

    def _warn_of_expiry(self, expires_at: float) -> None:
        seconds = max(0, round(expires_at - time.time()))
        self.write(frames.system("token_expiring", {"seconds": seconds}))

    def _expire(self) -> None:
        self.end(
            UnauthenticatedError(
                "TOKEN_EXPIRED", "the token has expired; connect again with a new one"
            )
        )

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers = ()


def _peer(connection: BridgeConnection) -> str:
    address = connection.remote_address
    if not address:
        return ""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

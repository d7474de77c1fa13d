"""The WebSocket door: lets clients in, and has a session serve each."""

from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from switchboard_server.bridge import handshake
from switchboard_server.bridge.connection import BridgeConnection
from switchboard_server.bridge.event_json import EventJson
from switchboard_server.bridge.fan_out import FanOut
from switchboard_server.bridge.flushing import Flusher
from switchboard_server.bridge.handshake import Opening
from switchboard_server.bridge.keepalive import Keepalive
from switchboard_server.bridge.messages import ItemFrames
from switchboard_server.bridge.session import BridgeLimits, Services, Session
from switchboard_server.core.errors import (
    SwitchboardError,
    UnauthenticatedError,
    shutting_down,
)
from switchboard_server.core.principal import Principal
from switchboard_server.core.realtime.checks import check_client_id, check_user
from switchboard_server.core.use_cases import UseCases
from switchboard_server.telemetry.bridge_metrics import BridgeMetrics

RETRY_AFTER_SECONDS = 5
"""What a client is told to wait that finds the hub full."""


class RefusedError(Exception):
    """A handshake that is answered with an error.

    Args:
        status: The HTTP status.
        text: Why, in a sentence.
        headers: More headers.
    """

    def __init__(self, status: HTTPStatus, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers


class WebSocketDoor:
    """Serves WebSocket clients on the bridge's port.

    Args:
        hub: Does the work.
        authenticate: Tells whose a token is, or raises UnauthenticatedError; None: nobody is asked
            for one.
        limits: What a client can ask for.
        allowed_origins: Origins of pages, besides the host itself, that may connect; "*": all.
        metrics: Counts.
    """

    def __init__(
        self,
        hub: UseCases,
        *,
        authenticate: Callable[[str], Principal] | None,
        limits: BridgeLimits,
        allowed_origins: Collection[str],
        metrics: BridgeMetrics,
    ) -> None:
        self.limits = limits
        self._allowed_origins = allowed_origins
        self._metrics = metrics
        frames = ItemFrames(
            {
                "heartbeat_seconds": limits.ping_interval,
                "max_frame_bytes": limits.max_frame_bytes,
                "max_frames_per_second": limits.frames_per_second,
            }
        )
        flusher = Flusher()
        self._services = Services(
            hub,
            authenticate,
            limits,
            metrics,
            Keepalive(limits.ping_interval, limits.ping_timeout),
            EventJson(),
            frames,
            flusher,
            FanOut(flusher, frames, metrics),
        )
        self._openings: dict[ServerConnection, tuple[Opening, BridgeConnection]] = {}
        self._sessions: dict[Session, None] = {}

    def admit(self, connection: BridgeConnection, request: Request) -> None:
        """Looks at a handshake before it is answered.

        Raises:
            RefusedError: The client is not let in.
        """
        try:
            opening = self._admitted(request)
        except RefusedError as refusal:
            self._metrics.refused[refusal.status.value] += 1
            raise
        if connection.gone:
            # Its end, which is told once, came before its turn: nobody would take it out again.
            return
        self._openings[connection] = opening, connection
        connection.on_lost = lambda: self._gone(connection)

    def _admitted(self, request: Request) -> Opening:
        any_host = self._services.authenticate is not None
        if not handshake.origin_allowed(request.headers, self._allowed_origins, any_host=any_host):
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "pages of this origin may not connect; SWITCHBOARD_ALLOWED_ORIGINS lists those "
                "that may",
            )
        if len(self._openings) + len(self._sessions) >= self.limits.max_connections:
            raise RefusedError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "there are as many connections as there may be; try again later",
                ("Retry-After", str(RETRY_AFTER_SECONDS)),
            )
        try:
            opening = handshake.read(request.path, request.headers)
            check_client_id(opening.client_id)
            check_user("user", opening.user)
        except (SwitchboardError, ValueError) as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from error
        return opening

    async def serve(self, connection: ServerConnection) -> None:
        """Serves a client that was let in, until its connection has ended."""
        opening, accepted = self._openings.pop(connection)
        accepted.on_lost = None
        accepted.forget_handshake()
        session = Session(self._services, accepted, opening)
        self._sessions[session] = None
        self._metrics.connections += 1
        try:
            await session.run()
        finally:
            self._metrics.connections -= 1
            self._metrics.closed[_close_label(session, connection)] += 1
            del self._sessions[session]

    def count_timed_out(self) -> None:
        """Takes note of a connection that was cut before it had sent a whole request."""
        self._metrics.timed_out += 1

    def select_subprotocol(self, _connection: ServerConnection, offered: Collection[str]) -> Any:
        """Answers a browser that sends its token as a subprotocol."""
        return handshake.SUBPROTOCOL if handshake.SUBPROTOCOL in offered else None

    def serves_page(self, request: Request) -> bool:
        """Whether a request for a page calls the hub by one of its names.

        Where a token is asked for, a page that got in by a name of its own has none to show.
        """
        return self._services.authenticate is not None or handshake.host_allowed(
            request.headers, self._allowed_origins
        )

    def sharing(self, request: Request) -> tuple[tuple[str, str], ...]:
        """Headers that let a page read a file, where pages of its origin may connect."""
        vary = ("Vary", "Origin")
        origin = handshake.listed_origin(request.headers, self._allowed_origins)
        return (vary,) if origin is None else (vary, ("Access-Control-Allow-Origin", origin))

    def authorize_info(self, request: Request) -> None:
        """Checks that a request may see `info`.

        Raises:
            SwitchboardError: It may not.
        """
        authenticate = self._services.authenticate
        if authenticate is None:
            return
        token = handshake.read(request.path, request.headers).token
        if token is None:
            raise UnauthenticatedError("TOKEN_MISSING", "send a token: Authorization: Bearer …")
        authenticate(token).require("messaging.view")

    def info(self) -> dict[str, Any]:
        """What `/ws/info` answers."""
        stats = self._services.hub.realtime.stats()
        limits = self.limits
        return {
            "connections": sum(stats.connections.values()),
            "transports": dict(stats.connections),
            "users": stats.users,
            "rooms": stats.rooms,
            "limits": {
                "max_connections": limits.max_connections,
                "max_frame_bytes": limits.max_frame_bytes,
                "frames_per_second": limits.frames_per_second,
                "ping_interval_seconds": limits.ping_interval,
                "ping_timeout_seconds": limits.ping_timeout,
            },
        }

    def stop(self) -> None:
        """Tells every client that the hub goes, and to come back."""
        error = shutting_down()
        for session in list(self._sessions):
            session.end(error)
        self._services.keepalive.close()

    def _gone(self, connection: BridgeConnection) -> None:
        """Takes note of a client that went away before its handshake was done."""
        del self._openings[connection]


def _close_label(session: Session, connection: ServerConnection) -> str:
    """The close code as metrics have it: clients can make up any from 3000 on."""
    if session.close_code is not None:
        return str(session.close_code)
    protocol = connection.protocol
    if protocol.close_sent is not None and not protocol.close_rcvd_then_sent:
        # The library closes by itself where a message is too large, or breaks RFC 6455.
        return str(protocol.close_sent.code)
    code = protocol.close_code
    if code is None:
        return "1006"
    return str(code) if code < 3000 else "client"

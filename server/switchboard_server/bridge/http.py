"""The HTTP door: health and metrics."""

import asyncio
import email.utils
import json
import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from switchboard_server.telemetry.listeners import bind_error

logger = logging.getLogger(__name__)

OPEN_SECONDS = 10.0
"""Seconds that a connection has for its request and the answer; then it is closed."""

_TEXT = "text/plain; charset=utf-8"
_ALLOW = ("Allow", "GET, HEAD")
_OTHER_METHODS = frozenset({b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"})
_LONGEST_METHOD = max(map(len, _OTHER_METHODS))


@dataclass(frozen=True, slots=True)
class HealthReport:
    """How the hub is."""

    serving: bool
    """Whether it does everything that it is for."""

    version: str
    """Its version."""

    uptime_seconds: float
    """Seconds since it started."""

    services: Mapping[str, str] = field(default_factory=dict)
    """Status of each gRPC service as `grpc.health.v1` names it: SERVING, NOT_SERVING."""

    log: Mapping[str, object] = field(default_factory=dict)
    """State of the log, as JSON has it."""

    def to_json(self) -> dict[str, object]:
        """Returns what `/health` answers."""
        return {
            "status": "SERVING" if self.serving else "NOT_SERVING",
            "version": self.version,
            "uptime_seconds": round(self.uptime_seconds, 3),
            "services": dict(self.services),
            "log": dict(self.log),
        }


class BridgeServer:
    """Answers HTTP on the bridge's port.

    | path | answer |
    |---|---|
    | `/` | where to go |
    | `/health` | overview in JSON; 200, or 503 if the hub is not serving |
    | `/livez` | 200 as long as the process answers |
    | `/readyz` | 200, or 503 if the hub is not serving |
    | `/metrics` | metrics for Prometheus |

    Args:
        host: Address to listen on.
        port: Port to listen on; 0: any free one.
        health: Says how the hub is. It is called with every request that asks, so it must not wait.
        metrics: Returns the body and the content type of `/metrics`; likewise.
        tls: Encrypts; None: no encryption.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        health: Callable[[], HealthReport],
        metrics: Callable[[], tuple[bytes, str]],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._host = host
        self._wanted_port = port
        self._tls = tls
        self._health = health
        self._metrics = metrics
        self._server: Server | None = None
        self._connections: set[ServerConnection] = set()
        self._pages: dict[str, Callable[[], tuple[HTTPStatus, str, bytes]]] = {
            "/": self._root,
            "/health": self._overview,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._render_metrics,
        }

    @property
    def port(self) -> int:
        """The port that it listens on, once it is started."""
        if self._server is None:
            raise RuntimeError("the bridge is not started")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Listens and answers from now on.

        Raises:
            BindError: The port cannot be had.
        """
        try:
            self._server = await serve(
                _never_open,
                self._host if self._wanted_port else await self._first_address(),
                self._wanted_port,
                process_request=self._answer,
                create_connection=_connection_class(self._connections),
                open_timeout=OPEN_SECONDS,
                compression=None,
                server_header="switchboard",
                ssl=self._tls,
            )
        except OSError as error:
            raise bind_error("PORT", self._host, self._wanted_port, error) from error

    async def stop(self, grace: float = 1.0) -> None:
        """Stops listening, and ends what is open.

        Args:
            grace: Seconds that answers under way get to reach their clients.
        """
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            # Nothing is owed to a client that has not asked yet.
            if connection.request is None:
                connection.transport.abort()
        try:
            async with asyncio.timeout(grace):
                await self._server.wait_closed()
        except TimeoutError:
            for connection in list(self._connections):
                connection.transport.abort()
            await self._server.wait_closed()

    async def _first_address(self) -> str:
        """Looks up the host, for port 0: its other addresses would get other ports."""
        infos = await asyncio.get_running_loop().getaddrinfo(
            self._host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return str(infos[0][4][0])

    def _answer(self, _connection: ServerConnection, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return _respond(HTTPStatus.METHOD_NOT_ALLOWED, headers=(_ALLOW,))
        try:
            page = self._pages.get(urlsplit(request.path).path)
        except ValueError:
            return _respond(HTTPStatus.BAD_REQUEST)
        if page is None:
            response = _respond(HTTPStatus.NOT_FOUND)
        else:
            try:
                response = _respond(*page())
            except Exception:
                logger.exception("cannot answer", extra={"path": request.path})
                response = _respond(HTTPStatus.INTERNAL_SERVER_ERROR)
        if request.method == "HEAD":
            response.body = b""
        return response

    def _root(self) -> tuple[HTTPStatus, str, bytes]:
        lines = [
            f"Switchboard {self._health().version}",
            "",
            "/health   how the hub is, as JSON",
            "/livez    whether it runs",
            "/readyz   whether it serves",
            "/metrics  metrics for Prometheus",
            "",
            "Events are published and received over gRPC, on the port of GRPC_PORT.",
        ]
        return HTTPStatus.OK, _TEXT, "".join(f"{line}\n" for line in lines).encode()

    def _overview(self) -> tuple[HTTPStatus, str, bytes]:
        report = self._health()
        body = json.dumps(report.to_json(), indent=2) + "\n"
        return _status(report), "application/json", body.encode()

    def _livez(self) -> tuple[HTTPStatus, str, bytes]:
        return HTTPStatus.OK, _TEXT, b"ok\n"

    def _readyz(self) -> tuple[HTTPStatus, str, bytes]:
        report = self._health()
        return _status(report), _TEXT, b"ok\n" if report.serving else b"not serving\n"

    def _render_metrics(self) -> tuple[HTTPStatus, str, bytes]:
        body, content_type = self._metrics()
        return HTTPStatus.OK, content_type, body


def _status(report: HealthReport) -> HTTPStatus:
    return HTTPStatus.OK if report.serving else HTTPStatus.SERVICE_UNAVAILABLE


def _respond(
    status: HTTPStatus,
    content_type: str = _TEXT,
    body: bytes | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    """Makes a response.

    Args:
        status: Its status.
        content_type: Type of the body.
        body: The body; None: the status in words.
        headers: More headers.
    """
    if body is None:
        body = f"{status.value} {status.phrase}\n".encode()
    all_headers = Headers(
        (
            ("Date", email.utils.formatdate(usegmt=True)),
            ("Connection", "close"),
            ("Content-Length", str(len(body))),
            ("Content-Type", content_type),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *headers,
        )
    )
    return Response(status.value, status.phrase, all_headers, body)


async def _never_open(connection: ServerConnection) -> None:
    """Would handle a WebSocket, and `BridgeServer._answer` never lets one open."""
    await connection.close()


def _connection_class(connections: set[ServerConnection]) -> type[ServerConnection]:
    """Makes the class of connections that are kept in a set while they are open."""

    class Connection(ServerConnection):
        """A connection that also answers requests which websockets only hangs up on.

        It does so for anything that cannot start a WebSocket: a request with a body, and what is no
        HTTP at all. A client deserves to be told.
        """

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._start = b""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            connections.add(self)
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            connections.discard(self)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if len(self._start) <= _LONGEST_METHOD:
                self._start += data[: _LONGEST_METHOD + 1]
            super().data_received(data)

        def send_data(self) -> None:
            # Something came that cannot be parsed, and only the end of the stream is to be sent.
            if self._start and self.protocol.handshake_exc and self.protocol.writes == [b""]:
                method = self._start.partition(b" ")[0]
                if method in _OTHER_METHODS:
                    response = _respond(HTTPStatus.METHOD_NOT_ALLOWED, headers=(_ALLOW,))
                else:
                    response = _respond(HTTPStatus.BAD_REQUEST)
                self.transport.write(response.serialize())
            super().send_data()

    return Connection

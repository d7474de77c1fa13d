"""The bridge's port: pages over HTTP, and WebSockets."""

import asyncio
import email.utils
import json
import logging
import socket
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast
from urllib.parse import urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from switchboard_server.bridge import assets
from switchboard_server.bridge.connection import BridgeConnection, connection_class
from switchboard_server.bridge.handshake import is_websocket_path
from switchboard_server.bridge.websocket import RefusedError, WebSocketDoor
from switchboard_server.core.errors import SwitchboardError, UnauthenticatedError
from switchboard_server.telemetry.listeners import bind_error

logger = logging.getLogger(__name__)

OPEN_SECONDS = 10.0
"""Seconds that a connection has for its request and the answer; then it is closed."""

MAX_QUEUED_FRAMES = 4
"""Frames of one client that wait to be read; beyond it, nothing more is taken from its socket."""

WRITE_BUFFER_BYTES = 64 * 1024
"""Bytes for a client that wait for its socket; beyond it, what is sent waits in its outbox."""

_TEXT = "text/plain; charset=utf-8"
_UNKNOWN_HOST = (
    b"without a token the hub answers to localhost and to addresses only; "
    b"SWITCHBOARD_ALLOWED_ORIGINS lists the origins of its other names\n"
)
_ALLOW = ("Allow", "GET, HEAD")
_Page = tuple[HTTPStatus, str, bytes]


@dataclass(frozen=True, slots=True)
class HealthReport:
    """How the hub is."""

    serving: bool
    """Whether it does everything that it is for."""

    version: str
    """Its version."""

    uptime_seconds: float
    """Seconds since it started."""

    grpc_port: int
    """Where it takes gRPC; 0: that is not known yet."""

    services: Mapping[str, str] = field(default_factory=dict)
    """Status of each gRPC service as `grpc.health.v1` names it: SERVING, NOT_SERVING."""

    log: Mapping[str, object] = field(default_factory=dict)
    """State of the log, as JSON has it."""

    realtime: Mapping[str, object] = field(default_factory=dict)
    """State of connections and rooms, likewise."""

    registry: Mapping[str, object] = field(default_factory=dict)
    """State of the directory of services, likewise."""

    def to_json(self) -> dict[str, object]:
        """Returns what `/health` answers."""
        return {
            "status": "SERVING" if self.serving else "NOT_SERVING",
            "version": self.version,
            "uptime_seconds": round(self.uptime_seconds, 3),
            "grpc_port": self.grpc_port,
            "services": dict(self.services),
            "log": dict(self.log),
            "realtime": dict(self.realtime),
            "registry": dict(self.registry),
        }


class BridgeServer:
    """Answers HTTP on the bridge's port, and hands WebSockets to their door.

    | path | answer |
    |---|---|
    | `/`, `/console/…`, `/switchboard.js` | the console, and the browser SDK |
    | `/health` | overview in JSON; 200, or 503 if the hub is not serving |
    | `/livez` | 200 as long as the process answers |
    | `/readyz` | 200, or 503 if the hub is not serving |
    | `/metrics` | metrics for Prometheus |
    | `/ws`, `/ws/{client_id}` | a WebSocket |
    | `/ws/info` | how many are connected, in JSON; 401 or 403 without the permission |

    A hub that asks for no token answers with the console, the SDK and `/ws/info` only where it is
    called by a name that no stranger's page can have; else 403.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0: any free one.
        health: Says how the hub is. It is called with every request that asks, so it must not wait.
        metrics: Returns the body and the content type of `/metrics`; likewise.
        websockets: Serves WebSockets.
        tls: Encrypts; None: no encryption.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        health: Callable[[], HealthReport],
        metrics: Callable[[], tuple[bytes, str]],
        websockets: WebSocketDoor,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._host = host
        self._wanted_port = port
        self._tls = tls
        self._health = health
        self._metrics = metrics
        self._websockets = websockets
        self._server: Server | None = None
        self._connections: set[BridgeConnection] = set()
        self._assets = assets.load_assets()
        self._pages: dict[str, Callable[[], _Page]] = {
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

    @property
    def connections(self) -> Collection[BridgeConnection]:
        """Every connection that is open, those for pages too."""
        return self._connections

    async def start(self) -> None:
        """Listens and answers from now on.

        Raises:
            BindError: The port cannot be had.
        """
        try:
            self._server = await serve(
                self._websockets.serve,
                self._host if self._wanted_port else await self._first_address(),
                self._wanted_port,
                process_request=self._answer,
                select_subprotocol=self._websockets.select_subprotocol,
                create_connection=connection_class(
                    self._connections,
                    _refusal,
                    self._count_unasked,
                    self._websockets.limits.frames_per_second,
                ),
                open_timeout=OPEN_SECONDS,
                # A window for each connection would take more memory than all the rest.
                compression=None,
                # The bridge pings by one timer for all.
                ping_interval=None,
                max_size=self._websockets.limits.max_frame_bytes,
                max_queue=MAX_QUEUED_FRAMES,
                write_limit=WRITE_BUFFER_BYTES,
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
        self._websockets.stop()
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

    def _count_unasked(self, connection: BridgeConnection) -> None:
        if connection.loop.time() - connection.made >= OPEN_SECONDS:
            self._websockets.count_timed_out()

    async def _first_address(self) -> str:
        """Looks up the host, for port 0: its other addresses would get other ports."""
        infos = await asyncio.get_running_loop().getaddrinfo(
            self._host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return str(infos[0][4][0])

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.method not in ("GET", "HEAD"):
            return _respond(HTTPStatus.METHOD_NOT_ALLOWED, headers=(_ALLOW,))
        try:
            path = urlsplit(request.path).path
        except ValueError:
            return _respond(HTTPStatus.BAD_REQUEST)
        if is_websocket_path(path) and _upgrades(request):
            return self._open(connection, request)
        page = self._pages.get(path)
        asset = self._assets.get(path)
        if asset is not None or path == "/ws/info":
            response = self._guarded(asset, request)
        elif is_websocket_path(path):
            response = _respond(HTTPStatus.UPGRADE_REQUIRED, headers=(("Upgrade", "websocket"),))
        elif page is None:
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

    def _open(self, connection: ServerConnection, request: Request) -> Response | None:
        """Lets a WebSocket open, or says why it does not."""
        try:
            self._websockets.admit(cast("BridgeConnection", connection), request)
        except RefusedError as refusal:
            return _respond(
                refusal.status, body=f"{refusal.text}\n".encode(), headers=refusal.headers
            )
        return None

    def _guarded(self, asset: assets.Asset | None, request: Request) -> Response:
        """Answers with a file, or with the info, where the hub is called by one of its names."""
        if not self._websockets.serves_page(request):
            return _respond(HTTPStatus.FORBIDDEN, body=_UNKNOWN_HOST)
        if asset is None:
            return self._info(request)
        return _serve(asset, request, self._websockets.sharing(request) if asset.shared else ())

    def _info(self, request: Request) -> Response:
        try:
            self._websockets.authorize_info(request)
        except UnauthenticatedError as error:
            return _respond(
                HTTPStatus.UNAUTHORIZED,
                body=f"{error}\n".encode(),
                headers=(("WWW-Authenticate", "Bearer"),),
            )
        except SwitchboardError as error:
            return _respond(HTTPStatus.FORBIDDEN, body=f"{error}\n".encode())
        body = json.dumps(self._websockets.info(), indent=2) + "\n"
        return _respond(HTTPStatus.OK, "application/json", body.encode())

    def _overview(self) -> _Page:
        report = self._health()
        body = json.dumps(report.to_json(), indent=2) + "\n"
        return _status(report), "application/json", body.encode()

    def _livez(self) -> _Page:
        return HTTPStatus.OK, _TEXT, b"ok\n"

    def _readyz(self) -> _Page:
        report = self._health()
        return _status(report), _TEXT, b"ok\n" if report.serving else b"not serving\n"

    def _render_metrics(self) -> _Page:
        body, content_type = self._metrics()
        return HTTPStatus.OK, content_type, body


def _status(report: HealthReport) -> HTTPStatus:
    return HTTPStatus.OK if report.serving else HTTPStatus.SERVICE_UNAVAILABLE


def _serve(asset: assets.Asset, request: Request, headers: tuple[tuple[str, str], ...]) -> Response:
    """Answers with a file, or that the one the browser has is still right."""
    response = _respond(
        HTTPStatus.OK,
        asset.content_type,
        asset.body,
        (("ETag", asset.etag), *assets.HEADERS, *headers),
        cache="no-cache",
    )
    if asset.etag in ",".join(request.headers.get_all("If-None-Match")):
        status = HTTPStatus.NOT_MODIFIED
        response.status_code, response.reason_phrase, response.body = status, status.phrase, b""
    return response


def _upgrades(request: Request) -> bool:
    return any("websocket" in each.lower() for each in request.headers.get_all("Upgrade"))


def _refusal(status: HTTPStatus) -> Response:
    """The response to what is no proper request."""
    headers = (_ALLOW,) if status is HTTPStatus.METHOD_NOT_ALLOWED else ()
    return _respond(status, headers=headers)


def _respond(
    status: HTTPStatus,
    content_type: str = _TEXT,
    body: bytes | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    *,
    cache: str = "no-store",
) -> Response:
    """Makes a response.

    Args:
        status: Its status.
        content_type: Type of the body.
        body: The body; None: the status in words.
        headers: More headers.
        cache: Who may keep it, as `Cache-Control` says it.
    """
    if body is None:
        body = f"{status.value} {status.phrase}\n".encode()
    all_headers = Headers(
        (
            ("Date", email.utils.formatdate(usegmt=True)),
            ("Connection", "close"),
            ("Content-Length", str(len(body))),
            ("Content-Type", content_type),
            ("Cache-Control", cache),
            ("X-Content-Type-Options", "nosniff"),
            *headers,
        )
    )
    return Response(status.value, status.phrase, all_headers, body)

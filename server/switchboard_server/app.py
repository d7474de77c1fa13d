"""The composition root: with `parts` and its backends, the only one that knows every layer."""

import asyncio
import gc
import logging
import resource
import signal
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import click
import uvloop

from switchboard_server import __version__
from switchboard_server.bridge.http import BridgeServer, HealthReport
from switchboard_server.bridge.session import BridgeLimits
from switchboard_server.bridge.websocket import WebSocketDoor
from switchboard_server.config import Settings
from switchboard_server.core.errors import SwitchboardError
from switchboard_server.greeting import greeting, say
from switchboard_server.parts import Parts
from switchboard_server.rpc.server import GrpcServer
from switchboard_server.security.errors import CredentialsError
from switchboard_server.security.tokens import TokenVerifier
from switchboard_server.telemetry.listeners import BindError
from switchboard_server.telemetry.logs import configure_logging
from switchboard_server.telemetry.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    from switchboard_server.rpc.xds import XdsService
    from switchboard_server.security.jwks import KeySet
    from switchboard_server.security.keys import Keys
    from switchboard_server.security.tls import Tls

EXIT_CANNOT_START = 1
"""Exit code when a port, the data folder or a key cannot be had."""
COLLECT_AFTER = 10_000
"""So many more objects there must be than at the last look for garbage in circles, half a
millisecond's work. Python's default, 700, is soon reached by events that merely wait."""
SWITCH_SECONDS = 0.0005
"""How long the event loop may keep the interpreter while the log's thread waits for it, which it
does several times in each commit. With Python's default, 5 ms, a commit takes 15 ms under load."""

_logger = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Runs a hub until SIGTERM or SIGINT; a second signal skips the drain.

    Args:
        settings: How it is to run.

    Raises:
        SystemExit: It cannot start; the reason is on standard error.
    """
    configure_logging(settings.logging.level, settings.logging.log_format)
    for name in settings.ignored:
        backend = settings.storage.backend
        _logger.warning("%s is set and has no effect with SWITCHBOARD_BACKEND=%s", name, backend)
    try:
        uvloop.run(Hub(settings).run(), debug=settings.logging.debug)
    except (BindError, CredentialsError, SwitchboardError) as error:
        click.echo(f"switchboard: {error}", err=True)
        raise SystemExit(EXIT_CANNOT_START) from error


class Hub:
    """One hub, with all its parts.

    Args:
        settings: How it is to run.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._began = time.monotonic()
        self._grpc_port = 0
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._metrics = Metrics(__version__)

    async def run(self) -> None:
        """Starts everything in order, waits for a signal, and stops all in the reverse order.

        Raises:
            BindError: A port cannot be had.
            CredentialsError: A key or a certificate cannot be used.
            SwitchboardError: The log cannot be opened.
        """
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        keys, tls = settings.auth.load_keys(), settings.tls.load()
        async with AsyncExitStack() as stack:
            if keys is not None:
                await keys.open()
                stack.push_async_callback(keys.close)
            parts = await self._assemble(stack)
            self._does = parts.does
            verifier = self._verifier(keys)
            self._grpc = self._grpc_door(parts, verifier, stack)
            bridge = self._bridge(parts, verifier, tls)
            await bridge.start()
            stack.push_async_callback(bridge.stop)
            self._grpc_port = await self._grpc.start(
                settings.server.host,
                settings.server.grpc_port,
                None if tls is None else tls.credentials,
            )
            stack.push_async_callback(self._drain)
            for follow in (self._grpc.follow_availability, *([tls.follow] if tls else ())):
                follower = asyncio.create_task(follow())
                stack.callback(follower.cancel)
            _allow_many_connections()
            _settle_interpreter()
            say(greeting(settings, parts.kept, (self._grpc_port, bridge.port), keys))
            await self._stop.wait()

    def _signalled(self) -> None:
        (self._hurry if self._stop.is_set() else self._stop).set()

    async def _assemble(self, stack: AsyncExitStack) -> Parts:
        """Opens the chosen backend, of which nothing is loaded before: its drivers are an extra."""
        if self._settings.storage.backend == "cluster":
            from switchboard_server.parts_cluster import assemble  # noqa: PLC0415
        else:
            from switchboard_server.parts_embedded import assemble  # noqa: PLC0415
        return await assemble(self._settings, self._metrics, stack)

    def _verifier(self, keys: "Keys | KeySet | None") -> TokenVerifier | None:
        """Checks tokens; None: nobody is asked for one."""
        auth = self._settings.auth
        if keys is None:
            return None
        return TokenVerifier(keys, audience=auth.audience, issuer=auth.issuer)

    def _grpc_door(
        self, parts: Parts, verifier: TokenVerifier | None, stack: AsyncExitStack
    ) -> GrpcServer:
        settings = self._settings
        return GrpcServer(
            parts.does,
            verifier=verifier,
            xds=self._xds(parts, verifier, stack) if settings.server.xds else None,
            observer=self._metrics.rpc,
            max_message_bytes=settings.limits.max_message_bytes,
            with_reflection=settings.server.reflection,
            with_channelz=settings.server.channelz,
        )

    def _xds(
        self, parts: Parts, verifier: TokenVerifier | None, stack: AsyncExitStack
    ) -> "XdsService":
        # Imported where it is wanted: its protos are an extra of their own, and take memory.
        from switchboard_server.rpc.xds import XdsService  # noqa: PLC0415

        service = XdsService(
            parts.does.registry, verifier, self._metrics.rpc, self._metrics.watch_xds()
        )
        stack.push_async_callback(service.close)
        return service

    def _bridge(
        self, parts: Parts, verifier: TokenVerifier | None, tls: "Tls | None"
    ) -> BridgeServer:
        settings = self._settings
        return BridgeServer(
            settings.server.host,
            settings.server.port,
            health=self._report,
            metrics=lambda: (self._metrics.render(), CONTENT_TYPE),
            websockets=WebSocketDoor(
                parts.does,
                authenticate=None if verifier is None else verifier.verify,
                limits=self._websocket_limits(),
                allowed_origins=settings.websocket.allowed_origins,
                metrics=self._metrics.bridge,
            ),
            tls=None if tls is None else tls.context,
        )

    def _websocket_limits(self) -> BridgeLimits:
        websocket = self._settings.websocket
        return BridgeLimits(
            max_connections=self._settings.realtime.max_connections,
            max_frame_bytes=websocket.max_frame_bytes,
            frames_per_second=websocket.frames_per_second,
            ping_interval=websocket.ping_interval,
            ping_timeout=websocket.ping_timeout,
        )

    def _report(self) -> HealthReport:
        statuses = self._grpc.health.statuses
        events = self._does.events
        stats = events.stats()
        return HealthReport(
            serving=all(statuses.values()),
            version=__version__,
            uptime_seconds=time.monotonic() - self._began,
            grpc_port=self._grpc_port,
            services={
                name: "SERVING" if serving else "NOT_SERVING" for name, serving in statuses.items()
            },
            log={
                "backend": events.log.capabilities.name,
                "problem": events.problem,
                "first_sequence": stats.first_sequence,
                "last_sequence": stats.last_sequence,
                "bytes": stats.log_bytes,
            },
            realtime={"problem": self._does.realtime.problem},
            registry={"problem": self._does.registry.problem},
        )

    async def _drain(self) -> None:
        """Says NOT_SERVING, ends the streams, and waits for what is open, unless in a hurry."""
        await self._grpc.begin_shutdown()
        say("switchboard: stopping; signal again to stop at once")
        stopping = asyncio.create_task(self._grpc.stop(self._settings.server.shutdown_seconds))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait([stopping, hurry], return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not stopping.done():
            await self._grpc.stop(None)
        await stopping


def _allow_many_connections() -> None:
    """Raises the limit of open files, one for each connection, as far as the system lets it be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _settle_interpreter() -> None:
    """Keeps pauses short: those of garbage collection, and those in which threads wait."""
    sys.setswitchinterval(SWITCH_SECONDS)
    # What was loaded at the start need not be looked at ever again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])

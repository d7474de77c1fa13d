"""The composition root: the only module that knows every layer."""

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from contextlib import AsyncExitStack

import click
import uvloop

from switchboard_server import __version__
from switchboard_server.backends.embedded.lock import FolderLock
from switchboard_server.backends.embedded.log import EmbeddedLog
from switchboard_server.backends.embedded.memory import MemoryStore
from switchboard_server.backends.embedded.sqlite import SqliteStore
from switchboard_server.backends.embedded.store import Retention, Store
from switchboard_server.bridge.http import BridgeServer, HealthReport
from switchboard_server.config import Settings
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.events import EventHub, Limits
from switchboard_server.core.publishing import PublishLimits
from switchboard_server.rpc.codec import DeliveryCodec
from switchboard_server.rpc.server import GrpcServer
from switchboard_server.security.errors import CredentialsError
from switchboard_server.security.tokens import TokenVerifier
from switchboard_server.telemetry.listeners import BindError
from switchboard_server.telemetry.logs import configure_logging
from switchboard_server.telemetry.metrics import CONTENT_TYPE, Metrics

EXIT_CANNOT_START = 1
"""Exit code when a port, the data folder or a key cannot be had."""

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
        _logger.warning("%s is set and has no effect in this version", name)
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
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._codec = DeliveryCodec()
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
            self._lock(stack)
            hub = EventHub(EmbeddedLog(self._store(), self._codec), self._limits())
            await hub.open()
            stack.push_async_callback(hub.close)
            self._codec.log_id = hub.log.log_id
            self._metrics.watch_hub(hub.stats)
            self._hub = hub
            self._grpc = GrpcServer(
                hub,
                verifier=None
                if keys is None
                else TokenVerifier(
                    keys, audience=settings.auth.audience, issuer=settings.auth.issuer
                ),
                observer=self._metrics.rpc,
                max_message_bytes=settings.limits.max_message_bytes,
                with_reflection=settings.server.reflection,
                with_channelz=settings.server.channelz,
            )
            bridge = BridgeServer(
                settings.server.host,
                settings.server.port,
                health=self._report,
                metrics=lambda: (self._metrics.render(), CONTENT_TYPE),
                tls=None if tls is None else tls.context,
            )
            await bridge.start()
            stack.push_async_callback(bridge.stop)
            port = await self._grpc.start(
                settings.server.host,
                settings.server.grpc_port,
                None if tls is None else tls.credentials,
            )
            stack.push_async_callback(self._drain)
            follower = asyncio.create_task(self._grpc.follow_availability())
            stack.callback(follower.cancel)
            _settle_memory()
            self._announce(port, bridge.port, encrypted=tls is not None, tokens=keys is not None)
            await self._stop.wait()

    def _signalled(self) -> None:
        (self._hurry if self._stop.is_set() else self._stop).set()

    def _lock(self, stack: AsyncExitStack) -> None:
        storage, server = self._settings.storage, self._settings.server
        if storage.log == "sqlite":
            holder = {"GRPC_PORT": str(server.grpc_port), "PORT": str(server.port)}
            lock = FolderLock(storage.data_dir, holder)
            lock.acquire()
            stack.callback(lock.release)

    def _store(self) -> Store:
        storage = self._settings.storage
        retention = Retention(storage.retention_seconds * SECOND_NS, storage.retention_bytes)
        if storage.log == "memory":
            return MemoryStore(retention)
        return SqliteStore(storage.data_dir, retention)

    def _limits(self) -> Limits:
        storage, limits = self._settings.storage, self._settings.limits
        return Limits(
            publish=PublishLimits(
                max_event_bytes=limits.max_event_bytes,
                max_pending_bytes=storage.max_pending_bytes,
                idempotency_ns=limits.idempotency_seconds * SECOND_NS,
                idempotency_keys=limits.idempotency_max_keys,
            ),
            max_subscriptions=limits.max_subscriptions,
            tail_bytes=storage.tail_bytes,
        )

    def _report(self) -> HealthReport:
        statuses = self._grpc.health.statuses
        stats = self._hub.stats()
        return HealthReport(
            serving=all(statuses.values()),
            version=__version__,
            uptime_seconds=time.monotonic() - self._began,
            services={
                name: "SERVING" if serving else "NOT_SERVING" for name, serving in statuses.items()
            },
            log={
                "backend": self._hub.log.capabilities.name,
                "problem": self._hub.problem,
                "first_sequence": stats.first_sequence,
                "last_sequence": stats.last_sequence,
                "bytes": stats.log_bytes,
            },
        )

    async def _drain(self) -> None:
        """Says NOT_SERVING, ends the streams, and waits for what is open, unless in a hurry."""
        await self._grpc.begin_shutdown()
        _say("switchboard: stopping; signal again to stop at once")
        stopping = asyncio.create_task(self._grpc.stop(self._settings.server.shutdown_seconds))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait([stopping, hurry], return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not stopping.done():
            await self._grpc.stop(None)
        await stopping

    def _announce(self, grpc_port: int, port: int, *, encrypted: bool, tokens: bool) -> None:
        """Says where the hub is, and where to go next."""
        server, storage = self._settings.server, self._settings.storage
        host = f"[{server.host}]" if ":" in server.host else server.host
        kept = f"in {storage.data_dir}" if storage.log == "sqlite" else "in memory only"
        scheme = "https" if encrypted else "http"
        flags = "" if encrypted else "-plaintext "
        lines = [f"switchboard {__version__}: gRPC on {host}:{grpc_port}, events {kept}"]
        lines.append(f"  health, metrics   {scheme}://{host}:{port}/")
        if tokens:
            flags += '-H "authorization: Bearer $TOKEN" '
            lines.append(
                "  tokens            asked for; make one with: "
                "python -m switchboard_server token --subject me "
                "--permission events.publish --permission events.subscribe"
            )
        else:
            lines.append(
                "  tokens            not asked for (JWT_SECRET_KEY is not set): loopback only"
            )
        lines.append("  publish an event:")
        lines.append(
            f"    grpcurl {flags}-d '"
            '{"event": {"type": "order.created", "source_service": "shop", "data": {"order": 1}}}'
            f"' {host}:{grpc_port} switchboard.v1.EventService/Publish"
        )
        lines.append("  receive it, and whatever comes after it:")
        lines.append(
            f"    grpcurl {flags}-d '"
            '{"start_at": "START_AT_EARLIEST"}'
            f"' {host}:{grpc_port} switchboard.v1.EventService/Subscribe"
        )
        _say("\n".join(lines))


def _say(text: str) -> None:
    """Prints, as long as somebody reads: `scripts/serve | head` must not end the hub."""
    try:
        click.echo(text)
    except BrokenPipeError:
        # What is buffered would fail again at exit: https://docs.python.org/3/library/signal.html
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _settle_memory() -> None:
    """Keeps what was loaded at the start out of garbage collection, whose pauses delay events."""
    gc.collect()
    gc.freeze()

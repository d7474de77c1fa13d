"""The composition root: the only module that knows every layer."""

import asyncio
import gc
import ipaddress
import logging
import os
import resource
import shlex
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import uvloop

from switchboard_server import __version__
from switchboard_server.backends.embedded.groups import EmbeddedGroups
from switchboard_server.backends.embedded.histories import MemoryHistories
from switchboard_server.backends.embedded.lock import FolderLock
from switchboard_server.backends.embedded.log import EmbeddedLog
from switchboard_server.backends.embedded.memory import MemoryStore
from switchboard_server.backends.embedded.registry import MemoryRegistryStore, SqliteRegistryStore
from switchboard_server.backends.embedded.sqlite import SqliteStore
from switchboard_server.backends.embedded.store import Retention, Store
from switchboard_server.backends.probes.prober import NetworkProber
from switchboard_server.bridge.http import BridgeServer, HealthReport
from switchboard_server.bridge.session import BridgeLimits
from switchboard_server.bridge.websocket import WebSocketDoor
from switchboard_server.config import Settings
from switchboard_server.core.calls import Caller
from switchboard_server.core.clock import SECOND_NS, steady_clock
from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.events import EventHub, Limits
from switchboard_server.core.groups.hub import GroupHub, GroupLimits
from switchboard_server.core.groups.letters import DeadLetters
from switchboard_server.core.publishing import PublishLimits
from switchboard_server.core.realtime.history import HistoryRules
from switchboard_server.core.realtime.hub import RealtimeHub, RealtimeLimits
from switchboard_server.core.realtime.outbox import OutboxLimits
from switchboard_server.core.registry.limits import RegistryLimits
from switchboard_server.core.registry.model import Change
from switchboard_server.core.registry.networks import AllowedNetworks
from switchboard_server.core.registry.registry import Registry
from switchboard_server.core.use_cases import UseCases
from switchboard_server.rpc.server import GrpcServer
from switchboard_server.security.errors import CredentialsError
from switchboard_server.security.tokens import TokenVerifier
from switchboard_server.telemetry.listeners import BindError
from switchboard_server.telemetry.logs import configure_logging
from switchboard_server.telemetry.metrics import CONTENT_TYPE, Metrics
from switchboard_server.wire.codec import DeliveryCodec
from switchboard_server.wire.registry_events import registry_events

if TYPE_CHECKING:
    from switchboard_server.rpc.xds import XdsService

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
            log = EmbeddedLog(self._store(), self._codec)
            hub = EventHub(log, self._limits())
            await hub.open()
            stack.push_async_callback(hub.close)
            self._codec.log_id = hub.log.log_id
            store = EmbeddedGroups(log)
            clock = steady_clock()
            groups = GroupHub(hub, store, self._codec, self._group_limits(), clock)
            await groups.open()
            stack.push_async_callback(groups.close)
            self._metrics.watch_hub(hub.stats)
            self._metrics.watch_groups(groups.stats)
            self._hub = hub
            realtime = self._realtime(loop)
            self._metrics.watch_realtime(realtime.stats)
            auth = settings.auth
            verifier = (
                None
                if keys is None
                else TokenVerifier(keys, audience=auth.audience, issuer=auth.issuer)
            )
            self._registry = await self._open_registry(hub, stack)
            groups.follow_draining(self._registry.draining)
            self._registry.on_draining(lambda instance, _: groups.drain(instance))
            letters, calls = DeadLetters(groups, store, clock), Caller(hub, groups)
            does = UseCases(hub, groups, letters, calls, realtime, self._registry)
            self._grpc = GrpcServer(
                does,
                verifier=verifier,
                xds=self._xds(verifier, stack) if settings.server.xds else None,
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
                websockets=WebSocketDoor(
                    does,
                    authenticate=None if verifier is None else verifier.verify,
                    limits=self._websocket_limits(),
                    allowed_origins=settings.websocket.allowed_origins,
                    metrics=self._metrics.bridge,
                ),
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
            _allow_many_connections()
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

    async def _open_registry(self, hub: EventHub, stack: AsyncExitStack) -> Registry:
        storage, settings = self._settings.storage, self._settings.registry
        networks = AllowedNetworks(
            ipaddress.ip_network(each.strip()) for each in settings.allowed_networks.split(",")
        )
        registry = Registry(
            MemoryRegistryStore()
            if storage.log == "memory"
            else SqliteRegistryStore(storage.data_dir),
            NetworkProber(networks),
            RegistryLimits(
                check_interval=settings.check_interval,
                reap_after=settings.reap_seconds,
                max_checks=settings.max_checks,
                max_instances=settings.max_instances,
                max_watchers=settings.max_watchers,
            ),
        )

        async def publish(changes: Sequence[Change]) -> None:
            await hub.publish(registry_events(changes))

        await registry.open(publish)
        stack.push_async_callback(registry.close)
        self._metrics.watch_registry(registry.stats)
        return registry

    def _xds(self, verifier: TokenVerifier | None, stack: AsyncExitStack) -> "XdsService":
        # Imported where it is wanted: its protos are an extra of their own, and take memory.
        from switchboard_server.rpc.xds import XdsService  # noqa: PLC0415

        service = XdsService(self._registry, verifier, self._metrics.rpc, self._metrics.watch_xds())
        stack.push_async_callback(service.close)
        return service

    def _realtime(self, loop: asyncio.AbstractEventLoop) -> RealtimeHub:
        realtime = self._settings.realtime
        return RealtimeHub(
            MemoryHistories(realtime.history_bytes),
            HistoryRules(realtime.history),
            loop.call_soon,
            node=socket.gethostname(),
            limits=RealtimeLimits(
                max_connections=realtime.max_connections,
                max_message_bytes=realtime.max_message_bytes,
                outbox=OutboxLimits(realtime.outbox_messages, realtime.outbox_bytes),
            ),
        )

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

    def _group_limits(self) -> GroupLimits:
        groups = self._settings.groups
        return GroupLimits(
            max_groups=groups.max_groups,
            idle_ns=groups.idle_seconds * SECOND_NS,
            dead_letter_ns=groups.dead_letter_seconds * SECOND_NS,
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
        lines.append(f"  console           {scheme}://{host}:{port}/")
        lines.append(f"  health, metrics   {scheme}://{host}:{port}/health and /metrics")
        if tokens:
            flags += '-H "authorization: Bearer $TOKEN" '
            lines.append(
                "  tokens            asked for; make one with: "
                f"{_interpreter()} -m switchboard_server token --subject me "
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


def _interpreter() -> str:
    """The Python that runs the hub, as one would type it here."""
    python, here = Path(sys.executable), Path.cwd()
    return shlex.quote(str(python.relative_to(here) if python.is_relative_to(here) else python))


def _say(text: str) -> None:
    """Prints, as long as somebody reads: `scripts/serve | head` must not end the hub."""
    try:
        click.echo(text)
    except BrokenPipeError:
        # What is buffered would fail again at exit: https://docs.python.org/3/library/signal.html
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _allow_many_connections() -> None:
    """Raises the limit of open files, one for each connection, as far as the system lets it be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _settle_memory() -> None:
    """Keeps what was loaded at the start out of garbage collection, whose pauses delay events."""
    gc.collect()
    gc.freeze()

"""A hub on its own: its events in a file or in memory, everything else in this process."""

import asyncio
import socket
from contextlib import AsyncExitStack

from switchboard_server.backends.embedded.groups import EmbeddedGroups
from switchboard_server.backends.embedded.histories import MemoryHistories
from switchboard_server.backends.embedded.lock import FolderLock
from switchboard_server.backends.embedded.log import GATHER_SECONDS, EmbeddedLog
from switchboard_server.backends.embedded.memory import MemoryStore
from switchboard_server.backends.embedded.registry import MemoryRegistryStore, SqliteRegistryStore
from switchboard_server.backends.embedded.sqlite import SqliteStore
from switchboard_server.backends.embedded.store import Retention, Store
from switchboard_server.config import Settings
from switchboard_server.core.calls import Caller, Listeners
from switchboard_server.core.clock import SECOND_NS, steady_clock
from switchboard_server.core.events import EventHub
from switchboard_server.core.groups.hub import GroupHub
from switchboard_server.core.groups.letters import DeadLetters
from switchboard_server.core.realtime.alone import alone
from switchboard_server.core.realtime.history import HistoryRules
from switchboard_server.core.realtime.hub import RealtimeHub
from switchboard_server.core.registry.local import LocalRegistry
from switchboard_server.core.use_cases import UseCases
from switchboard_server.parts import (
    Parts,
    announcing,
    connect,
    event_limits,
    group_limits,
    prober,
    realtime_limits,
    registry_limits,
)
from switchboard_server.telemetry.metrics import Metrics
from switchboard_server.wire.codec import DeliveryCodec


async def assemble(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Parts:
    """Opens everything in order.

    Args:
        settings: How the hub is to run.
        metrics: Is given what there is to measure.
        stack: Closes everything in the reverse order.

    Raises:
        SwitchboardError: The folder is in use, or the log cannot be opened.
    """
    storage = settings.storage
    _lock(settings, stack)
    codec = DeliveryCodec()
    log = EmbeddedLog(_store(settings), codec, gather_seconds=GATHER_SECONDS)
    events = EventHub(log, event_limits(settings))
    await events.open()
    stack.push_async_callback(events.close)
    codec.log_id = log.log_id
    store, clock = EmbeddedGroups(log), steady_clock()
    groups = GroupHub(events, store, codec, group_limits(settings), clock)
    await groups.open()
    stack.push_async_callback(groups.close)
    realtime = _realtime(settings)
    registry = LocalRegistry(
        MemoryRegistryStore() if storage.log == "memory" else SqliteRegistryStore(storage.data_dir),
        prober(settings),
        registry_limits(settings),
    )
    await registry.open(announcing(events))
    stack.push_async_callback(registry.close)
    connect(metrics, events, groups, realtime, registry)
    letters, calls = DeadLetters(groups, store, clock), Caller(events, Listeners(events, groups))
    kept = f"in {storage.data_dir}" if storage.log == "sqlite" else "in memory only"
    return Parts(UseCases(events, groups, letters, calls, realtime, registry), kept)


def _lock(settings: Settings, stack: AsyncExitStack) -> None:
    storage, server = settings.storage, settings.server
    if storage.log == "sqlite":
        holder = {"GRPC_PORT": str(server.grpc_port), "PORT": str(server.port)}
        lock = FolderLock(storage.data_dir, holder)
        lock.acquire()
        stack.callback(lock.release)


def _store(settings: Settings) -> Store:
    storage = settings.storage
    retention = Retention(storage.retention_seconds * SECOND_NS, storage.retention_bytes)
    if storage.log == "memory":
        return MemoryStore(retention)
    return SqliteStore(storage.data_dir, retention)


def _realtime(settings: Settings) -> RealtimeHub:
    return RealtimeHub(
        alone(MemoryHistories(settings.realtime.history_bytes)),
        HistoryRules(settings.realtime.history),
        asyncio.get_running_loop().call_soon,
        node=socket.gethostname(),
        limits=realtime_limits(settings),
    )

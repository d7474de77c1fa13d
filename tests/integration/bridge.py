"""A bridge in the test's process, over a hub with a log in memory, and clients of it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from switchboard_server.backends.embedded.groups import EmbeddedGroups
from switchboard_server.backends.embedded.histories import MemoryHistories
from switchboard_server.backends.embedded.log import EmbeddedLog
from switchboard_server.backends.embedded.memory import MemoryStore
from switchboard_server.backends.embedded.registry import MemoryRegistryStore
from switchboard_server.backends.embedded.store import Retention
from switchboard_server.backends.probes.prober import NetworkProber
from switchboard_server.bridge.http import BridgeServer, HealthReport
from switchboard_server.bridge.session import BridgeLimits
from switchboard_server.bridge.websocket import WebSocketDoor
from switchboard_server.core.calls import Caller, Listeners
from switchboard_server.core.clock import wall_clock
from switchboard_server.core.errors import UnauthenticatedError
from switchboard_server.core.events import EventHub
from switchboard_server.core.groups.hub import GroupHub, GroupLimits
from switchboard_server.core.groups.letters import DeadLetters
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.realtime.alone import alone
from switchboard_server.core.realtime.history import HistoryPolicy, HistoryRules
from switchboard_server.core.realtime.hub import RealtimeHub, RealtimeLimits
from switchboard_server.core.realtime.wishes import DisconnectWish
from switchboard_server.core.registry.limits import RegistryLimits
from switchboard_server.core.registry.local import LocalRegistry
from switchboard_server.core.registry.model import Change
from switchboard_server.core.registry.networks import AllowedNetworks
from switchboard_server.core.use_cases import UseCases
from switchboard_server.telemetry.bridge_metrics import BridgeMetrics
from switchboard_server.wire.codec import DeliveryCodec

REPORT = HealthReport(serving=True, version="1.2.3", uptime_seconds=1.0, grpc_port=50051)


@dataclass
class Running:
    """A bridge that runs.

    Attributes:
        server: Its port.
        events: The hub's events.
        realtime: The hub's rooms.
        metrics: What the bridge counts.
        tokens: Whose a token is; empty: no token is asked for.
    """

    server: BridgeServer
    events: EventHub
    realtime: RealtimeHub
    metrics: BridgeMetrics
    tokens: dict[str, Principal] = field(default_factory=dict)

    def url(self, name: str = "", query: str = "") -> str:
        """Where a client connects."""
        return f"ws://127.0.0.1:{self.server.port}/ws/{quote(name, safe='')}{query}"

    @asynccontextmanager
    async def client(
        self, name: str = "", query: str = "", path: str | None = None, **options: Any
    ) -> AsyncIterator["BridgeClient"]:
        """A client, whose first frame is still to be read."""
        url = self.url(name, query) if path is None else f"ws://127.0.0.1:{self.server.port}{path}"
        options.setdefault("compression", None)
        async with connect(url, **options) as socket:
            yield BridgeClient(socket)

    async def disconnect(self, name: str, *, reconnect: bool, reason: str = "") -> None:
        """Closes a connection as `Disconnect` does."""
        wish = DisconnectWish(clients=[name], reconnect=reconnect, reason=reason)
        assert await self.realtime.disconnect(wish, ANONYMOUS) == 1

    @asynccontextmanager
    async def member(
        self, name: str = "", query: str = "", **options: Any
    ) -> AsyncIterator["BridgeClient"]:
        """A client that stands."""
        async with self.client(name, query, **options) as client:
            started = await client.read()
            assert started["data"]["event"] == "started", started
            yield client


def narrow(port: int) -> socket.socket:
    """A connection to the bridge that takes little before it is read.

    However much the kernel would let a connection hold, which differs from machine to machine.
    """
    narrowed = socket.socket()
    narrowed.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrowed.connect(("127.0.0.1", port))
    narrowed.setblocking(False)
    return narrowed


async def settled(condition: Callable[[], bool]) -> None:
    """Waits until something holds of which nobody tells."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


class BridgeClient:
    """A client that speaks frames."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._next_id = 1

    async def send(self, kind: str, data: dict[str, Any] | None = None, **more: Any) -> None:
        """Sends a frame."""
        await self.raw(json.dumps({"type": kind, "data": data or {}, **more}))

    async def raw(self, message: str | bytes) -> None:
        """Sends a message as it is."""
        await self.socket.send(message)

    async def read(self) -> dict[str, Any]:
        """Reads the next frame."""
        async with asyncio.timeout(10):
            message = await self.socket.recv()
        assert isinstance(message, str)
        frame: dict[str, Any] = json.loads(message)
        return frame

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Reads on until a frame meets a condition."""
        while True:
            frame = await self.read()
            if condition(frame):
                return frame

    async def until_type(self, kind: str) -> dict[str, Any]:
        """Reads on until a frame is of a type."""
        return await self.until(lambda frame: frame["type"] == kind)

    async def ask(
        self, kind: str, data: dict[str, Any] | None = None, **more: Any
    ) -> dict[str, Any]:
        """Sends a frame and returns its answer, passing over all that comes before."""
        identity, self._next_id = self._next_id, self._next_id + 1
        await self.send(kind, data, id=identity, **more)
        return await self.until(lambda frame: frame.get("id") == identity)

    async def done(
        self, kind: str, data: dict[str, Any] | None = None, **more: Any
    ) -> dict[str, Any]:
        """As `ask`, and returns what the ack says."""
        answer = await self.ask(kind, data, **more)
        assert answer["type"] == "ack", answer
        content: dict[str, Any] = answer["data"]
        return content

    async def refused(self, kind: str, data: dict[str, Any] | None = None, **more: Any) -> str:
        """As `ask`, and returns the reason of the error."""
        answer = await self.ask(kind, data, **more)
        assert answer["type"] == "error", answer
        reason: str = answer["reason"]
        return reason

    async def closed(self) -> tuple[int, str]:
        """Waits until the hub has closed the connection, and returns the code and the reason."""
        return (await self.rest())[1]

    async def rest(self) -> tuple[list[dict[str, Any]], tuple[int, str]]:
        """As `closed`, and returns the frames that came before as well."""
        frames: list[dict[str, Any]] = []

        def keep(frame: dict[str, Any]) -> bool:
            frames.append(frame)
            return False

        with pytest.raises(ConnectionClosed) as end:
            await self.until(keep)
        received = end.value.rcvd
        assert received is not None
        return frames, (received.code, received.reason)


def principal(subject: str, *permissions: str, expires_at: float | None = None) -> Principal:
    """Whose a token is."""
    return Principal(subject, permissions, expires_at)


def make_realtime(
    limits: RealtimeLimits | None = None, rules: Mapping[str, HistoryPolicy] | None = None
) -> RealtimeHub:
    """Connections and rooms, in the running loop."""
    return RealtimeHub(
        alone(MemoryHistories(64 * 1024 * 1024)),
        HistoryRules(rules),
        asyncio.get_running_loop().call_soon,
        node="node1",
        limits=limits,
    )


def make_hub(log: EmbeddedLog, codec: DeliveryCodec, realtime: RealtimeHub) -> UseCases:
    """A hub over a log, in the running loop."""
    events, store = EventHub(log), EmbeddedGroups(log)
    groups = GroupHub(events, store, codec, GroupLimits(), wall_clock)
    letters = DeadLetters(groups, store, wall_clock)
    registry = LocalRegistry(
        MemoryRegistryStore(), NetworkProber(AllowedNetworks(())), RegistryLimits()
    )
    return UseCases(
        events, groups, letters, Caller(events, Listeners(events, groups)), realtime, registry
    )


async def _publish_nothing(_changes: Sequence[Change]) -> None:
    """The bridge's tests register nothing."""


def make_door(hub: UseCases | None = None, **options: Any) -> WebSocketDoor:
    """A door to a hub, in the running loop."""
    if hub is None:
        codec = DeliveryCodec()
        log = EmbeddedLog(MemoryStore(Retention()), codec)
        hub = make_hub(log, codec, make_realtime())
    defaults: dict[str, Any] = {
        "authenticate": None,
        "limits": BridgeLimits(),
        "allowed_origins": (),
        "metrics": BridgeMetrics(),
    }
    return WebSocketDoor(hub, **defaults | options)


@asynccontextmanager
async def bridge(
    *,
    tokens: dict[str, Principal] | None = None,
    origins: Collection[str] = (),
    realtime: RealtimeLimits | None = None,
    rules: Mapping[str, HistoryPolicy] | None = None,
    **limits: Any,
) -> AsyncIterator[Running]:
    """A bridge that runs, and whose port is free again in the end.

    Args:
        tokens: Whose a token is; None: no token is asked for.
        origins: Origins that may connect.
        realtime: Limits of the realtime hub.
        rules: Which rooms keep a history.
        **limits: See `BridgeLimits`.
    """
    codec = DeliveryCodec()
    log = EmbeddedLog(MemoryStore(Retention()), codec)
    hub = make_hub(log, codec, make_realtime(realtime, rules))
    events = hub.events
    metrics = BridgeMetrics()

    def authenticate(token: str) -> Principal:
        assert tokens is not None
        if token not in tokens:
            reason = "TOKEN_EXPIRED" if token == "expired" else "TOKEN_INVALID"
            raise UnauthenticatedError(reason, "the token is no good")
        return tokens[token]

    async with AsyncExitStack() as stack:
        await events.open()
        codec.log_id = events.log.log_id
        stack.push_async_callback(events.close)
        groups = hub.groups
        assert isinstance(groups, GroupHub)
        await groups.open()
        stack.push_async_callback(groups.close)
        await hub.registry.open(_publish_nothing)
        stack.push_async_callback(hub.registry.close)
        door = make_door(
            hub,
            authenticate=None if tokens is None else authenticate,
            limits=BridgeLimits(**limits),
            allowed_origins=origins,
            metrics=metrics,
        )
        server = BridgeServer(
            "127.0.0.1", 0, health=lambda: REPORT, metrics=lambda: (b"", ""), websockets=door
        )
        await server.start()
        stack.push_async_callback(server.stop)
        yield Running(server, events, hub.realtime, metrics, tokens or {})

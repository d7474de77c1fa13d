"""One hub of many: events and groups on RabbitMQ, rooms and the directory of services on Redis."""

import asyncio
import secrets
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from switchboard_server.backends.rabbitmq.carrying import GroupSeats, PeersCarrier
from switchboard_server.backends.rabbitmq.declaring import StreamLimits
from switchboard_server.backends.rabbitmq.inlet import Inlet
from switchboard_server.backends.rabbitmq.joining import Joining
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.log import ClusterLog, ClusterLogSettings
from switchboard_server.backends.rabbitmq.peers import Peers
from switchboard_server.backends.rabbitmq.topology import Topology
from switchboard_server.backends.redis.link import RedisLink
from switchboard_server.backends.redis.neighbours import RedisNeighbours
from switchboard_server.backends.redis.registry import RedisRegistry
from switchboard_server.config import Settings
from switchboard_server.core.calls import Caller
from switchboard_server.core.clock import steady_clock
from switchboard_server.core.cluster.groups import SpreadGroups
from switchboard_server.core.cluster.letters import SpreadLetters
from switchboard_server.core.cluster.responders import SpreadResponders
from switchboard_server.core.errors import invalid_field
from switchboard_server.core.events import EventHub
from switchboard_server.core.realtime.history import HistoryRules
from switchboard_server.core.realtime.hub import RealtimeHub
from switchboard_server.core.registry.shared import SharedRegistry
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

MAX_LAG_SECONDS = 2.0
"""How far a node may be behind others, while all is well."""


@dataclass(frozen=True, slots=True)
class _Links:
    """The ways to the servers.

    Args:
        node: Tells this process from all others, its own earlier runs included.
        topology: What things are called on RabbitMQ.
        writing: For writing, following the log, and talking to other nodes.
        reading: For reading history, so that one who reads much holds up nobody.
        peers: The other nodes.
        redis: The way to Redis.
    """

    node: str
    topology: Topology
    writing: Link
    reading: Link
    peers: Peers
    redis: RedisLink


async def assemble(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Parts:
    """Opens everything in order.

    Neither RabbitMQ nor Redis need be there: what needs them serves when they are.

    Args:
        settings: How the hub is to run.
        metrics: Is given what there is to measure.
        stack: Closes everything in the reverse order.
    """
    links = await _connect(settings, stack)
    codec = DeliveryCodec()
    limits = replace(event_limits(settings), max_lag=MAX_LAG_SECONDS)
    log = _log(settings, links, codec)
    events = EventHub(log, limits)
    stack.push_async_callback(events.close)
    inlet = Inlet(links.writing, links.topology, events)
    stack.push_async_callback(inlet.close)
    carrier = PeersCarrier(links.peers)
    groups = SpreadGroups(
        events,
        carrier,
        codec,
        group_limits(settings),
        steady_clock(),
        patience=settings.cluster.timeout,
    )
    stack.push_async_callback(groups.close)
    seats = GroupSeats(links.writing, links.topology, links.peers, groups, events)
    stack.push_async_callback(seats.close)
    joining = Joining(links.writing, log, events, [inlet.start, seats.start])
    await joining.start()
    stack.push_async_callback(joining.close)
    realtime = _realtime(settings, links)
    await realtime.meet()
    stack.push_async_callback(realtime.part)
    registry = _registry(settings, links)
    await registry.open(announcing(events))
    stack.push_async_callback(registry.close)
    connect(metrics, events, groups, realtime, registry)
    calls = Caller(events, SpreadResponders(events, groups, carrier))
    kept = f"on RabbitMQ, exchange {settings.cluster.exchange}"
    if events.problem is not None:
        kept += ", which cannot be used yet"
    return Parts(
        UseCases(events, groups, SpreadLetters(groups.asking), calls, realtime, registry), kept
    )


async def _connect(settings: Settings, stack: AsyncExitStack) -> _Links:
    cluster = settings.cluster
    node = f"{socket.gethostname()}-{secrets.token_hex(3)}"
    topology = Topology(cluster.exchange)
    urls = ",".join(cluster.rabbitmq_urls)
    writing, reading = Link(urls, f"{node} writing"), Link(urls, f"{node} reading")
    for link in (writing, reading):
        await link.start()
        stack.push_async_callback(link.close)
    peers = Peers(writing, topology, node)
    await peers.start()
    stack.push_async_callback(peers.close)
    try:
        redis = RedisLink(cluster.redis_urls, prefix=cluster.exchange, name=node)
    except ValueError as error:
        raise invalid_field("REDIS_URL", str(error)) from None
    await redis.open()
    stack.push_async_callback(redis.close)
    peers.agreement.need("SWITCHBOARD_ROOM_HISTORY", lambda: settings.realtime.history)
    peers.agreement.need(
        "SWITCHBOARD_IDEMPOTENCY_SECONDS", lambda: settings.limits.idempotency_seconds
    )
    peers.agreement.need("Redis (REDIS_URL)", lambda: redis.life)
    return _Links(node, topology, writing, reading, peers, redis)


def _log(settings: Settings, links: _Links, codec: DeliveryCodec) -> ClusterLog:
    storage, cluster = settings.storage, settings.cluster

    def identified(log_id: str) -> None:
        codec.log_id = log_id

    return ClusterLog(
        links.writing,
        links.reading,
        links.peers,
        links.topology,
        codec=codec,
        settings=ClusterLogSettings(
            batch_size=cluster.batch_size,
            timeout=cluster.timeout,
            limits=StreamLimits(storage.retention_seconds, storage.retention_bytes),
        ),
        identified=identified,
    )


def _realtime(settings: Settings, links: _Links) -> RealtimeHub:
    realtime = settings.realtime
    return RealtimeHub(
        lambda floor: RedisNeighbours(
            links.redis, floor, history_bytes=realtime.history_bytes, node=links.node
        ),
        HistoryRules(realtime.history),
        asyncio.get_running_loop().call_soon,
        node=links.node,
        limits=realtime_limits(settings),
    )


def _registry(settings: Settings, links: _Links) -> SharedRegistry:
    limits = registry_limits(settings)
    store = RedisRegistry(
        links.redis, links.node, interval=limits.check_interval, reap_after=limits.reap_after
    )
    return SharedRegistry(store, prober(settings), limits)

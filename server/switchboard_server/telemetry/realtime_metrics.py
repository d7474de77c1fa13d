"""Connections, rooms and messages as metrics; see `telemetry.metrics`."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from switchboard_server.core.realtime.stats import RealtimeStats
from switchboard_server.core.realtime.wishes import Transport
from switchboard_server.telemetry.families import StatsCollector, counted_by, counters, gauges


class RealtimeCollector(StatsCollector[RealtimeStats]):
    """Turns what the hub counts of connections and rooms into metrics."""

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        stats = self._stats()
        connections = GaugeMetricFamily(
            "switchboard_connections", "Open realtime connections.", labels=("transport",)
        )
        for transport in Transport:
            connections.add_metric((transport.value,), stats.connections.get(transport.value, 0))
        yield connections
        yield from gauges(_GAUGES, stats)
        yield from counters(_COUNTERS, stats)
        yield counted_by(
            "reason",
            "switchboard_connections_ended",
            "Realtime connections that ended, by reason.",
            stats.ended,
        )
        if stats.neighbours is not None:
            yield from gauges(_NEIGHBOUR_GAUGES, stats.neighbours)
            yield from counters(_NEIGHBOUR_COUNTERS, stats.neighbours)


_GAUGES = (
    ("switchboard_users_online", "Users who have a connection.", "users"),
    ("switchboard_rooms", "Rooms that somebody stands in or that remember something.", "rooms"),
    ("switchboard_room_history_bytes", "What all rooms remember.", "history_bytes"),
    ("switchboard_outbox_messages", "Messages that wait for connections.", "pending"),
)

_COUNTERS = (
    ("switchboard_messages_received", "Messages sent to connections and rooms.", "received"),
    (
        "switchboard_messages_delivered",
        "Messages handed to connections, once for each.",
        "delivered",
    ),
    ("switchboard_messages_replayed", "Messages replayed to recover a room.", "replayed"),
    (
        "switchboard_messages_dropped",
        "Messages that connections missed because they read too slowly.",
        "dropped",
    ),
)

_NEIGHBOUR_GAUGES = (
    (
        "switchboard_realtime_connected",
        "Whether other nodes, and what rooms remember, can be reached: 1 or 0.",
        "connected",
    ),
    ("switchboard_realtime_nodes", "Nodes that are alive, this one included.", "nodes"),
)

_NEIGHBOUR_COUNTERS = (
    ("switchboard_realtime_losses", "Times that other nodes were lost.", "losses"),
    (
        "switchboard_realtime_swept",
        "Times that this node was taken for dead though it was not.",
        "swept",
    ),
    ("switchboard_realtime_messages_sent", "Messages sent to all nodes.", "sent"),
    (
        "switchboard_realtime_messages_arrived",
        "Messages that arrived from all nodes, this one included.",
        "received",
    ),
    (
        "switchboard_realtime_messages_caught_up",
        "Messages read from what rooms remember, since they had not arrived.",
        "caught_up",
    ),
    (
        "switchboard_realtime_rooms_interrupted",
        "Rooms whose members were sent away to recover, since nobody could tell what was missed.",
        "interruptions",
    ),
    (
        "switchboard_realtime_overflows",
        "Times that more arrived than could wait while missed messages were read.",
        "overflows",
    ),
    ("switchboard_realtime_requests", "Requests to other nodes.", "asked"),
    (
        "switchboard_realtime_requests_unanswered",
        "Requests to other nodes that were not answered in time.",
        "unanswered",
    ),
)

"""Connections, rooms and messages as metrics; see `telemetry.metrics`."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from switchboard_server.core.realtime.stats import RealtimeStats
from switchboard_server.core.realtime.wishes import Transport


class RealtimeCollector(Collector):
    """Turns what the hub counts of connections and rooms into metrics.

    Args:
        stats: Returns the numbers as they are now; called once for each time that metrics are read.
    """

    def __init__(self, stats: Callable[[], RealtimeStats]) -> None:
        self._stats = stats

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        stats = self._stats()
        connections = GaugeMetricFamily(
            "switchboard_connections", "Open realtime connections.", labels=("transport",)
        )
        for transport in Transport:
            connections.add_metric((transport.value,), stats.connections.get(transport.value, 0))
        yield connections
        for name, text, attribute in _GAUGES:
            yield GaugeMetricFamily(name, text, value=getattr(stats, attribute))
        for name, text, attribute in _COUNTERS:
            yield CounterMetricFamily(name, text, value=getattr(stats, attribute))
        ended = CounterMetricFamily(
            "switchboard_connections_ended",
            "Realtime connections that ended, by reason.",
            labels=("reason",),
        )
        for reason, count in stats.ended.items():
            ended.add_metric((reason,), count)
        yield ended


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

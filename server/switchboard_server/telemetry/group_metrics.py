"""What consumer groups count, as metrics."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.groups.reports import GroupStats
from switchboard_server.telemetry.families import StatsCollector


class GroupCollector(StatsCollector[Sequence[GroupStats]]):
    """Turns what consumer groups count into metrics, each group under its name."""

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        groups = self._stats()
        for name, text, attribute in _GROUP_GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=("group",))
            for group in groups:
                gauge.add_metric((group.name,), getattr(group, attribute))
            yield gauge
        oldest = GaugeMetricFamily(
            "switchboard_group_oldest_unsettled_seconds",
            "Age of the oldest event that a group has not settled.",
            labels=("group",),
        )
        for group in groups:
            oldest.add_metric((group.name,), group.oldest_ns / SECOND_NS)
        yield oldest
        for name, text, attribute in _GROUP_COUNTERS:
            counter = CounterMetricFamily(name, text, labels=("group",))
            for group in groups:
                counter.add_metric((group.name,), getattr(group.counters, attribute))
            yield counter


_GROUP_GAUGES = (
    (
        "switchboard_group_ready",
        "Events that wait for a member; an upper bound while a group reads what it was away from.",
        "ready",
    ),
    ("switchboard_group_in_flight", "Deliveries that members hold.", "in_flight"),
    ("switchboard_group_retrying", "Events that wait for their next attempt.", "retrying"),
    ("switchboard_group_dead_letters", "Events in a group's dead letters.", "dead_letters"),
    ("switchboard_group_members", "Open streams of members.", "members"),
)

_GROUP_COUNTERS = (
    ("switchboard_group_delivered", "Deliveries to members.", "delivered"),
    ("switchboard_group_acknowledged", "Deliveries that were acknowledged.", "acknowledged"),
    (
        "switchboard_group_redelivered",
        "Deliveries of events that had been delivered before.",
        "redelivered",
    ),
    ("switchboard_group_dead_lettered", "Events given up.", "dead_lettered"),
    ("switchboard_group_expired", "Events whose time to live ended first.", "expired"),
    ("switchboard_group_lost", "Events that retention removed first.", "lost"),
)

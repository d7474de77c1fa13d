"""What the hub counts of events, as metrics."""

from collections.abc import Iterator

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from switchboard_server.core.stats import EventStats
from switchboard_server.telemetry.families import (
    StatsCollector,
    buckets,
    counted_by,
    counters,
    gauges,
)


class EventCollector(StatsCollector[EventStats]):
    """Turns what the hub counts of events into metrics."""

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        stats = self._stats()
        yield from counters(_COUNTERS, stats)
        yield counted_by(
            "reason",
            "switchboard_events_refused",
            "Events that were not accepted, by the reason of the error.",
            stats.refused,
        )
        yield from gauges(_GAUGES, stats)
        commits = HistogramMetricFamily(
            "switchboard_log_commit_duration_seconds",
            "How long it took to make a group of events durable.",
            labels=(),
        )
        commits.add_metric((), buckets(stats.commits), stats.commits.total)
        yield commits


_COUNTERS = (
    ("switchboard_events_published", "Events that entered the log.", "published"),
    ("switchboard_events_scheduled", "Events stored for later.", "scheduled"),
    (
        "switchboard_events_duplicate",
        "Events published again and answered with their first result.",
        "duplicates",
    ),
    (
        "switchboard_events_delivered",
        "Events handed to subscribers, once for each.",
        "delivered",
    ),
    ("switchboard_gaps", "Times that a subscriber was told of missing events.", "gaps"),
    ("switchboard_events_trimmed", "Events removed by retention.", "trimmed"),
    (
        "switchboard_idempotency_forgotten",
        "Ids forgotten before their time, for want of room.",
        "forgotten_ids",
    ),
)

_GAUGES = (
    ("switchboard_log_events", "Events in the log.", "log_events"),
    ("switchboard_log_bytes", "Size of the log.", "log_bytes"),
    ("switchboard_log_first_sequence", "Oldest event in the log; 0: none.", "first_sequence"),
    ("switchboard_log_last_sequence", "Newest event ever accepted; 0: none.", "last_sequence"),
    ("switchboard_subscribers", "Open subscriptions.", "subscribers"),
    (
        "switchboard_slow_readers",
        "Subscriptions that are behind the tail, or take nothing of what waits for them.",
        "slow_readers",
    ),
    ("switchboard_tail_bytes", "Memory that the newest events take, about.", "tail_bytes"),
    ("switchboard_pending_bytes", "Events that wait for the log.", "pending_bytes"),
    ("switchboard_idempotency_ids", "Ids remembered to find duplicates.", "remembered_ids"),
)

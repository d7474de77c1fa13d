"""Metrics in Prometheus' text format.

Counting is plain arithmetic on the event loop's thread, and Prometheus' classes come in only when
somebody asks: its own counter and histogram take locks, and five times as long for each call.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from switchboard_server.core.groups.reports import GroupStats
from switchboard_server.core.realtime.stats import RealtimeStats
from switchboard_server.core.registry.stats import RegistryStats
from switchboard_server.core.stats import EventStats, Histogram
from switchboard_server.telemetry.bridge_metrics import BridgeMetrics
from switchboard_server.telemetry.families import buckets
from switchboard_server.telemetry.group_metrics import GroupCollector
from switchboard_server.telemetry.realtime_metrics import RealtimeCollector
from switchboard_server.telemetry.registry_metrics import RegistryCollector
from switchboard_server.telemetry.xds_metrics import XdsMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `Metrics.render` returns; every version of Prometheus reads it."""

RPC_BUCKETS = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of the buckets for the duration of calls, in seconds."""


class RpcMetrics(Collector):
    """Counts calls by method and code.

    Not safe to share between threads. A method that is counted should be one that is served: each
    costs memory for good, and callers could make up any number.
    """

    def __init__(self) -> None:
        self._unary: dict[tuple[str, str], Histogram] = {}
        self._streams: dict[tuple[str, str], int] = {}
        self._open: dict[str, int] = {}

    def unary_done(self, method: str, code: str, seconds: float) -> None:
        """Counts a call with one request and one response.

        Args:
            method: Full name without the first slash, "switchboard.v1.EventService/Publish".
            code: Name of the status code, "OK".
            seconds: How long it took.
        """
        durations = self._unary.get((method, code))
        if durations is None:
            durations = self._unary[method, code] = Histogram(RPC_BUCKETS)
        durations.observe(seconds)

    def stream_opened(self, method: str) -> None:
        """Counts a call that streams, when it starts."""
        self._open[method] = self._open.get(method, 0) + 1

    def stream_done(self, method: str, code: str) -> None:
        """Counts a call that streams, when it ends; `stream_opened` was called for it before."""
        self._open[method] -= 1
        self._streams[method, code] = self._streams.get((method, code), 0) + 1

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        calls = CounterMetricFamily(
            "switchboard_rpc",
            "Calls that ended, by method and status code.",
            labels=("method", "code"),
        )
        durations = HistogramMetricFamily(
            "switchboard_rpc_duration_seconds",
            "Duration of calls with one request and one response.",
            labels=("method", "code"),
        )
        for labels, histogram in self._unary.items():
            calls.add_metric(labels, sum(histogram.counts))
            durations.add_metric(labels, buckets(histogram), histogram.total)
        for labels, count in self._streams.items():
            calls.add_metric(labels, count)
        streams = GaugeMetricFamily(
            "switchboard_rpc_streams_open", "Calls that stream and are open.", labels=("method",)
        )
        for method, count in self._open.items():
            streams.add_metric((method,), count)
        yield from (calls, durations, streams)


class HubCollector(Collector):
    """Turns what the hub counts into metrics.

    Args:
        stats: Returns the numbers as they are now; called once for each time that metrics are read.
    """

    def __init__(self, stats: Callable[[], EventStats]) -> None:
        self._stats = stats

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        stats = self._stats()
        for name, text, attribute in _COUNTERS:
            yield CounterMetricFamily(name, text, value=getattr(stats, attribute))
        refused = CounterMetricFamily(
            "switchboard_events_refused",
            "Events that were not accepted, by the reason of the error.",
            labels=("reason",),
        )
        for reason, count in stats.refused.items():
            refused.add_metric((reason,), count)
        yield refused
        for name, text, attribute in _GAUGES:
            yield GaugeMetricFamily(name, text, value=getattr(stats, attribute))
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
    ("switchboard_tail_bytes", "Newest events held in memory.", "tail_bytes"),
    ("switchboard_pending_bytes", "Events that wait for the log.", "pending_bytes"),
    ("switchboard_idempotency_ids", "Ids remembered to find duplicates.", "remembered_ids"),
)


class _BuildInfo(Collector):
    def __init__(self, version: str) -> None:
        self._version = version

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "switchboard_build_info", "Always 1; says which version runs.", labels=("version",)
        )
        info.add_metric((self._version,), 1)
        yield info


class Metrics:
    """All metrics of a process, in a registry of their own.

    Args:
        version: Version of the hub.
    """

    def __init__(self, version: str) -> None:
        self.rpc = RpcMetrics()
        self.bridge = BridgeMetrics()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_BuildInfo(version))
        self._registry.register(self.rpc)
        self._registry.register(self.bridge)

    def watch_hub(self, stats: Callable[[], EventStats]) -> None:
        """Adds what the hub counts; see `HubCollector`."""
        self._registry.register(HubCollector(stats))

    def watch_groups(self, stats: Callable[[], Sequence[GroupStats]]) -> None:
        """Adds what consumer groups count; see `GroupCollector`."""
        self._registry.register(GroupCollector(stats))

    def watch_registry(self, stats: Callable[[], RegistryStats]) -> None:
        """Adds what the registry counts; see `RegistryCollector`."""
        self._registry.register(RegistryCollector(stats))

    def watch_xds(self) -> XdsMetrics:
        """Adds counters for xDS, and returns them to be counted on."""
        metrics = XdsMetrics()
        self._registry.register(metrics)
        return metrics

    def watch_realtime(self, stats: Callable[[], RealtimeStats]) -> None:
        """Adds what the hub counts of connections and rooms; see `RealtimeCollector`."""
        self._registry.register(RealtimeCollector(stats))

    def render(self) -> bytes:
        """Returns all metrics as they are now, of the type `CONTENT_TYPE`."""
        return generate_latest(self._registry)

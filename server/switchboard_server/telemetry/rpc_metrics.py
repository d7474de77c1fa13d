"""Calls over gRPC, as metrics."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from switchboard_server.core.stats import Histogram
from switchboard_server.telemetry.families import QuietCollector, buckets

RPC_BUCKETS = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of the buckets for the duration of calls, in seconds."""


class RpcMetrics(QuietCollector):
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

"""What xDS clients are sent, and what they say to it."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from switchboard_server.telemetry.families import QuietCollector, counted_by


class XdsMetrics(QuietCollector):
    """Counts streams, pushes, and their acceptance.

    Attributes:
        streams: Open streams.
    """

    def __init__(self) -> None:
        self.streams = 0
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, outcome: str, kind: str) -> None:
        """Counts something.

        Args:
            outcome: "push", "ack" or "nack".
            kind: Name of the resources' type.
        """
        self._counts[outcome, kind] += 1

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        yield GaugeMetricFamily("switchboard_xds_streams", "Open xDS streams.", value=self.streams)
        for outcome, text in _COUNTERS.items():
            counts = {kind: count for (one, kind), count in self._counts.items() if one == outcome}
            yield counted_by("type", f"switchboard_xds_{outcome}", text, counts)


_COUNTERS = {
    "push": "Responses sent to xDS clients.",
    "ack": "Responses that xDS clients accepted.",
    "nack": "Responses that xDS clients refused; the log says why.",
}

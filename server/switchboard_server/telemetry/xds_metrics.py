"""What xDS clients are sent, and what they say to it."""

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class XdsMetrics(Collector):
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

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        yield GaugeMetricFamily("switchboard_xds_streams", "Open xDS streams.", value=self.streams)
        for outcome, text in _COUNTERS.items():
            family = CounterMetricFamily(f"switchboard_xds_{outcome}", text, labels=("type",))
            for (counted, kind), value in self._counts.items():
                if counted == outcome:
                    family.add_metric((kind,), value)
            yield family


_COUNTERS = {
    "push": "Responses sent to xDS clients.",
    "ack": "Responses that xDS clients accepted.",
    "nack": "Responses that xDS clients refused; the log says why.",
}

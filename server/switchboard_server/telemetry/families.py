"""What collectors have in common."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from switchboard_server.core.stats import Histogram

S = TypeVar("S")

Rows = Sequence[tuple[str, str, str]]
"""Metrics: the name of each, what it says, and the attribute of some stats that has its value."""


class QuietCollector(Collector):
    """A collector that counts nothing until metrics are read."""

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect."""
        return ()


class StatsCollector(QuietCollector, Generic[S]):
    """Turns what a part of the hub counts into metrics.

    Args:
        stats: Returns the numbers as they are now; called once for each time that metrics are read.
    """

    def __init__(self, stats: Callable[[], S]) -> None:
        self._stats = stats


def gauges(rows: Rows, stats: object) -> Iterator[Metric]:
    """Numbers that go up and down."""
    for name, text, attribute in rows:
        yield GaugeMetricFamily(name, text, value=float(getattr(stats, attribute)))


def counters(rows: Rows, stats: object) -> Iterator[Metric]:
    """Numbers that only grow."""
    for name, text, attribute in rows:
        yield CounterMetricFamily(name, text, value=getattr(stats, attribute))


def counted_by(label: str, name: str, text: str, counts: Mapping[str, float]) -> Metric:
    """A number that only grows, for each value of a label."""
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family


def buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Returns the buckets as Prometheus wants them: each with all that came before it."""
    names = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(names, accumulate(histogram.counts), strict=True))

"""Shapes that several collectors need."""

from itertools import accumulate

from switchboard_server.core.stats import Histogram


def buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Returns the buckets as Prometheus wants them: each with all that came before it."""
    names = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(names, accumulate(histogram.counts), strict=True))

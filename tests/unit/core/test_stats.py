"""Counting by size."""

import bisect

from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.core.stats import COMMIT_BOUNDS, Histogram


def test_a_value_counts_in_the_bucket_whose_bound_it_does_not_exceed() -> None:
    histogram = Histogram((0.001, 0.01, 0.1))
    for value in (0.0, 0.001, 0.0011, 0.01, 0.1, 0.11, 99.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1, 2]
    assert histogram.total == sum((0.0, 0.001, 0.0011, 0.01, 0.1, 0.11, 99.0))


@given(st.lists(st.floats(0, 10)))
def test_every_value_is_counted_once(values: list[float]) -> None:
    histogram = Histogram(COMMIT_BOUNDS)
    for value in values:
        histogram.observe(value)
    assert sum(histogram.counts) == len(values)
    cumulated = 0
    ordered = sorted(values)
    for bound, count in zip(COMMIT_BOUNDS, histogram.counts, strict=False):
        cumulated += count
        assert cumulated == bisect.bisect_right(ordered, bound)

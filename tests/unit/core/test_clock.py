"""Clocks."""

import time

import pytest

from switchboard_server.core.clock import SECOND_NS, steady_clock


def test_a_steady_clock_does_not_follow_one_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before, clock = time.time_ns(), steady_clock()
    monkeypatch.setattr(time, "time_ns", lambda: before + 3600 * SECOND_NS)
    first, second = clock(), clock()
    assert before <= first <= second < before + 3600 * SECOND_NS

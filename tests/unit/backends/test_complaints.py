"""What the log is told of troubles that go on."""

import logging

import pytest

from switchboard_server.backends.complaints import Complaints


def test_each_trouble_is_told_at_once_and_again_every_half_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    complaints = Complaints(logging.getLogger("any"), lambda: now)
    told = []
    for now in range(0, 70, 5):
        for problem in ("refused", "a replica"):
            complaints.tell(problem)
        told += [(now, each.getMessage()) for each in caplog.records]
        caplog.clear()
    times = (0, 30, 60)
    assert told == [(at, problem) for at in times for problem in ("refused", "a replica")]


def test_what_comes_after_all_was_well_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints(logging.getLogger("any"), lambda: 0.0)
    complaints.tell("refused")
    complaints.end()
    complaints.tell("refused")
    assert caplog.messages == ["refused", "refused"]

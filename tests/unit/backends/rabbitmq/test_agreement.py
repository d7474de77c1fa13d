"""Nodes that differ in what all need in common are told of; see backends/rabbitmq/agreement.py."""

import logging

import pytest

from switchboard_server.backends.rabbitmq.agreement import PATIENCE, Agreement


def one(history: object, redis: str = "life 1") -> Agreement:
    """What a node goes by."""
    agreement = Agreement()
    agreement.need("SWITCHBOARD_ROOM_HISTORY", lambda: history)
    agreement.need("Redis", lambda: redis)
    return agreement


def test_what_a_node_differs_in_is_told_once_when_it_lasts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here, there = one({"lobby": 20}), one({"lobby": 30})
    caplog.set_level(logging.WARNING)
    for _ in range(PATIENCE - 1):
        here.hear("b", "b.1", there.facts())
    assert not caplog.messages
    for _ in range(3 * PATIENCE):
        here.hear("b", "b.1", there.facts())
    assert caplog.messages == [
        "node b has another SWITCHBOARD_ROOM_HISTORY than this one: "
        "all hubs of a cluster need the same"
    ]
    here.forget("b.1")
    for _ in range(PATIENCE):
        here.hear("b", "b.2", there.facts())
    assert len(caplog.messages) == 2


def test_what_is_equal_again_in_time_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    here = one("")
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        for _ in range(PATIENCE - 1):
            here.hear("b", "b.1", one("", "life 2").facts())
        here.hear("b", "b.1", one("").facts())
    assert not caplog.messages


def test_what_is_not_known_is_not_compared(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for here, there in ((one(1, ""), one(1)), (one(1), one(1, ""))):
        for _ in range(PATIENCE):
            here.hear("b", "b.1", there.facts())
    assert not caplog.messages

"""What waits to be sent to a node; see backends/rabbitmq/outbox.py."""

import pytest

from switchboard_server.backends.rabbitmq import outbox
from switchboard_server.backends.rabbitmq.outbox import IN_FLIGHT, MESSAGE_BYTES, Outbox, Packet
from switchboard_server.backends.rabbitmq.waiting import unavailable
from switchboard_server.core.errors import ResourceExhaustedError, SwitchboardError


class World:
    """An outbox, and what it does."""

    def __init__(self) -> None:
        self.sent: list[list[Packet]] = []
        self.woken = 0
        self.failed: list[SwitchboardError] = []
        self.box = Outbox(self.sent.append, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def put(self, *bodies: bytes) -> None:
        """Puts packets in."""
        for body in bodies:
            self.box.put([body], self.failed.append)

    def bodies(self) -> list[list[bytes]]:
        """What was sent."""
        return [[bytes(each.pieces[0]) for each in taken] for taken in self.sent]


def test_what_comes_in_one_turn_goes_together_and_what_comes_later_gathers() -> None:
    world = World()
    world.put(b"a", b"b")
    assert (world.sent, world.woken) == ([], 1)
    world.box.flush()
    assert world.bodies() == [[b"a", b"b"]]
    for number in range(1, IN_FLIGHT):
        world.put(b"%d" % number)
        world.box.flush()
    assert len(world.sent) == IN_FLIGHT
    world.put(b"x", b"y", b"z")
    world.box.flush()
    assert len(world.sent) == IN_FLIGHT
    world.box.sent(world.sent[0], None)
    assert world.bodies()[IN_FLIGHT:] == [[b"x", b"y", b"z"]]
    assert world.failed == []


def test_a_message_takes_no_more_once_it_is_large() -> None:
    world = World()
    large = b"x" * MESSAGE_BYTES
    world.put(b"a", large, b"b")
    world.box.flush()
    assert world.bodies() == [[b"a", large], [b"b"]]


def test_too_much_is_refused_but_for_what_has_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST_BYTES", 10)
    world = World()
    world.put(b"x" * 11)  # By itself anything goes.
    with pytest.raises(ResourceExhaustedError) as caught:
        world.put(b"y")
    assert caught.value.metadata == {"limit": "10"}
    world.box.put([b"z"], bounded=False)
    world.box.flush()
    world.put(b"y")


def test_who_waits_hears_of_a_failure() -> None:
    world = World()
    world.put(b"a", b"b")
    world.box.flush()
    lost, gone = unavailable("lost"), unavailable("gone")
    world.box.sent(world.sent[0], lost)
    assert world.failed == [lost, lost]
    world.put(b"c")
    world.box.close(gone)
    assert world.failed[2:] == [gone]
    world.box.flush()
    assert len(world.sent) == 1

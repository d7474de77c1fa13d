"""What the node that numbers does while the broker confirms nothing."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from switchboard_server.backends.clocks import LogTime
from switchboard_server.backends.rabbitmq.entries import Entry
from switchboard_server.backends.rabbitmq.place import Place
from switchboard_server.backends.rabbitmq.seat import Term
from switchboard_server.backends.rabbitmq.sequencing import Sequencer
from switchboard_server.backends.rabbitmq.topology import Topology
from tests.support.events import PlainCodec, some
from tests.support.loop import manual_loop, passing, run, turns


class Unconfirmed:
    """A `Term` whose publishes nobody answers but the test."""

    def __init__(self) -> None:
        self.outcomes: list[asyncio.Future[None]] = []
        self.ended: list[str] = []
        self.listeners: list[Callable[[], None]] = []

    def publish(self, *_: Any, **__: Any) -> "asyncio.Future[None]":
        """See `Term.publish`."""
        self.outcomes.append(asyncio.get_running_loop().create_future())
        return self.outcomes[-1]

    @property
    def published(self) -> int:
        """How many records."""
        return len(self.outcomes)

    def on_end(self, listener: Callable[[], None]) -> None:
        """See `Term.on_end`."""
        self.listeners.append(listener)

    def end(self, reason: str) -> None:
        """See `Term.end`."""
        self.ended.append(reason)
        for listener in self.listeners:
            listener()


def an_entry(number: int) -> Entry:
    return Entry("me", number, some(str(number)), lambda _: None, lambda _: None)


def test_what_waits_too_long_ends_the_term_and_is_not_overtaken() -> None:
    run(a_broker_that_confirms_nothing())


def a_sequencer() -> tuple[Sequencer, Unconfirmed]:
    clock = manual_loop().clock
    sequencer = Sequencer(
        Topology("test"),
        Place(),
        PlainCodec(),
        clock,
        batch_size=1024,
        timeout=5.0,
        known=lambda _: {},
    )
    unconfirmed = Unconfirmed()
    term = cast("Term", unconfirmed)
    sequencer._time, sequencer._next, sequencer.term = LogTime(clock, 0), 1, term
    term.on_end(lambda: sequencer.end(term))
    return sequencer, unconfirmed


async def a_broker_that_confirms_nothing() -> None:
    sequencer, unconfirmed = a_sequencer()
    sequencer.add(an_entry(1))
    await turns()
    assert unconfirmed.published == 1
    sequencer.add(an_entry(2))
    manual_loop().advance(5.5)
    sequencer.add(an_entry(3))
    await passing(0.5)
    assert unconfirmed.ended == []
    await passing(0.5)
    assert unconfirmed.ended == ["nothing was written for 5 s"]
    sequencer.add(an_entry(4))
    await turns()
    assert unconfirmed.published == 1
    await sequencer.drained()


def test_what_was_late_only_because_the_node_was_frozen_ends_no_term() -> None:
    run(a_node_that_finds_confirms_when_it_goes_on())


async def a_node_that_finds_confirms_when_it_goes_on() -> None:
    sequencer, unconfirmed = a_sequencer()
    sequencer.add(an_entry(1))
    await turns()
    sequencer.add(an_entry(2))
    manual_loop().advance(5.5)
    sequencer.add(an_entry(3))
    unconfirmed.outcomes[0].set_result(None)
    await passing(1.0)
    assert (unconfirmed.published, unconfirmed.ended) == (2, [])

"""Rounds: what goes to many is sent in one go, and nobody can tell."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.principal import ANONYMOUS
from switchboard_server.core.realtime import floor, rounds
from switchboard_server.core.realtime.items import Item, PresenceNotice
from switchboard_server.core.realtime.messages import Delivered
from switchboard_server.core.realtime.wishes import (
    ConnectWish,
    DisconnectWish,
    RoomJoin,
    Transport,
)
from tests.support.loop import run
from tests.support.realtime import Client, Stage, small

NAMES = ("a", "b", "c", "d", "e")
ROOMS = ("x", "y", "chat-z")


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "MANY", 2)
    monkeypatch.setattr(floor, "MANY", 2)


def told(item: Item) -> object:
    """What of an item is the same with rounds and without."""
    if isinstance(item, Delivered):
        places = sorted((place.room, place.offset) for place in item.rooms)
        return item.message.data["text"], places
    if isinstance(item, PresenceNotice):
        joined = sorted(each.client_id for each in item.joined)
        left = sorted(each.client_id for each in item.left)
        return item.room, joined, left, item.connections, item.users
    return str(item).replace(getattr(getattr(item, "position", None), "epoch", "") or " ", " ")


class Reader(Client):
    """A client whose door sends what it is handed, as long as the client reads.

    Attributes:
        got: What it has been sent.
        awake: Whether it reads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.got: list[object] = []
        self.awake = True

    def take(self) -> None:
        """Takes all there is."""
        while items := self.items(500):
            self.got += map(told, items)

    def wake(self) -> None:
        if self.awake:
            self.take()


class Fan:
    """A door that sends in one go."""

    def __init__(self) -> None:
        self.clients: list[Reader] = []
        self.scheduled: list[Callable[[], None]] = []
        self.sent = 0
        self.asked: list[int] = []

    def schedule(self, send: Callable[[], None], receivers: int) -> None:
        assert receivers
        self.scheduled.append(send)

    def send(self, messages: Sequence[Delivered], outlets: Sequence[int]) -> Sequence[int]:
        self.asked += outlets
        missed = []
        for index, outlet in enumerate(outlets):
            client = self.clients[outlet]
            if client.awake and client.connection.ended is None:
                client.got += map(told, messages)
                self.sent += len(messages)
            else:
                missed.append(index)
        return missed


class World:
    """A hub and its clients, with a fan or without."""

    def __init__(self, fan: Fan | None, limit: int) -> None:
        self.stage = Stage(small(limit))
        self.fan = fan
        self.readers: dict[str, Reader] = {}
        self.all: list[Reader] = []
        self.answers: list[object] = []

    async def connect(self, name: str) -> None:
        """Connects a client; another of the name is replaced."""
        reader = Reader()
        outlet = 0
        # One of them is of another door, which has no fan.
        fan = None if name == "e" else self.fan
        if fan is not None:
            outlet = len(fan.clients)
            fan.clients.append(reader)
        wish = ConnectWish(Transport.WEBSOCKET, "10.0.0.7:51234", name, "ann", [RoomJoin("x")])
        old = self.readers.get(name)
        reader.connection = await self.stage.hub.connect(
            wish, ANONYMOUS, reader.wake, fan=fan, outlet=outlet
        )
        if old is not None:
            self.turn()
            self.stage.hub.close(old.connection)
        self.readers[name] = reader
        self.all.append(reader)
        reader.take()

    def turn(self) -> None:
        """Lets the loop come round often enough for all that was put off."""
        while self.stage.soon or (self.fan is not None and self.fan.scheduled):
            if self.fan is not None:
                scheduled, self.fan.scheduled = self.fan.scheduled, []
                for send in scheduled:
                    send()
            self.stage.turn()

    async def do(self, step: tuple[Any, ...]) -> None:
        """Does one thing."""
        kind, name, argument = step
        try:
            if kind == "send":
                outcome = await self.stage.send(f"{len(self.answers)}", **argument)
                self.answers.append(outcome.connections)
            elif kind in {"join", "leave"}:
                await self._move(self.readers[name], kind, argument)
            elif kind == "sleep":
                self._sleep(self.readers[name], argument)
            elif kind == "end":
                await self.stage.hub.disconnect(DisconnectWish(clients=[name]), ANONYMOUS)
            elif kind == "connect":
                await self.connect(name)
            else:
                self._look(self.readers[name], kind)
        except SwitchboardError as error:
            self.answers.append(error.reason)

    async def _move(self, reader: Reader, kind: str, room: str) -> None:
        if kind == "leave":
            await self.stage.leave(reader, room)
        else:
            await self.stage.join(reader, room, notices=reader.connection.client_id in "ab")

    def _sleep(self, reader: Reader, awake: bool) -> None:
        self.turn()
        reader.awake = awake
        if awake:
            reader.take()

    def _look(self, reader: Reader, kind: str) -> None:
        if kind == "turn":
            self.turn()
        elif reader.awake:
            reader.take()

    async def finish(self) -> tuple[list[list[object]], list[object], list[object]]:
        """All wake up and read; what everybody got, and what the hub counts."""
        self.turn()
        for reader in self.all:
            reader.awake = True
            reader.take()
        self.turn()
        stats = self.stage.hub.stats()
        ends = [each.connection.ended and each.connection.ended.reason for each in self.all]
        counts = [stats.delivered, stats.dropped, stats.pending, stats.ended, ends]
        return [each.got for each in self.all], self.answers, counts


TARGETS = st.sampled_from(
    [
        {"to_all": True},
        {"rooms": ["x"]},
        {"rooms": ["x"]},
        {"rooms": ["chat-z"]},
        {"rooms": ["x", "y"]},
        {"users": ["ann"]},
        {"clients": ["b"]},
        {"to_all": True, "exclude_clients": ["a"]},
        {"rooms": ["x"], "clients": ["e"]},
    ]
)
STEPS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(NAMES), TARGETS),
    st.tuples(st.just("send"), st.sampled_from(NAMES), st.just({"rooms": ["x"]})),
    st.tuples(st.sampled_from(["join", "leave"]), st.sampled_from(NAMES), st.sampled_from(ROOMS)),
    st.tuples(st.just("sleep"), st.sampled_from(NAMES), st.booleans()),
    st.tuples(st.sampled_from(["take", "end", "connect"]), st.sampled_from(NAMES), st.none()),
    st.tuples(st.just("turn"), st.just("a"), st.none()),
)


@given(st.lists(STEPS, max_size=40), st.sampled_from([2, 3, 1000]))
def test_everybody_gets_with_rounds_what_it_gets_without(
    steps: list[tuple[Any, ...]], limit: int
) -> None:
    async def scenario() -> None:
        worlds = World(Fan(), limit), World(None, limit)
        for world in worlds:
            for name in NAMES:
                await world.connect(name)
            world.turn()
            for step in steps:
                await world.do(step)
        with_rounds, without = [await world.finish() for world in worlds]
        assert with_rounds == without

    run(scenario())


async def test_a_message_to_many_is_put_into_no_outbox() -> None:
    fan = Fan()
    world = World(fan, 1000)
    for name in NAMES:
        await world.connect(name)
    world.turn()
    for number in range(3):
        outcome = await world.stage.send(f"{number}", to_all=True)
        assert outcome.connections == len(NAMES)
    waiting = [len(each.connection.outbox) for each in world.all]
    assert waiting == [0, 0, 0, 0, 3], "the last one's door has no fan"
    world.turn()
    assert fan.sent == 3 * 4
    assert all(len(each.got) == 2 + 3 for each in world.all)


async def test_one_that_is_gone_before_the_round_is_not_written_to() -> None:
    fan = Fan()
    world = World(fan, 1000)
    for name in NAMES:
        await world.connect(name)
    world.turn()
    await world.stage.send("0", to_all=True)
    gone = world.readers["b"]
    # Its outlet may be another's from now on.
    world.stage.hub.close(gone.connection)
    world.turn()
    assert len(gone.got) == 2
    assert fan.asked == [0, 2, 3]

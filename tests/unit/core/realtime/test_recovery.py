"""Coming back: exactly what was missed, or the word that it cannot be told."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.realtime.history import HistoryPolicy, HistoryRules
from switchboard_server.core.realtime.items import Item, Joined
from switchboard_server.core.realtime.messages import OVERHEAD_BYTES, Delivered, Position
from switchboard_server.core.realtime.wishes import RoomJoin
from tests.support.realtime import CHAT, Client, Stage, small, text

T = TypeVar("T")


def joined(items: list[Item]) -> tuple[Joined, list[str]]:
    """The word that a room is joined, and the texts that follow it."""
    word = next(item for item in items if isinstance(item, Joined))
    return word, [text(item) for item in items if isinstance(item, Delivered)]


async def test_what_was_missed_is_replayed_before_what_is_new() -> None:
    stage = Stage()
    first = await stage.settled("a", "", "chat-1")
    place = (await stage.send("0", rooms=["chat-1"])).positions[0]
    stage.hub.close(first.connection)
    for number in (1, 2):
        await stage.send(str(number), rooms=["chat-1"])
    again = await stage.connect("a", "", RoomJoin("chat-1", place))
    last = (await stage.send("3", rooms=["chat-1"])).positions[0]
    word, texts = joined(again.items())
    assert (word.recovered, word.replayed) == (True, 2)
    assert word.position == last._replace(offset=3)
    assert texts == ["1", "2", "3"]
    assert stage.hub.stats().replayed == 2


async def test_nothing_missed_is_recovered_too_even_in_a_room_that_never_heard_anything() -> None:
    stage = Stage()
    first = await stage.connect("a", "", "chat-1")
    word, _ = joined(first.items())
    stage.time.pass_seconds(1000)
    stage.hub.close(first.connection)
    stage.time.pass_seconds(59)
    again = await stage.connect("a", "", RoomJoin("chat-1", word.position))
    assert joined(again.items())[0].recovered
    stage.hub.close(again.connection)
    stage.time.pass_seconds(60)
    late = await stage.connect("a", "", RoomJoin("chat-1", word.position))
    assert not joined(late.items())[0].recovered
    assert joined((await stage.connect("b", "", "chat-1")).items())[0].recovered is False


async def test_it_is_said_when_the_history_does_not_reach_back() -> None:
    stage = Stage()
    place = (await stage.send("0", rooms=["chat-1"])).positions[0]
    for number in range(1, CHAT.size + 1):
        await stage.send(str(number), rooms=["chat-1"])
    client = await stage.settled("a")
    assert (await stage.join(client, "chat-1", place)).joined.recovered
    await stage.leave(client, "chat-1")
    await stage.send("x", rooms=["chat-1"])
    for wrong in (place, place._replace(epoch="other", offset=3), place._replace(offset=100)):
        result = await stage.join(client, "chat-1", wrong)
        assert (result.joined.recovered, result.joined.replayed) == (False, 0)
        await stage.leave(client, "chat-1")
    result = await stage.join(client, "lobby", Position("lobby"))
    assert not result.joined.recovered


async def test_joining_again_without_leaving_replays_nothing() -> None:
    stage = Stage()
    client = await stage.settled("a", "", "chat-1")
    place = (await stage.send("0", rooms=["chat-1"])).positions[0]
    await stage.send("1", rooms=["chat-1"])
    result = await stage.join(client, "chat-1", place)
    assert result.already_joined
    assert (result.joined.recovered, result.joined.replayed) == (False, 0)
    assert client.texts() == ["0", "1"]


async def test_one_that_was_excluded_sees_the_message_when_it_is_replayed() -> None:
    stage = Stage()
    client = await stage.settled("a", "", "chat-1")
    place = (await stage.send("0", rooms=["chat-1"])).positions[0]
    await stage.send("1", rooms=["chat-1"], exclude_clients=["a"])
    assert client.texts() == ["0"]
    await stage.leave(client, "chat-1")
    await stage.join(client, "chat-1", place)
    assert joined(client.items())[1] == ["1"]


def test_the_exact_name_decides_and_then_the_longest_pattern() -> None:
    policies = [HistoryPolicy(size, SECOND_NS) for size in (1, 2, 3)]
    rules = HistoryRules({"*": policies[0], "chat-*": policies[1], "chat-1": policies[2]})
    assert rules.of("chat-1") is policies[2]
    assert rules.of("chat-2") is policies[1]
    assert rules.of("lobby") is policies[0]
    assert HistoryRules().of("lobby") is None


ROOMS = ("chat-1", "chat-2")
NAMES = st.sampled_from(("a", "b"))


class Recovery(RuleBasedStateMachine):
    """Clients that come, read, stall and come back, while messages are sent and forgotten.

    What a client knows of a room is complete from the place where it first stood there, or where it
    was last told that it had not recovered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(small(6), history_bytes=12 * OVERHEAD_BYTES + 3000)
        self.clients: dict[str, Client] = {}
        self.sent: dict[tuple[str, str], list[str]] = {}
        self.known: dict[tuple[str, str], Position] = {}
        self.count = 0
        self.recovered = 0

    def run_it(self, call: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine that never waits."""
        try:
            call.send(None)
        except StopIteration as done:
            result: T = done.value
            return result
        raise AssertionError("it waits")

    @rule(
        rooms=st.lists(st.sampled_from(ROOMS), min_size=1, max_size=2, unique=True),
        times=st.integers(1, 9),
    )
    def send(self, rooms: list[str], times: int) -> None:
        for _ in range(times):
            self.count += 1
            outcome = self.run_it(self.stage.send(str(self.count), rooms=rooms))
            for place in outcome.positions:
                told = self.sent.setdefault((place.room, place.epoch), [])
                told.append(str(self.count))
                assert place.offset == len(told)

    @rule(name=NAMES, rooms=st.sets(st.sampled_from(ROOMS), min_size=1))
    def come(self, name: str, rooms: set[str]) -> None:
        joins = [RoomJoin(room, self.known.get((name, room))) for room in sorted(rooms)]
        self.clients[name] = self.run_it(self.stage.connect(name, "ann", *joins))

    @precondition(lambda self: self.clients)
    @rule(name=NAMES, max_bytes=st.sampled_from((1, 2 * OVERHEAD_BYTES, 1 << 20)))
    def read(self, name: str, max_bytes: int) -> None:
        if name in self.clients:
            for item in self.clients[name].items(max_bytes):
                self.check(name, item)

    @precondition(lambda self: self.clients)
    @rule(name=NAMES)
    def go(self, name: str) -> None:
        client = self.clients.pop(name, None)
        if client is not None:
            self.stage.hub.close(client.connection)

    @precondition(lambda self: self.clients)
    @rule(name=NAMES, room=st.sampled_from(ROOMS))
    def move(self, name: str, room: str) -> None:
        client = self.clients.get(name)
        if client is None or client.connection.ended is not None:
            return
        for item in client.items():
            self.check(name, item)
        if not self.run_it(self.stage.leave(client, room)):
            self.run_it(self.stage.join(client, room, self.known.get((name, room))))

    @rule(seconds=st.sampled_from((1, 20, 61)))
    def wait(self, seconds: int) -> None:
        self.stage.time.pass_seconds(seconds)

    def check(self, name: str, item: Item) -> None:
        if isinstance(item, Joined):
            place = item.position
            before = self.known.get((name, place.room))
            if item.recovered:
                assert before is not None
                assert before.epoch == place.epoch
                assert item.replayed == place.offset - before.offset
                self.recovered += 1
            else:
                assert item.replayed == 0
                self.known[name, place.room] = place
        elif isinstance(item, Delivered):
            for place in item.rooms:
                before = self.known[name, place.room]
                assert place == (place.room, before.epoch, before.offset + 1), "missing or doubled"
                assert text(item) == self.sent[place.room, place.epoch][place.offset - 1]
                self.known[name, place.room] = place


def test_nothing_is_missing_or_doubled_where_it_is_recovered() -> None:
    many = settings(max_examples=500, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(Recovery, settings=many)


def test_the_machine_does_recover() -> None:
    """Guards the test above against never coming to the point."""
    machine = Recovery()
    machine.come("a", {"chat-1"})
    machine.read("a", 1 << 20)
    machine.send(["chat-1"], 1)
    machine.go("a")
    machine.send(["chat-1"], 1)
    machine.come("a", {"chat-1"})
    machine.read("a", 1 << 20)
    assert machine.recovered == 1
    assert machine.known["a", "chat-1"].offset == 2

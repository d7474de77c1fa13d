"""The contract of `RoomHistories`, for every backend that implements it."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import pytest

from switchboard_server.backends.embedded.histories import ROOM_BYTES, MemoryHistories
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.realtime.history import HistoryPolicy
from switchboard_server.core.realtime.messages import OVERHEAD_BYTES, Delivered, Message, Position
from tests.conformance.histories import Histories, InMemory, InRedis
from tests.support.brokers import RedisServer
from tests.support.realtime import NOON_NS, Time
from tests.support.realtime_nodes import Node, nodes

POLICY = HistoryPolicy(3, 10 * SECOND_NS)


def a_message(number: int, size: int = 2) -> Message:
    return Message(
        number=number,
        message_id=str(number),
        message_type="chat",
        data={},
        json=b"{}".ljust(size),
        sender_client_id="",
        sender_user="",
        time_ns=NOON_NS + number,
    )


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(params=["memory", "redis"])
async def histories(request: pytest.FixtureRequest, time: Time) -> AsyncIterator[Histories]:
    """The histories of a backend, with room for much."""
    if request.param == "memory":
        yield InMemory(MemoryHistories(1 << 20, time), POLICY)
        return
    server: RedisServer = request.getfixturevalue("redis")
    async with nodes([server.url], 1, rules={"*": POLICY}, clock=in_ms(time)) as (node,):
        yield InRedis(node)


def in_ms(time: Time) -> Callable[[], int]:
    return lambda: time() // 1_000_000


async def fill(histories: Histories, room: str, *numbers: int) -> list[Position]:
    return [await histories.append(room, POLICY, a_message(each)) for each in numbers]


def numbers(messages: Sequence[Delivered] | None) -> list[int] | None:
    return None if messages is None else [int(each.message.message_id) for each in messages]


async def test_offsets_grow_by_one_in_an_epoch_of_the_room(histories: Histories) -> None:
    places = await fill(histories, "a", 7, 8, 9)
    assert [place.offset for place in places] == [1, 2, 3]
    assert {(place.room, place.epoch) for place in places} == {("a", places[0].epoch)}
    (other,) = await fill(histories, "b", 10)
    assert other.offset == 1
    assert other.epoch != places[0].epoch


async def test_the_latest_are_kept_up_to_the_size(histories: Histories) -> None:
    places = await fill(histories, "a", 1, 2, 3, 4, 5)
    assert numbers(await histories.latest("a", 10)) == [3, 4, 5]
    assert numbers(await histories.latest("a", 2)) == [4, 5]
    assert numbers(await histories.latest("nowhere", 2)) == []
    assert numbers(await histories.after("a", places[4])) == []
    assert numbers(await histories.after("a", places[2])) == [4, 5]
    assert numbers(await histories.after("a", places[1])) == [3, 4, 5]
    assert await histories.after("a", places[0]) is None
    view = await histories.view("a")
    assert view == (places[4], 3, NOON_NS + 1)


async def test_a_place_that_is_not_of_this_history_is_told(histories: Histories) -> None:
    (place,) = await fill(histories, "a", 1)
    assert await histories.after("a", place._replace(offset=2)) is None
    assert await histories.after("a", place._replace(epoch="x")) is None
    assert await histories.after("nowhere", place) is None
    assert numbers(await histories.after("a", place._replace(offset=0))) == [1]


async def test_messages_are_kept_for_their_time_and_the_count_for_as_long(
    histories: Histories, time: Time
) -> None:
    first, second = (await fill(histories, "a", 1))[0], None
    time.pass_seconds(5)
    (second,) = await fill(histories, "a", 2)
    time.pass_seconds(5)
    assert numbers(await histories.latest("a", 10)) == [2]
    assert await histories.after("a", first._replace(offset=0)) is None
    assert numbers(await histories.after("a", first)) == [2]
    assert await histories.names() == ["a"]
    time.pass_seconds(5)
    assert await histories.names() == []
    assert await histories.view("a") is None
    assert await histories.size() == 0
    (third,) = await fill(histories, "a", 3)
    assert third.offset == 1
    assert third.epoch != second.epoch


async def test_a_count_that_is_held_goes_on_for_ever(histories: Histories, time: Time) -> None:
    start = await histories.hold("a")
    assert start.offset == 0
    (place,) = await fill(histories, "a", 1)
    time.pass_seconds(1000)
    assert await histories.names() == []
    assert await histories.hold("a") == place
    assert numbers(await histories.after("a", place)) == []
    assert await histories.after("a", start) is None
    await histories.release("a")
    time.pass_seconds(9)
    assert numbers(await histories.after("a", place)) == []
    assert (await fill(histories, "a", 2))[0] == place._replace(offset=2)
    time.pass_seconds(10)
    assert await histories.view("a") is None


async def test_a_release_that_is_taken_back_in_time_changes_nothing(
    histories: Histories, time: Time
) -> None:
    start = await histories.hold("a")
    await histories.release("a")
    time.pass_seconds(9)
    await histories.hold("a")
    time.pass_seconds(9)
    assert await histories.after("a", start) == []
    await histories.release("a")
    time.pass_seconds(9)
    assert await histories.after("a", start) == []
    time.pass_seconds(1)
    assert await histories.after("a", start) is None


async def test_names_are_in_order(histories: Histories) -> None:
    for room in ("b", "c", "a"):
        await fill(histories, room, 1)
    await histories.hold("d")
    assert list(await histories.names()) == ["a", "b", "c"]


def filled(histories: MemoryHistories, room: str, *numbers: int) -> list[Position]:
    return [histories.append(room, POLICY, a_message(each)).rooms[0] for each in numbers]


class TestBounds:
    """How the embedded histories keep within their bytes."""

    def test_the_rooms_that_were_sent_to_longest_ago_forget_first(self, time: Time) -> None:
        histories = MemoryHistories(3 * (ROOM_BYTES + OVERHEAD_BYTES + 100), time)
        places = {room: filled(histories, room, 1)[0] for room in ("a", "b", "c")}
        filled(histories, "a", 2)
        assert list(histories.names()) == ["a", "b", "c"]
        filled(histories, "d", 3)
        assert list(histories.names()) == ["a", "c", "d"]
        assert histories.after("b", places["b"]) is None
        assert histories.size <= 3 * (ROOM_BYTES + OVERHEAD_BYTES + 100)

    def test_a_held_room_keeps_its_count(self, time: Time) -> None:
        histories = MemoryHistories(2 * (ROOM_BYTES + OVERHEAD_BYTES + 100), time)
        start = histories.hold("a", POLICY, NOON_NS)
        (place,) = filled(histories, "a", 1)
        for number in range(4):
            filled(histories, f"b{number}", number)
        assert histories.after("a", start) is None
        assert histories.after("a", place) == []
        assert filled(histories, "a", 9) == [place._replace(offset=2)]

    def test_a_room_alone_forgets_its_oldest(self, time: Time) -> None:
        histories = MemoryHistories(ROOM_BYTES + 2 * OVERHEAD_BYTES + 100, time)
        filled(histories, "a", 1, 2, 3)
        assert numbers(histories.latest("a", 10)) == [2, 3]

    def test_many_rooms_cost_no_more_than_they_may(self, time: Time) -> None:
        histories = MemoryHistories(20 * ROOM_BYTES, time)
        for number in range(1000):
            filled(histories, f"room-{number}", number)
            assert histories.size <= 20 * ROOM_BYTES
        time.pass_seconds(10)
        assert histories.size == 0


class TestBoundsOfRedis:
    """How the histories in Redis keep within their bytes, which all nodes share."""

    async def test_the_rooms_that_were_sent_to_longest_ago_forget_first(
        self, redis: RedisServer, time: Time
    ) -> None:
        most = 5000
        async with self._node(redis, time, most) as (node,):
            histories = InRedis(node)
            start = await histories.hold("b")
            for room in ("a", "b", "c"):
                await histories.append(room, POLICY, a_message(1, 1000))
            await histories.append("a", POLICY, a_message(2, 1000))
            assert list(await histories.names()) == ["a", "c"]
            view = await histories.view("b")
            assert view is not None
            assert view[:2] == (start._replace(offset=1), 0)
            assert await histories.after("b", start) is None
            assert 0 < await histories.size() <= most
            await histories.append("c", POLICY, a_message(3, 4000))
            assert list(await histories.names()) == ["c"]
            assert numbers(await histories.latest("c", 10)) == [3]
            time.pass_seconds(10)
            assert await histories.size() == 0

    @staticmethod
    def _node(redis: RedisServer, time: Time, most: int) -> AbstractAsyncContextManager[list[Node]]:
        rules = {"*": POLICY}
        return nodes([redis.url], 1, rules=rules, clock=in_ms(time), history_bytes=most)

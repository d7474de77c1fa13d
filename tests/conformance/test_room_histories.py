"""The contract of `RoomHistories`, for every backend that implements it."""

from collections.abc import Sequence

import pytest

from switchboard_server.backends.embedded.histories import ROOM_BYTES, MemoryHistories
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.realtime.history import HistoryPolicy, RoomHistories
from switchboard_server.core.realtime.messages import OVERHEAD_BYTES, Delivered, Message, Position
from tests.support.realtime import NOON_NS, Time

POLICY = HistoryPolicy(3, 10 * SECOND_NS)


def a_message(number: int, size: int = 2) -> Message:
    return Message(
        number=number,
        message_id=str(number),
        message_type="chat",
        data={},
        json=b" " * size,
        sender_client_id="",
        sender_user="",
        time_ns=NOON_NS + number,
    )


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(params=["embedded"])
def histories(time: Time) -> RoomHistories:
    """The histories of a backend, with room for much."""
    return MemoryHistories(1 << 20, time)


def fill(histories: RoomHistories, room: str, *numbers: int) -> list[Position]:
    return [histories.append(room, POLICY, a_message(each)).rooms[0] for each in numbers]


def numbers(messages: Sequence[Delivered] | None) -> list[int] | None:
    return None if messages is None else [each.message.number for each in messages]


def test_offsets_grow_by_one_in_an_epoch_of_the_room(histories: RoomHistories) -> None:
    places = fill(histories, "a", 7, 8, 9)
    assert [place.offset for place in places] == [1, 2, 3]
    assert {(place.room, place.epoch) for place in places} == {("a", places[0].epoch)}
    (other,) = fill(histories, "b", 10)
    assert other.offset == 1
    assert other.epoch != places[0].epoch


def test_the_latest_are_kept_up_to_the_size(histories: RoomHistories) -> None:
    places = fill(histories, "a", 1, 2, 3, 4, 5)
    assert numbers(histories.latest("a", 10)) == [3, 4, 5]
    assert numbers(histories.latest("a", 2)) == [4, 5]
    assert numbers(histories.latest("nowhere", 2)) == []
    assert numbers(histories.after("a", places[4])) == []
    assert numbers(histories.after("a", places[2])) == [4, 5]
    assert numbers(histories.after("a", places[1])) == [3, 4, 5]
    assert histories.after("a", places[0]) is None
    view = histories.view("a")
    assert view is not None
    assert (view.position, view.length, view.create_time_ns) == (places[4], 3, NOON_NS + 1)


def test_a_place_that_is_not_of_this_history_is_told(histories: RoomHistories) -> None:
    (place,) = fill(histories, "a", 1)
    assert histories.after("a", place._replace(offset=2)) is None
    assert histories.after("a", place._replace(epoch="x")) is None
    assert histories.after("nowhere", place) is None
    assert numbers(histories.after("a", place._replace(offset=0))) == [1]


def test_messages_are_kept_for_their_time_and_the_count_for_as_long(
    histories: RoomHistories, time: Time
) -> None:
    first, second = fill(histories, "a", 1)[0], None
    time.pass_seconds(5)
    (second,) = fill(histories, "a", 2)
    time.pass_seconds(5)
    assert numbers(histories.latest("a", 10)) == [2]
    assert histories.after("a", first._replace(offset=0)) is None
    assert numbers(histories.after("a", first)) == [2]
    assert histories.names() == ["a"]
    time.pass_seconds(5)
    assert histories.names() == []
    assert histories.view("a") is None
    assert histories.size == 0
    (third,) = fill(histories, "a", 3)
    assert third.offset == 1
    assert third.epoch != second.epoch


def test_a_count_that_is_held_goes_on_for_ever(histories: RoomHistories, time: Time) -> None:
    start = histories.hold("a", POLICY, NOON_NS)
    assert start.offset == 0
    (place,) = fill(histories, "a", 1)
    time.pass_seconds(1000)
    assert histories.names() == []
    assert histories.hold("a", POLICY, NOON_NS) == place
    assert numbers(histories.after("a", place)) == []
    assert histories.after("a", start) is None
    histories.release("a")
    time.pass_seconds(9)
    assert numbers(histories.after("a", place)) == []
    assert fill(histories, "a", 2)[0] == place._replace(offset=2)
    time.pass_seconds(10)
    assert histories.view("a") is None


def test_a_release_that_is_taken_back_in_time_changes_nothing(
    histories: RoomHistories, time: Time
) -> None:
    start = histories.hold("a", POLICY, NOON_NS)
    histories.release("a")
    time.pass_seconds(9)
    histories.hold("a", POLICY, NOON_NS)
    time.pass_seconds(9)
    assert histories.after("a", start) == []
    histories.release("a")
    time.pass_seconds(9)
    assert histories.after("a", start) == []
    time.pass_seconds(1)
    assert histories.after("a", start) is None


def test_names_are_in_order(histories: RoomHistories) -> None:
    for room in ("b", "c", "a"):
        fill(histories, room, 1)
    histories.hold("d", POLICY, NOON_NS)
    assert list(histories.names()) == ["a", "b", "c"]


class TestBounds:
    """How the embedded histories keep within their bytes."""

    def test_the_rooms_that_were_sent_to_longest_ago_forget_first(self, time: Time) -> None:
        histories = MemoryHistories(3 * (ROOM_BYTES + OVERHEAD_BYTES + 100), time)
        places = {room: fill(histories, room, 1)[0] for room in ("a", "b", "c")}
        fill(histories, "a", 2)
        assert list(histories.names()) == ["a", "b", "c"]
        fill(histories, "d", 3)
        assert list(histories.names()) == ["a", "c", "d"]
        assert histories.after("b", places["b"]) is None
        assert histories.size <= 3 * (ROOM_BYTES + OVERHEAD_BYTES + 100)

    def test_a_held_room_keeps_its_count(self, time: Time) -> None:
        histories = MemoryHistories(2 * (ROOM_BYTES + OVERHEAD_BYTES + 100), time)
        start = histories.hold("a", POLICY, NOON_NS)
        (place,) = fill(histories, "a", 1)
        for number in range(4):
            fill(histories, f"b{number}", number)
        assert histories.after("a", start) is None
        assert histories.after("a", place) == []
        assert fill(histories, "a", 9) == [place._replace(offset=2)]

    def test_a_room_alone_forgets_its_oldest(self, time: Time) -> None:
        histories = MemoryHistories(ROOM_BYTES + 2 * OVERHEAD_BYTES + 100, time)
        fill(histories, "a", 1, 2, 3)
        assert numbers(histories.latest("a", 10)) == [2, 3]

    def test_many_rooms_cost_no_more_than_they_may(self, time: Time) -> None:
        histories = MemoryHistories(20 * ROOM_BYTES, time)
        for number in range(1000):
            fill(histories, f"room-{number}", number)
            assert histories.size <= 20 * ROOM_BYTES
        time.pass_seconds(10)
        assert histories.size == 0

"""What waits for a connection that reads slowly: bounded, and honest about what is missing."""

import pytest

from switchboard_server.core.errors import ResourceExhaustedError
from switchboard_server.core.realtime.items import Dropped, Joined, Left, Started
from switchboard_server.core.realtime.messages import OVERHEAD_BYTES, Delivered, Position
from switchboard_server.core.realtime.wishes import RoomJoin
from tests.support.realtime import Client, Stage, small, text


def words(client: Client, max_bytes: int = 1 << 30) -> list[str]:
    """What has come, each by a word: texts of messages, and names of the rest."""
    return [
        text(item)
        if isinstance(item, Delivered)
        else f"{type(item).__name__} {getattr(item, 'count', '')}".strip()
        for item in client.items(max_bytes)
    ]


async def test_the_oldest_messages_in_no_history_make_room_and_are_counted() -> None:
    stage = Stage(small(3))
    client = await stage.settled("a", "", "lobby")
    for number in range(5):
        assert (await stage.send(str(number), rooms=["lobby"])).connections == 1
    assert words(client) == ["Dropped 2", "2", "3", "4"]
    await stage.send("5", rooms=["lobby"])
    assert words(client) == ["5"]
    assert stage.hub.stats().dropped == 2
    stage.hub.close(client.connection)
    assert stage.hub.stats().dropped == 2


async def test_bytes_are_bounded_too_but_a_single_message_always_fits() -> None:
    stage = Stage(small(100, 3 * OVERHEAD_BYTES))
    client = await stage.settled("a", "", "lobby")
    for number in range(3):
        await stage.send(str(number), rooms=["lobby"])
    assert client.connection.outbox.size <= 3 * OVERHEAD_BYTES
    assert words(client) == ["Dropped 1", "1", "2"]
    await stage.send("x" * 4 * OVERHEAD_BYTES, rooms=["lobby"])
    await stage.send("small", rooms=["lobby"])
    assert words(client) == ["Dropped 1", "small"]
    await stage.send("x" * 4 * OVERHEAD_BYTES, rooms=["lobby"])
    assert len(client.messages()) == 1


async def test_one_that_is_full_of_what_a_history_brings_back_is_ended() -> None:
    stage = Stage(small(3))
    slow = await stage.settled("slow", "ann", "chat-1")
    quick = await stage.settled("quick", "", "chat-1")
    for number in range(3):
        await stage.send(str(number), rooms=["chat-1"])
    assert quick.texts() == ["0", "1", "2"]
    outcome = await stage.send("3", rooms=["chat-1"])
    assert outcome.connections == 1
    assert isinstance(slow.connection.ended, ResourceExhaustedError)
    assert slow.connection.ended.reason == "SLOW_CONSUMER"
    assert slow.items() == [], "what it held is let go at once"
    stage.turn()
    assert slow.wakes == 1
    assert quick.texts() == ["3"]
    assert stage.hub.stats().ended == {"SLOW_CONSUMER": 1}
    assert stage.hub.stats().users == 0


async def test_what_no_history_has_goes_before_a_connection_is_ended() -> None:
    stage = Stage(small(3))
    client = await stage.settled("a", "", "chat-1", "lobby")
    await stage.send("chat 0", rooms=["chat-1"])
    await stage.send("lobby 0", rooms=["lobby"])
    await stage.send("lobby 1", rooms=["lobby"])
    await stage.send("chat 1", rooms=["chat-1"])
    await stage.send("chat 2", rooms=["chat-1"])
    assert (await stage.send("lobby 2", rooms=["lobby"])).connections == 0
    assert client.connection.ended is None
    assert words(client) == ["Dropped 3", "chat 0", "chat 1", "chat 2"]


async def test_both_kinds_come_in_the_order_in_which_they_were_sent() -> None:
    stage = Stage()
    client = await stage.settled("a", "", "chat-1", "lobby")
    expected = []
    for number in range(10):
        room = "chat-1" if number % 3 == 0 else "lobby"
        await stage.send(f"{room} {number}", rooms=[room])
        expected.append(f"{room} {number}")
        if number == 5:
            await stage.join(client, "other")
            expected.append("Joined")
    assert words(client) == expected


async def test_what_is_too_much_for_one_take_comes_in_several() -> None:
    stage = Stage()
    client = await stage.settled("a", "", "chat-1", "lobby")
    for number in range(6):
        await stage.send(str(number), rooms=["chat-1" if number % 2 else "lobby"])
    await stage.leave(client, "lobby")
    taken = []
    while some := words(client, 2 * OVERHEAD_BYTES):
        assert len(some) <= 2
        taken += some
    assert taken == ["0", "1", "2", "3", "4", "5", "Left"]
    assert client.connection.outbox.size == 0


async def test_a_take_of_one_kind_is_bounded_too() -> None:
    stage = Stage()
    client = await stage.settled("a", "", "lobby")
    for number in range(3):
        await stage.send(str(number), rooms=["lobby"])
    assert words(client, 1) == ["0"]
    assert words(client, 1) == ["1"]
    assert words(client) == ["2"]


async def test_words_about_the_connection_count_and_end_it_when_nobody_reads_them() -> None:
    stage = Stage(small(4))
    client = await stage.settled("a")
    await stage.join(client, "lobby")
    await stage.leave(client, "lobby")
    await stage.join(client, "lobby")
    await stage.leave(client, "lobby")
    with pytest.raises(ResourceExhaustedError) as caught:
        await stage.join(client, "lobby")
    assert caught.value.reason == "SLOW_CONSUMER"
    assert client.connection.ended is not None
    assert stage.hub.stats().rooms == 0


async def test_a_history_longer_than_an_outbox_can_be_recovered() -> None:
    stage = Stage(small(3))
    client = await stage.settled("a", "", "chat-1")
    start = (await stage.send("0", rooms=["chat-1"])).positions[0]
    stage.hub.close(client.connection)
    for number in range(1, 6):
        await stage.send(str(number), rooms=["chat-1"])
    again = await stage.connect("a", "", RoomJoin("chat-1", start))
    assert (await stage.send("6", rooms=["chat-1"])).connections == 0, "3 words wait"
    assert again.connection.ended is not None
    again = await stage.connect("a", "", RoomJoin("chat-1", start._replace(offset=2)))
    started, joined, *replayed = again.items(4 * OVERHEAD_BYTES)
    assert isinstance(started, Started)
    assert joined == Joined(Position("chat-1", start.epoch, 7), True, 5, 1, 0)
    await stage.send("7", rooms=["chat-1"])
    texts = [text(each) for each in replayed if isinstance(each, Delivered)] + again.texts()
    assert texts == ["2", "3", "4", "5", "6", "7"]
    assert again.items() == []


async def test_dropped_and_left_are_told_before_and_after_the_messages() -> None:
    stage = Stage(small(3))
    client = await stage.settled("a", "", "lobby")
    for number in range(4):
        await stage.send(str(number), rooms=["lobby"])
    await stage.leave(client, "lobby")
    first, *messages, last = client.items()
    assert first == Dropped(2)
    assert len(messages) == 2
    assert last == Left("lobby", removed=False)

"""What a node wants stored, from its first turn to its answer."""

import asyncio
from typing import Any

import pytest

from switchboard_server.backends.rabbitmq.appends import Requests
from switchboard_server.backends.rabbitmq.records import Answers
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.ports import Appended, Lane
from tests.support.events import some

NOW = 1_700_000_000_000_000_000


class Node:
    """The requests of node "me"."""

    def __init__(self, timeout: float = 60) -> None:
        self.took: list[float] = []
        self.requests = Requests("me", timeout, self.took.append)

    def append(
        self, *texts: str, scheduled: bool = False, lane: Lane | None = None
    ) -> "asyncio.Future[Any]":
        return self.requests.add(some(*texts), scheduled=scheduled, lane=lane)

    def sent(self) -> list[int]:
        return [each.number for each in self.requests.take_unsent()]


async def test_a_record_answers_the_requests_that_it_names_in_order() -> None:
    node = Node()
    first, second, third = node.append("a", "b"), node.append("c"), node.append("d")
    assert node.requests.pending_bytes == 4
    assert node.sent() == [1, 2, 3]
    assert node.sent() == []
    answers = [Answers("other", 9, [5, 5]), Answers("me", 1, [2, 0], {1: {0: 3}})]
    node.requests.read([*answers, Answers("", 0, [1])], 11, NOW)
    assert first.result() == Appended(21, NOW)
    assert second.result() == Appended(23, NOW, {0: 3})
    assert not third.done()
    assert (node.requests.pending_bytes, len(node.requests), len(node.took)) == (1, 1, 1)


async def test_what_is_open_is_sent_again_in_its_order_and_what_is_answered_is_not() -> None:
    node = Node()
    futures = [node.append(str(number)) for number in range(3)]
    node.sent()
    node.requests.read([Answers("me", 2, [1])], 1, NOW)
    late = node.append("late")
    node.requests.send_again()
    assert node.sent() == [1, 3, 4]
    assert futures[1].done()
    assert not late.done()


async def test_duplicates_are_told_when_those_that_they_are_have_been_read() -> None:
    node = Node()
    future, scheduled = node.append("a", "b"), node.append("c", "d", scheduled=True)
    node.requests.settle(1, {0: 7, 1: 9}, last=8)
    node.requests.settle(2, {1: 0}, last=8)
    assert scheduled.result() == {1: 0}
    assert not future.done()
    node.requests.reached(9)
    assert future.result() == Appended(0, 0, {0: 7, 1: 9})


async def test_duplicates_of_a_term_that_ended_are_forgotten() -> None:
    node = Node()
    future = node.append("a")
    node.sent()
    node.requests.settle(1, {0: 7}, last=6)
    node.requests.send_again()
    node.requests.reached(7)
    assert not future.done()
    assert node.sent() == [1]


async def test_what_takes_too_long_fails_and_says_whether_it_may_have_been_stored() -> None:
    node = Node(timeout=0)
    sent = node.append("a")
    node.sent()
    unsent = node.append("b")
    assert node.requests.expire("the link is down")
    for future, text in ((sent, "is not known"), (unsent, "nothing was stored")):
        with pytest.raises(UnavailableError, match=text) as caught:
            await future
        assert caught.value.reason == "LOG_UNAVAILABLE"
        assert "(the link is down)" in caught.value.message
    assert not node.requests.expire(None)
    assert node.requests.pending_bytes == 0
    await node.requests.emptied()


async def test_who_has_gone_away_does_not_disturb_the_others() -> None:
    node = Node()
    gone, stays = node.append("a"), node.append("b")
    gone.cancel()
    node.requests.read([Answers("me", 1, [1, 1])], 1, NOW)
    assert stays.result() == Appended(2, NOW)
    node.requests.fail(99, RuntimeError("nobody's"))


async def test_where_nobody_will_tell_of_what_was_sent_only_that_fails() -> None:
    node = Node()
    sent = node.append("a")
    node.sent()
    unsent = node.append("b")
    node.requests.fail_sent("a part of the log is gone")
    with pytest.raises(UnavailableError, match="is not known"):
        await sent
    assert not unsent.done()
    assert node.sent() == [2]


async def test_what_fails_takes_along_what_stands_behind_it_in_its_lane_and_nothing_else() -> None:
    node, lane = Node(), Lane()
    ahead, fails = node.append("ahead", lane=lane), node.append("fails", lane=lane)
    alone, elsewhere = node.append("alone"), node.append("elsewhere", lane=Lane())
    behind = node.append("behind", lane=lane)
    sending = node.requests.take_unsent()
    assert next(sending).number == 1
    node.requests.fail(2, RuntimeError("the test says so"))
    assert [each.number for each in sending] == [3, 4]
    for future in (fails, behind):
        with pytest.raises(RuntimeError, match="the test says so"):
            await future
    assert isinstance(lane.error, RuntimeError)
    assert not any(future.done() for future in (ahead, alone, elsewhere))
    node.requests.send_again()
    assert node.sent() == [1, 3, 4]
    assert node.requests.pending_bytes == len("aheadaloneelsewhere")

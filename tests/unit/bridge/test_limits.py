"""Limits of one connection: how many frames it may send, and how long it may be silent."""

from switchboard_server.bridge.keepalive import Keepalive
from switchboard_server.bridge.rates import TokenBucket
from tests.support.loop import manual_loop, passing, run


def test_a_burst_of_a_seconds_worth_passes_and_then_the_rate() -> None:
    bucket = TokenBucket(10, now=100.0)
    assert [bucket.take(100.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert bucket.refused == 2
    assert [bucket.take(100.25) for _ in range(3)] == [True, True, False]
    assert bucket.refused == 3


def test_what_was_refused_is_forgotten_when_the_client_has_slowed_down() -> None:
    bucket = TokenBucket(10, now=0.0)
    for _ in range(15):
        bucket.take(0.0)
    assert bucket.refused == 5
    assert bucket.take(1.0)
    assert bucket.refused == 0


class Member:
    """Somebody who is pinged."""

    def __init__(self) -> None:
        self.heard = manual_loop().time()
        self.pings: list[float] = []
        self._given_up = False

    def given_up(self) -> bool:
        return self._given_up

    def ping(self) -> None:
        self.pings.append(manual_loop().time())

    def lost(self) -> None:
        self._given_up = True


async def _pass(seconds: float) -> None:
    for _ in range(round(seconds * 4)):
        await passing(0.25)


def test_members_are_pinged_at_the_interval_and_those_that_answer_are_kept() -> None:
    async def scenario() -> None:
        keepalive: Keepalive[Member] = Keepalive(10, 5)
        member = Member()
        keepalive.add(member)
        for _ in range(4):
            await _pass(10.5)
            member.heard = manual_loop().time()
        assert len(member.pings) in (3, 4)
        gaps = [
            later - sooner for sooner, later in zip(member.pings, member.pings[1:], strict=False)
        ]
        assert all(10 <= gap <= 11 for gap in gaps)
        assert not member.given_up()
        keepalive.close()

    run(scenario())


def test_a_silent_member_is_given_up_after_the_timeout() -> None:
    async def scenario() -> None:
        keepalive: Keepalive[Member] = Keepalive(10, 5)
        silent, other = Member(), Member()
        keepalive.add(silent)
        keepalive.add(other)
        await _pass(11)
        other.heard = manual_loop().time()
        assert not silent.given_up()
        await _pass(5)
        assert silent.given_up()
        assert not other.given_up()
        await _pass(30)
        assert len(silent.pings) == 1
        keepalive.close()

    run(scenario())


def test_a_member_that_left_is_left_alone() -> None:
    async def scenario() -> None:
        keepalive: Keepalive[Member] = Keepalive(10, 5)
        member = Member()
        keepalive.add(member)
        await _pass(11)
        keepalive.remove(member)
        keepalive.remove(member)
        await _pass(60)
        assert len(member.pings) == 1
        assert not member.given_up()
        keepalive.close()

    run(scenario())


def test_many_that_came_at_once_are_pinged_little_by_little() -> None:
    async def scenario() -> None:
        keepalive: Keepalive[Member] = Keepalive(30, 20)
        members = [Member() for _ in range(1000)]
        for member in members:
            keepalive.add(member)
        await _pass(30)
        rounds = []
        for _ in range(80):
            before = sum(len(each.pings) for each in members)
            await _pass(0.25)
            for member in members:
                member.heard = manual_loop().time()
            rounds.append(sum(len(each.pings) for each in members) - before)
        assert max(rounds) < 60
        assert all(each.pings for each in members)
        keepalive.close()

    run(scenario())

"""kill -9 of the hub in the middle of a pipelined load: what was answered is there, once, in order."""

import asyncio
import random
from pathlib import Path

import grpc

from tests.e2e.load import (
    Publisher,
    check_log,
    list_events,
    running,
    started,
    subscribe_to_end,
)
from tests.support.hub import HubProcess

ROUNDS = 6
PUBLISHERS = 4
ANSWERS_BEFORE_KILL = (1000, 4000)
TEXT_BYTES = 1000
"""Long enough for a commit to take a while: an answer that comes before its commit is then caught
in nearly every round, of short events only in every second or third."""


class Assassin:
    """Kills a hub with the answer that brings the number of answered events to a limit."""

    def __init__(self, hub: HubProcess, limit: int) -> None:
        self._hub = hub
        self._left = limit

    def answered(self, count: int) -> None:
        self._left -= count
        if self._left <= 0:
            # At once, not in a later turn of the loop: an answer that came too early shows only
            # while what it promises is still on its way to the disk.
            self._hub.process.kill()


async def publish_until_killed(hub: HubProcess, publishers: list[Publisher]) -> None:
    channels = [hub.channel() for _ in publishers]
    try:
        outcomes = await asyncio.gather(
            *(
                publisher.run(channel)
                for publisher, channel in zip(publishers, channels, strict=True)
            ),
            return_exceptions=True,
        )
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))
    for outcome in outcomes:
        assert isinstance(outcome, grpc.aio.AioRpcError), outcome
        # INTERNAL is what grpc.aio makes of a write that the end of its connection interrupts.
        assert outcome.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL), outcome


async def check(hub: HubProcess, publishers: list[Publisher]) -> None:
    async with hub.channel() as channel:
        listed = await list_events(channel)
        check_log(listed, publishers)
        if listed:
            assert await subscribe_to_end(channel) == listed


async def test_every_answered_event_survives_kill_9_in_order_and_once(tmp_path: Path) -> None:
    choice = random.Random(6)
    assassin: Assassin

    def answered(count: int) -> None:
        assassin.answered(count)

    publishers = [
        Publisher(f"publisher-{each}", size=TEXT_BYTES, answered=answered)
        for each in range(PUBLISHERS)
    ]
    left_open = 0
    for _ in range(ROUNDS):
        with started(tmp_path) as hub:
            await check(hub, publishers)
            assassin = Assassin(hub, choice.randint(*ANSWERS_BEFORE_KILL))
            await publish_until_killed(hub, publishers)
            assert hub.process.wait(30) == -9
        left_open += sum(each.sent - len(each.sequences) for each in publishers)
    assert left_open, "no round was killed with publishes on their way, so nothing was shown"

    with running(tmp_path) as hub:
        await check(hub, publishers)
        assassin = Assassin(hub, 10**9)
        async with hub.channel() as channel:
            # Now each event that was sent and not answered is published again, whether it is in the log or not.
            await asyncio.gather(*(each.run(channel, each.sent) for each in publishers))
        assert all(len(each.sequences) == each.sent for each in publishers)
        await check(hub, publishers)

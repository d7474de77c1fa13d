"""kill -9 in the middle of a pipelined load: what was answered is there, once and in order."""

import asyncio
import random
from pathlib import Path

from tests.e2e.killing import Assassin, check_everything, publish_until_killed
from tests.e2e.load import Publisher, running, started

ROUNDS = 6
PUBLISHERS = 4
ANSWERS_BEFORE_KILL = (1000, 4000)
TEXT_BYTES = 1000
"""Long enough for a commit to take a while: an answer that comes before its commit is then caught
in nearly every round, of short events only in every second or third."""


async def test_every_answered_event_survives_kill_9_in_order_and_once(tmp_path: Path) -> None:
    choice = random.Random(6)
    assassin = Assassin()
    publishers = [
        Publisher(f"publisher-{each}", size=TEXT_BYTES, answered=assassin.answered)
        for each in range(PUBLISHERS)
    ]
    left_open = 0
    for _ in range(ROUNDS):
        with started(tmp_path) as hub:
            await check_everything(hub, publishers)
            assassin.aim(hub, choice.randint(*ANSWERS_BEFORE_KILL))
            await publish_until_killed(hub, publishers)
        left_open += sum(each.sent - len(each.sequences) for each in publishers)
    assert left_open, "no round was killed with publishes on their way, so nothing was shown"

    with running(tmp_path) as hub:
        await check_everything(hub, publishers)
        assassin.aim(None)
        async with hub.channel() as channel:
            # What was sent and not answered is published again, be it in the log or not.
            await asyncio.gather(*(each.run(channel, each.sent) for each in publishers))
        assert all(len(each.sequences) == each.sent for each in publishers)
        await check_everything(hub, publishers)

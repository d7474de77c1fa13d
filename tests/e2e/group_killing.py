"""Eight members of a group under load, two of which are killed over and over, and the hub too."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

import grpc

from switchboard.v1 import group_service_pb2
from switchboard.v1.group_pb2 import Group
from switchboard.v1.group_service_pb2_grpc import GroupServiceStub
from tests.e2e.load import Publisher
from tests.support.hub import HubProcess

if TYPE_CHECKING:
    from switchboard.v1.group_service_pb2_grpc import GroupServiceAsyncStub

ROOT = Path(__file__).parents[2]
GROUP = "crew"
MEMBERS = 8
MORTAL = 2
"""Of the members so many are killed; the others live on, and see the hub go and come back."""
BACKLOG = 3000
"""About so many events wait at most: so that what is published comes while members are killed."""
HELD_KILLS = 5
"""So many members are killed at least while they hold something, and as many as it comes."""
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Receipt:
    """A delivery that a member has read.

    Args:
        time_ns: When it read it.
        stream_ns: When the stream that it came on stood.
        attempt: Which attempt it was.
        member: Who read it.
    """

    time_ns: int
    stream_ns: int
    attempt: int
    member: "Member"


@dataclass(eq=False)
class Member:
    """One process.

    Args:
        diary: What it writes down.
        process: It.
        killed_ns: When it was about to be killed; None: never.
    """

    diary: Path
    process: subprocess.Popen[bytes]
    killed_ns: int | None = None

    @property
    def joined(self) -> bool:
        """Whether it has joined the group."""
        return self.diary.stat().st_size > 0

    def keep_hold(self) -> bool:
        """Has it settle nothing of what comes, until the hub is gone; True: it holds something."""
        held: set[str] = set()
        told = False
        for letter, _, words in _lines(self.diary):
            if letter == "s":
                told = False
                held.clear()
            elif letter == "h":
                told = True
            elif letter == "d":
                held.update(word.partition("/")[0] for word in words)
            elif letter == "a":
                held.difference_update(words)
        if not told:
            self.process.send_signal(signal.SIGUSR1)
        return told and bool(held)


class Crew:
    """The members, each a process of its own.

    Args:
        folder: For their diaries.
        mode: The group's mode, as the proto names it.
    """

    def __init__(self, folder: Path, mode: str) -> None:
        self._folder = folder
        self._mode = mode
        self._place = folder / "address"
        self.members: list[Member] = []
        self._at_work: list[Member] = []

    def find(self, hub: HubProcess) -> None:
        """Tells all members where the hub is."""
        new = self._place.with_suffix(".new")
        new.write_text(hub.address, encoding="ascii")
        new.replace(self._place)

    def start(self) -> None:
        """Starts a member."""
        diary = self._folder / f"diary-{len(self.members)}"
        diary.touch()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.group_member", self._place, GROUP, self._mode, diary],
            cwd=ROOT,
        )
        member = Member(diary, process)
        self.members.append(member)
        self._at_work.append(member)

    @property
    def ready(self) -> bool:
        """Whether each has joined the group."""
        return all(each.joined for each in self._at_work)

    @property
    def immortal(self) -> Member:
        """One that is never killed."""
        return self._at_work[0]

    @property
    def next(self) -> Member:
        """The one that is killed next: at work longest of those that may be."""
        return self._at_work[MEMBERS - MORTAL]

    def kill(self) -> None:
        """Kills the next one, and starts another."""
        member = self._at_work.pop(MEMBERS - MORTAL)
        member.killed_ns = time.monotonic_ns()
        member.process.kill()
        assert member.process.wait(30) == -signal.SIGKILL
        self.start()

    def __enter__(self) -> Self:
        for _ in range(MEMBERS):
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._at_work:
            # One that ended by itself has found something; its traceback is above.
            assert member.process.poll() is None, f"a member ended: {member.process.returncode}"
            member.process.kill()
            member.process.wait(30)


@dataclass
class Verdict:
    """What came of it.

    Args:
        events: How many were published.
        receipts: How many deliveries members have read.
        again: How many of them were not the first of their event.
        by_member: How many of those came because the member that had the event was killed.
        by_hub: How many came because the hub was.
        unread: Attempts that the hub counted, and that no member lived to read.
        unanswered: Events that are settled by acknowledgements whose answer nobody lived to read.
    """

    events: int
    receipts: int = 0
    again: int = 0
    by_member: int = 0
    by_hub: int = 0
    unread: int = 0
    unanswered: int = 0

    def __str__(self) -> str:
        return (
            f"{self.events} events settled, {self.receipts} deliveries read: {self.again} were not "
            f"the first of their event, {self.by_member} because the member that had it was "
            f"killed, {self.by_hub} because the hub was; {self.unread} deliveries were counted "
            f"that no member lived to read, and {self.unanswered} acknowledgements took effect "
            "whose answer none lived to read"
        )


@dataclass
class Records:
    """What the diaries say of each event, by sequence.

    Args:
        receipts: Deliveries, in order.
        attempted: Times at which somebody was about to acknowledge it, in order.
        answered: When its acknowledgement had been answered.
        keys: Its ordering key.
    """

    receipts: dict[int, list[Receipt]] = field(default_factory=lambda: defaultdict(list))
    attempted: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    answered: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    keys: dict[int, str] = field(default_factory=dict)

    @classmethod
    def read(cls, members: Sequence[Member], hub_kills: Sequence[int]) -> Self:
        """Reads all diaries.

        Args:
            members: Who wrote them.
            hub_kills: When the hub was about to be killed, each time.
        """
        records = cls()
        for member in members:
            stream_ns = 0
            for letter, time_ns, words in _lines(member.diary):
                if letter == "s":
                    stream_ns = time_ns
                elif letter == "d":
                    for word in words:
                        sequence, attempt, key = word.split("/")
                        receipt = Receipt(time_ns, stream_ns, int(attempt), member)
                        records.receipts[int(sequence)].append(receipt)
                        records.keys[int(sequence)] = key
                elif letter in "ak":
                    kept = records.attempted if letter == "a" else records.answered
                    for word in words:
                        kept[int(word)].append(time_ns)
        for each in (*records.attempted.values(), *records.answered.values()):
            each.sort()
        for receipts in records.receipts.values():
            # What a dead hub had sent may be read after what its heir sent.
            receipts.sort(key=lambda each: (bisect(hub_kills, each.stream_ns), each.time_ns))
        return records


def _lines(diary: Path) -> Iterator[tuple[str, int, list[str]]]:
    text = diary.read_text(encoding="utf-8")
    for line in text[: text.rfind("\n") + 1].splitlines():
        letter, time_ns, *words = line.split(" ")
        yield letter, int(time_ns), words


def judge(records: Records, sequences: Sequence[int], hub_kills: Sequence[int]) -> Verdict:
    """Checks what became of the events of a group.

    Args:
        records: What its members have seen.
        sequences: The events that there were.
        hub_kills: When the hub was about to be killed, each time.

    Raises:
        AssertionError: It is not what the group promises.
    """
    assert set(records.receipts) == set(sequences), "other events than those published"
    verdict = Verdict(len(sequences))
    for sequence in sequences:
        receipts, answered = records.receipts[sequence], records.answered.get(sequence, [])
        assert sequence in records.attempted, f"nobody acknowledged {sequence}"
        assert len(answered) <= 1, f"{sequence} was acknowledged twice"
        verdict.receipts += len(receipts)
        verdict.unanswered += not answered
        verdict.unread += max(0, max(each.attempt for each in receipts) - len(receipts))
        for before, after in pairwise(receipts):
            verdict.again += 1
            if _ended(before, after.time_ns, hub_kills):
                verdict.by_hub += 1
            else:
                killed_ns = before.member.killed_ns
                assert killed_ns is not None, f"{sequence} came again, and nobody was killed"
                assert killed_ns < after.time_ns, f"{sequence} came again before anybody was killed"
                assert after.attempt > before.attempt, f"the attempts of {sequence} do not rise"
                verdict.by_member += 1
        for time_ns in answered:
            # What came on a stream that the hub's end had cut was sent before that, however long
            # it lay unread.
            assert all(
                each.time_ns < time_ns or _ended(each, time_ns, hub_kills) for each in receipts
            ), f"{sequence} was delivered after its acknowledgement had been answered"
    return verdict


def _ended(receipt: Receipt, time_ns: int, hub_kills: Sequence[int]) -> bool:
    """Whether the hub was killed between the begin of a delivery's stream and a time."""
    return bisect(hub_kills, receipt.stream_ns) < bisect(hub_kills, time_ns)


def judge_order(records: Records, keys: int) -> None:
    """Checks that each event was delivered only after the one before it with its key was settled.

    Args:
        records: What the members have seen.
        keys: How many keys there are.

    Raises:
        AssertionError: It was not.
    """
    lines: dict[str, list[int]] = defaultdict(list)
    for sequence in sorted(records.keys):
        lines[records.keys[sequence]].append(sequence)
    assert len(lines) == keys, "other keys than those published"
    for key, line in lines.items():
        for before, after in pairwise(line):
            # Its acknowledgement was on its way: not answered perhaps, for who sent it, or the
            # hub, may have been killed meanwhile.
            sent_ns = records.attempted[before][0]
            first_ns = records.receipts[after][0].time_ns
            assert sent_ns < first_ns, f"{after} came before {before} was settled, both of {key}"


class Scene:
    """A hub, its crew and a publisher.

    Args:
        folder: For all that is stored.
        mode: The group's mode, as the proto names it.
        keys: How many ordering keys the events have; 0: none.
    """

    def __init__(self, folder: Path, mode: str, keys: int = 0) -> None:
        self._folder = folder
        self.crew = Crew(folder, mode)
        self.publisher = Publisher("load", batch=64, window=8, keys=keys)
        self.keys = keys
        self.hub_kills: list[int] = []
        self.hub_kills_due = 0
        self.member_kills = 0
        self.held_kills = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Starts everything; ends it."""
        self._hub = HubProcess(self._folder / "hub").start()
        try:
            self.crew.find(self._hub)
            with self.crew:
                yield
        finally:
            self._hub.kill()

    async def publish(self, total: int) -> None:
        """Publishes as fast as the group settles: so many events, and on while any must die."""
        while self._goes_on(total):
            hub, kills = self._hub, len(self.hub_kills)
            try:
                async with hub.channel() as channel:
                    await self._publish(channel, total)
            except grpc.aio.AioRpcError:
                assert len(self.hub_kills) > kills, "the stream broke, and nobody killed the hub"
                await self._replaced(hub)

    def _goes_on(self, total: int) -> bool:
        return (
            len(self.publisher.sequences) < total
            or self.held_kills < HELD_KILLS
            or len(self.hub_kills) < self.hub_kills_due
        )

    async def _replaced(self, hub: HubProcess) -> None:
        await _until(lambda: self._hub is not hub)

    async def _publish(self, channel: grpc.aio.Channel, total: int) -> None:
        while self._goes_on(total):
            goal = len(self.publisher.sequences) + BACKLOG // 2
            await self.publisher.run(channel, goal)
            await _lag(channel, BACKLOG // 2)

    async def kill_members(self, publishing: "asyncio.Task[None]") -> None:
        """Kills members until all is published, each after some more events are settled.

        Every other one is killed once it is seen to hold something, those between whatever they are
        doing: on a busy machine these may have read nothing yet.
        """
        while not publishing.done():
            goal = len(self.publisher.sequences) + BACKLOG // 2
            member, hold = self.crew.next, self.member_kills % 2 == 0
            await _until(
                lambda: publishing.done() or (member.joined and (not hold or member.keep_hold()))  # noqa: B023 - waited for here
            )
            # In the end too: one that was told to hold what it has would do so for ever.
            self.held_kills += hold and not publishing.done()
            await asyncio.to_thread(self.crew.kill)
            self.member_kills += 1
            await _until(lambda: publishing.done() or len(self.publisher.sequences) >= goal)  # noqa: B023 - waited for here

    async def kill_hub(self, answered: int) -> None:
        """Kills the hub once so many events are published and a member holds some; starts it."""
        await _until(lambda: len(self.publisher.sequences) >= answered)
        await _until(self.crew.immortal.keep_hold)
        self.hub_kills.append(time.monotonic_ns())
        os.kill(self._hub.process.pid, signal.SIGKILL)
        await asyncio.to_thread(self._hub.kill)
        again = HubProcess(self._folder / "hub")
        await asyncio.to_thread(again.start)
        self.crew.find(again)
        self._hub = again

    async def settled(self) -> Group:
        """Waits until the group has settled everything."""
        async with self._hub.channel() as channel:
            return await _lag(channel, 0)


async def _lag(channel: grpc.aio.Channel, most: int) -> Group:
    """Waits until at most so many events are not settled."""
    request = group_service_pb2.GetGroupRequest(group=GROUP)
    stub: GroupServiceAsyncStub = GroupServiceStub(channel)
    while True:
        group = (await stub.GetGroup(request)).group
        if group.progress.lag_events <= most:
            return group
        await asyncio.sleep(LOOK_SECONDS)


async def _until(condition: Callable[[], bool]) -> None:
    """Waits for what other processes do, which nothing tells."""
    while True:
        if condition():
            return
        await asyncio.sleep(LOOK_SECONDS)


async def run(scene: Scene, total: int, hub_kills: Sequence[int]) -> Verdict:
    """Has a group settle events while members are killed all the time, and the hub at times.

    Args:
        scene: Where.
        total: How many events, at least.
        hub_kills: After how many published events the hub is killed, each time.

    Returns:
        What came of it.

    Raises:
        AssertionError: It is not what the group promises.
    """
    scene.hub_kills_due = len(hub_kills)
    with scene.open():
        await _until(lambda: scene.crew.ready)
        async with asyncio.timeout(60 + total / 200), asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(scene.publish(total))
            tasks.create_task(scene.kill_members(publishing))
            for answered in hub_kills:
                await scene.kill_hub(answered)
        group = await scene.settled()
    assert group.progress.dead_letters == 0
    assert group.progress.position >= max(scene.publisher.sequences)
    records = Records.read(scene.crew.members, scene.hub_kills)
    verdict = judge(records, scene.publisher.sequences, scene.hub_kills)
    if scene.keys:
        judge_order(records, scene.keys)
    return verdict

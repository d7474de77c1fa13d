"""Load on the logs of several nodes, and what must be true of it afterwards."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from switchboard_server.core.errors import UnavailableError
from tests.support.cluster_logs import LogNode
from tests.support.events import read_back, some
from tests.support.logs import Recorder


@dataclass
class Member:
    """A node and what its log told.

    Args:
        node: The node.
        told: Takes what it tells.
    """

    node: LogNode
    told: Recorder = field(default_factory=Recorder)

    @property
    def bodies(self) -> list[str]:
        """The bodies of all events that were told, in order."""
        return [
            each.body.decode() for batch in self.told.batches for each in read_back(batch.frames)
        ]

    @property
    def sequences(self) -> list[int]:
        """Their sequences."""
        return [each.sequence for batch in self.told.batches for each in read_back(batch.frames)]


@dataclass
class Load:
    """Appends from many tasks on some nodes until it is ended.

    Args:
        members: The nodes.
        callers: Tasks on each.
        size: Events of an append.

    Attributes:
        answered: By its first body, the sequence that an append was answered with.
        failed: The first bodies of those that failed, whose outcome is not known.
    """

    members: Sequence[Member]
    callers: int = 8
    size: int = 3
    answered: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    _stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _progress: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        """Begins."""
        self._tasks = [
            asyncio.create_task(self._call(member, f"{member.node.name}.{number}"))
            for member in self.members
            for number in range(self.callers)
        ]

    async def more(self, count: int) -> None:
        """Waits until so many more appends have been answered."""
        goal = len(self.answered) + count
        while len(self.answered) < goal:
            self._progress.clear()
            await self._progress.wait()

    async def stop(self) -> None:
        """Ends it, and waits for the last answers."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _call(self, member: Member, name: str) -> None:
        number = 0
        while not self._stopping:
            number += 1
            texts = [f"{name}.{number}.{index}" for index in range(self.size)]
            try:
                appended = await member.node.log.append(some(*texts, publisher=name))
            except UnavailableError:
                self.failed.append(texts[0])
            else:
                self.answered[texts[0]] = appended.first
            self._progress.set()

    def check(self, others: int = 0) -> None:
        """Checks what every node was told against what was answered.

        Every answered append is there once, whole, where the answer said; one that failed at most
        once; all nodes saw the same in the same order without a hole.

        Args:
            others: So many events are not of this load.
        """
        first = self.members[0]
        for member in self.members:
            sequences = member.sequences
            assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
            assert max(Counter(member.bodies).values()) == 1
        told = dict(zip(first.sequences, first.bodies, strict=True))
        for member in self.members[1:]:
            for sequence, body in zip(member.sequences, member.bodies, strict=True):
                assert told.get(sequence, body) == body
        places = {body: sequence for sequence, body in told.items()}
        for body, sequence in self.answered.items():
            for index in range(self.size):
                assert places[f"{body[:-1]}{index}"] == sequence + index
        expected = len(self.answered) * self.size + others
        assert expected <= len(told) <= expected + len(self.failed) * self.size


async def caught_up(members: Sequence[Member]) -> None:
    """Waits until every node has been told what any has read."""
    last = max(member.node.log.window.last for member in members)
    for member in members:
        await member.told.until(lambda told: bool(told.batches) and told.batches[-1].last >= last)

"""Whatever happens to nodes, seats and members: no event is lost, and none comes out of turn."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from switchboard_server.core.cluster.seats import all_seats
from switchboard_server.core.errors import ResourceExhaustedError, UnavailableError
from switchboard_server.core.events import Begin
from switchboard_server.core.groups.config import Mode, RetryPolicy
from switchboard_server.core.groups.entries import Outcome
from tests.support.deliveries import Got
from tests.support.loop import passing, turns
from tests.unit.core.cluster.world import Node, Worker, World, a_cluster, add_node

STEPS = 80
PATIENT = RetryPolicy(100, 0, 0)
HOUR = 3600
T = TypeVar("T")

MODES = {"q": Mode.QUEUE, "k": Mode.KEY_SHARED}


@dataclass
class Work:
    """A member, and what it holds by its own account.

    Attributes:
        place: The stay of its stream with one holder of the group, whose deliveries count.
        held: What it holds of that.
    """

    worker: Worker
    credit: int
    place: object = None
    held: dict[str, Got] = field(default_factory=dict)


@dataclass
class Account:
    """What has become of the events of a group.

    Attributes:
        published: All of them, with their keys.
        settled: Those of which it was said.
        settling: Those of which it was asked.
        unknown: Those of which the answer was that nobody knows.
        received: Those that a member has got.
    """

    published: dict[int, str] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    settling: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    received: set[int] = field(default_factory=set)


class Story:
    """A cluster to which things happen.

    Args:
        world: The cluster.
        seed: Decides what.
    """

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.accounts = {name: Account() for name in MODES}
        self.works: list[Work] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.count = 0

    async def run(self) -> None:
        """Lets things happen."""
        actions: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (20, self.publish),
            (8, self.join),
            (25, self.read),
            (25, self.settle),
            (3, self.leave),
            (6, self.move),
            (2, self.kill),
            (3, self.cut),
            (3, self.refuse),
            (8, self.pass_time),
        ]
        choices, weights = [each for _, each in actions], [weight for weight, _ in actions]
        for name in MODES:
            await self.join(name)
        for _ in range(STEPS):
            await self.chance.choices(choices, weights)[0]()

    # --- what happens ----------------------------------------------------------------------------

    async def publish(self) -> None:
        texts = [str(self.count + index) for index in range(self.chance.randint(1, 6))]
        self.count += len(texts)
        key = self.chance.choice(["", "a", "b", "c"])
        first = await self.node().publish(*texts, key=key)
        for account in self.accounts.values():
            account.published.update((first + index, key) for index in range(len(texts)))

    async def join(self, name: str = "") -> None:
        if len(self.works) < 8:
            name, credit = name or self.chance.choice(list(MODES)), self.chance.randint(1, 5)
            node = self.node()

            async def joining() -> None:
                worker = await node.join(
                    name,
                    credit=credit,
                    mode=MODES[name],
                    retry=PATIENT,
                    deadline=HOUR,
                    start=Begin.EARLIEST,
                )
                self.works.append(Work(worker, credit))

            await self.soon(joining())

    async def read(self) -> None:
        for work in self.some(self.works):
            hearing = asyncio.create_task(work.worker.hear())
            await turns(self.chance.choice([5, 30]))
            hearing.cancel()
            await asyncio.wait([hearing])
            if not hearing.cancelled() and hearing.exception() is not None:
                self.lose(work)
                continue
            self.receive(work)

    async def settle(self) -> None:
        for work in self.some(self.works):
            got = self.some(list(work.held.values()))
            if not got:
                continue
            if self.chance.random() < 0.2:
                await self.soon(self.reject(work, got))
            else:
                await self.soon(self.acknowledge(work, got))

    async def leave(self) -> None:
        if self.works:
            work = self.chance.choice(self.works)
            self.works.remove(work)
            work.worker.member.close()

    async def move(self) -> None:
        seat, node = self.chance.choice(all_seats()), self.node()
        if node.carrier.address:
            await self.world.give(seat, node, politely=self.chance.random() < 0.5)

    async def kill(self) -> None:
        node = self.node()
        vacant = await self.world.kill(node)
        await turns(self.chance.randint(0, 30))
        heir = await add_node(self.world, f"n{self.world.connections}")
        for seat in vacant:
            await self.world.seize(seat, self.chance.choice([heir, self.connected()]))
        for work in [each for each in self.works if each.worker.node is node]:
            self.lose(work)

    async def cut(self) -> None:
        node = self.node()
        if not node.carrier.address or len(self.world.post.carriers) < 2:
            return
        for seat in self.world.cut(node):
            await self.world.seize(seat, self.connected())
        await turns(self.chance.randint(0, 30))
        if self.chance.random() < 0.7:
            self.world.connect(node)
            self.hear_of_seats()

    async def refuse(self) -> None:
        def refuse(_message: object) -> None:
            if self.chance.random() < 0.5:
                raise ResourceExhaustedError("OVERLOADED", "too much waits")

        self.world.post.refuse = refuse
        await self.read()
        await self.settle()
        self.world.post.refuse = lambda _message: None

    async def pass_time(self) -> None:
        await passing(self.chance.choice([0.05, 0.3, 1]))

    # --- what is seen of it ----------------------------------------------------------------------

    def receive(self, work: Work) -> None:
        """Checks what a member has got."""
        account = self.accounts[work.worker.name]
        if work.worker.place is not work.place:
            work.place, work.held = work.worker.place, {}
        while work.worker.waiting:
            got = work.worker.waiting.popleft()
            assert got.sequence in account.published
            assert got.sequence not in account.settled, f"{got} was settled, and came again"
            if MODES[work.worker.name] is Mode.KEY_SHARED:
                self.check_turn(got, account)
            account.received.add(got.sequence)
            work.held[got.ack_id] = got
        assert len(work.held) <= work.credit

    def check_turn(self, got: Got, account: Account) -> None:
        """Checks that all events of its key that come before are settled."""
        key = account.published[got.sequence]
        before = {
            sequence
            for sequence, other in account.published.items()
            if key and other == key and sequence < got.sequence
        }
        assert before <= account.settled | account.settling, f"{got} came before its turn"

    async def acknowledge(self, work: Work, got: Sequence[Got]) -> None:
        account, node = self.accounts[work.worker.name], self.node()
        account.settling.update(each.sequence for each in got)
        for each in got:
            work.held.pop(each.ack_id, None)
        try:
            found = await node.groups.acknowledge(work.worker.name, [each.ack_id for each in got])
        except UnavailableError:
            account.unknown.update(each.sequence for each in got)
            raise
        for each, outcome in zip(got, found, strict=True):
            assert outcome in (Outcome.OK, Outcome.EXPIRED, Outcome.ALREADY_SETTLED)
            if outcome is not Outcome.EXPIRED:
                account.settled.add(each.sequence)

    async def reject(self, work: Work, got: Sequence[Got]) -> None:
        names = [each.ack_id for each in got]
        for name in names:
            work.held.pop(name, None)
        await self.node().groups.reject(work.worker.name, names)

    async def soon(self, work: Awaitable[None]) -> None:
        """Does something that may take until the cluster is whole again."""

        async def doing() -> None:
            with suppress(UnavailableError, ResourceExhaustedError):
                await work  # Else it may have been done and may not.

        task = asyncio.create_task(doing())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        await turns(self.chance.choice([0, 5, 30]))
        if task.done():
            task.result()

    def lose(self, work: Work) -> None:
        work.worker.member.close()
        if work in self.works:
            self.works.remove(work)

    def node(self) -> Node:
        return self.chance.choice(self.world.nodes)

    def connected(self) -> Node:
        return self.chance.choice([each for each in self.world.nodes if each.carrier.address])

    def hear_of_seats(self) -> None:
        for seat, owner in self.world.owners.items():
            self.world.post.hold(seat, owner.carrier.address)

    def some(self, things: Sequence[T]) -> list[T]:
        return [each for each in things if self.chance.random() < 0.6]

    # --- how it ends -----------------------------------------------------------------------------

    async def heal(self) -> None:
        """Makes the cluster whole."""
        for node in self.world.nodes:
            if not node.carrier.address:
                self.world.connect(node)
        for seat in all_seats():
            if seat not in self.world.owners:
                await self.world.seize(seat, self.connected())
        self.hear_of_seats()
        while self.tasks:
            await passing(1)

    async def finish(self) -> None:
        """Settles all that is left."""
        await self.heal()
        for work in list(self.works):
            self.lose(work)
        await turns()
        for name, account in self.accounts.items():
            node = self.node()
            worker = await node.join(
                name, mode=MODES[name], retry=PATIENT, deadline=HOUR, credit=100
            )
            work = Work(worker, 100)
            for _ in range(200):
                hearing = asyncio.create_task(worker.hear())
                await turns()
                if not hearing.done():
                    hearing.cancel()
                    await asyncio.wait([hearing])
                    await passing(0.1)
                self.receive(work)
                if work.held:
                    await self.acknowledge(work, list(work.held.values()))
                elif (await node.groups.view(name)).lag_events == 0:
                    break
            assert account.settled | account.unknown == set(account.published)
            assert account.received == set(account.published)
            told = await node.groups.view(name)
            assert (told.lag_events, told.dead_letters, len(told.members)) == (0, 0, 1)
            worker.member.close()
        for node in self.world.nodes:
            assert node.events.members == 0


@pytest.mark.parametrize("seed", range(40))
async def test_no_event_is_lost_whatever_happens(seed: int) -> None:
    async with a_cluster() as world:
        story = Story(world, seed)
        await story.run()
        await story.finish()

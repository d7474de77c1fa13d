"""Clients that keep hubs busy, and the checks of what they were told."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import grpc

from switchboard.v1 import event_service_pb2, group_service_pb2, subscription_pb2
from switchboard.v1.event_pb2 import Event
from switchboard.v1.group_service_pb2_grpc import GroupServiceStub
from tests.e2e.cluster.nodes import LOOK_SECONDS, Hubs
from tests.e2e.cluster.places import CALL_SECONDS, LEASE_SECONDS, Places
from tests.e2e.cluster.traffic import (
    PROBE,
    RETRY_SECONDS,
    Group,
    LastingPublisher,
    Subscriber,
    Tally,
    Worker,
    keep_on,
)
from tests.e2e.group_killing import judge_order
from tests.e2e.load import stub

if TYPE_CHECKING:
    from tests.e2e.cluster.faults import Fault

HEAL_SECONDS = 60.0
"""After a fault has ended, all has to be well again within so long."""
BACKLOG = 4000
"""No more is published while a group has about so many events to settle."""
KEYS = 50


@dataclass(frozen=True)
class Row:
    """What was seen of one fault.

    Args:
        fault: Its name.
        outage: Seconds that it lasted.
        pause: The longest time, in seconds, that a publisher waited for an answer.
        events: Seconds from its end until each hub took an event, and all subscribers and groups
            had it.
        places: Seconds from its end until every hub said who is there.
        published: Events that were sent during it.
        answered: Those that were answered.
        delivered: Deliveries to fan-out subscribers.
        settled: Events that groups settled.
        redelivered: Deliveries to groups that were not the first of their event.
        refused: Calls and events that a hub refused, with a reason.
        lost: Calls that failed because their connection did, or their hub was silent.
    """

    fault: str
    outage: float
    pause: float
    events: float
    places: float
    published: int
    answered: int
    delivered: int
    settled: int
    redelivered: int
    refused: int
    lost: int


class Trial:
    """Load on hubs: publishers, fan-out subscribers, two groups, rooms, a directory.

    Args:
        hubs: The hubs.
        rate: Events a second that each publisher publishes at most.
        warm: So many events of each publisher are answered at least between two faults.
    """

    def __init__(self, hubs: Hubs, rate: float, warm: int = 500) -> None:
        self.hubs = hubs
        self._warm = warm
        self.tally = Tally()
        count = len(hubs.nodes)
        self.publishers = [
            LastingPublisher(f"publisher-{number}", KEYS, rate, self._behind)
            for number in range(count)
        ]
        self.subscribers = [Subscriber(hubs) for _ in range(count)]
        self.queue = Group("crew", subscription_pb2.DELIVERY_MODE_QUEUE)
        self.lines = Group("lines", subscription_pb2.DELIVERY_MODE_KEY_SHARED)
        self.groups = (self.queue, self.lines)
        self.places = Places(hubs, self.tally)
        self._probes: dict[str, int] = {}
        self._publishing: list[asyncio.Task[None]] = []

    # --- life -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the clients going, and waits first until all is well.

        Raises:
            ExceptionGroup: With the AssertionError of a client that saw what must not be.
        """
        async with asyncio.TaskGroup() as tasks:
            begun = []

            def keep(
                first: int, what: str, work: Callable[[int], Awaitable[None]]
            ) -> "asyncio.Task[None]":
                task = tasks.create_task(keep_on(self.hubs, first, self.tally, what, work))
                begun.append(task)
                return task

            self._publishing = [
                keep(at, "publish", partial(self._publish, each))
                for at, each in enumerate(self.publishers)
            ]
            for at, subscriber in enumerate(self.subscribers):
                keep(at, "subscribe", subscriber.read)
            for at, guest in enumerate(self.places.guests):
                keep(at, "connect", guest.stand)
            for at, instance in enumerate(self.places.instances):
                keep(at, "register", instance.live)
            for group in self.groups:
                for at in range(len(self.hubs.nodes)):
                    worker = Worker(self.hubs, group, self.tally)
                    keep(at, f"work for {group.name}", worker.work)
                    keep(at + 1, f"settle for {group.name}", worker.settle)
            async with asyncio.timeout(HEAL_SECONDS):
                await self.events_pass()
            await self.places.agree(HEAL_SECONDS)
            yield
            for task in begun:
                task.cancel()

    def _behind(self) -> bool:
        """Whether a group has so much to do that nothing more should be published for now."""
        answered = sum(len(each.sequences) for each in self.publishers)
        return answered - min(len(group.settled) for group in self.groups) > BACKLOG

    async def _publish(self, publisher: LastingPublisher, number: int) -> None:
        await publisher.run(self.hubs.channel(number))

    async def meet(self, fault: "Fault") -> Row:
        """Lets a fault happen under load, and waits until all is well again.

        Raises:
            AssertionError: It is not in time.
        """
        before = self._counts()
        for publisher in self.publishers:
            await publisher.more(self._warm)
        began = time.monotonic()
        await fault.befall()
        ended = time.monotonic()
        events, places = await asyncio.gather(
            self._heal(self.events_pass()), self.places.agree(LEASE_SECONDS)
        )
        after = self._counts()
        return Row(
            fault.name,
            ended - began,
            max(each.pause(began) for each in self.publishers),
            events,
            places,
            **{name: after[name] - before[name] for name in after},
        )

    async def _heal(self, check: Awaitable[None]) -> float:
        began = time.monotonic()
        try:
            async with asyncio.timeout(HEAL_SECONDS):
                await check
        except TimeoutError:
            raise AssertionError(
                f"events do not pass {HEAL_SECONDS} s after the fault: {self._state()}"
            ) from None
        return time.monotonic() - began

    async def events_pass(self) -> None:
        """Has every hub take an event, and waits until all subscribers and groups have them."""
        sequences = set()
        for number in range(len(self.hubs.nodes)):
            sequences.add(await self._probe(number))
        await asyncio.gather(
            *(each.reach(max(sequences)) for each in self.subscribers),
            *(group.settles(sequences) for group in self.groups),
        )

    async def _probe(self, number: int) -> int:
        """Publishes an event at a hub until it is answered; its sequence."""
        event = Event(id=f"{len(self._probes)}", type=PROBE, source_service="probe")
        while True:
            try:
                answer = await stub(self.hubs.channel(number)).Publish(
                    event_service_pb2.PublishRequest(event=event), timeout=CALL_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                self.tally.note(error, f"probe hub {number + 1}")
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._probes[event.id] = answer.sequence
                return answer.sequence

    # --- judging ----------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Publishes no more, waits until all is delivered and settled, and checks all of it.

        Raises:
            AssertionError: Something is not as it was promised.
        """
        for task in self._publishing:
            task.cancel()
        await asyncio.gather(*self._publishing, return_exceptions=True)
        answered = {each for publisher in self.publishers for each in publisher.sequences}
        answered.update(self._probes.values())
        try:
            async with asyncio.timeout(HEAL_SECONDS):
                await asyncio.gather(
                    *(each.reach(max(answered)) for each in self.subscribers),
                    *(group.settles(answered) for group in self.groups),
                )
                for group in self.groups:
                    for number in range(len(self.hubs.nodes)):
                        await self._caught_up(number, group)
        except TimeoutError:
            missing = {group.name: sorted(answered - group.settled)[:10] for group in self.groups}
            read = [len(each.events) for each in self.subscribers]
            raise AssertionError(
                f"of {max(answered)} events {read} were delivered; never settled: {missing}"
            ) from None
        self._judge_log()
        judge_order(self.lines.records(), KEYS)

    async def _caught_up(self, number: int, group: Group) -> None:
        """Waits until a hub says that a group has settled everything, and given up nothing."""
        stub = GroupServiceStub(self.hubs.channel(number))
        request = group_service_pb2.GetGroupRequest(group=group.name)
        while True:
            try:
                progress = (await stub.GetGroup(request, timeout=CALL_SECONDS)).group.progress
            except grpc.aio.AioRpcError as error:
                self.tally.note(error, "get group")
            else:
                assert progress.dead_letters == 0, progress
                if progress.lag_events == 0:
                    return
            await asyncio.sleep(LOOK_SECONDS)

    def _judge_log(self) -> None:
        """Checks that the log, as subscribers saw it, is what the answers said."""
        shortest = min(len(each.events) for each in self.subscribers)
        log = self.subscribers[0].events
        for other in self.subscribers[1:]:
            assert other.events[:shortest] == log[:shortest], "two subscribers saw different logs"
        twice = [event for event, count in Counter(log).items() if count > 1 and event[0]]
        assert not twice, f"{len(twice)} events entered the log twice, such as {twice[:5]}"
        numbers: dict[str, list[int]] = defaultdict(list)
        for source, name in log:
            if source.startswith("publisher-"):
                numbers[source].append(int(name))
        for publisher in self.publishers:
            found = numbers[publisher.source]
            assert found == list(range(len(found))), f"{publisher.source} is not in order"
            for number, sequence in enumerate(publisher.sequences):
                assert log[sequence - 1] == (publisher.source, str(number)), (
                    f"{publisher.source}/{number} is not at {sequence}, where its answer said"
                )
        for name, sequence in self._probes.items():
            assert log[sequence - 1] == ("probe", name), f"probe {name} is not at {sequence}"

    def _state(self) -> str:
        """Where everybody is, for a message."""
        read = [len(each.events) for each in self.subscribers]
        groups = ", ".join(
            f"{each.name} has received {len(each.first_ns)} up to {max(each.first_ns, default=0)} "
            f"and settled {len(each.settled)} of them ({dict(each.outcomes)})"
            for each in self.groups
        )
        last = dict(list(self._probes.items())[-len(self.hubs.nodes) :])
        return f"subscribers are at {read}, {groups}, the last probes at {last}; {self.tally}"

    def _counts(self) -> dict[str, int]:
        return {
            "published": sum(each.sent for each in self.publishers) + len(self._probes),
            "answered": sum(len(each.sequences) for each in self.publishers) + len(self._probes),
            "delivered": sum(len(each.events) for each in self.subscribers),
            "settled": sum(len(group.settled) for group in self.groups),
            "redelivered": sum(group.redelivered for group in self.groups),
            "refused": self.tally.refused.total(),
            "lost": self.tally.lost.total(),
        }

    @property
    def totals(self) -> Row:
        """What was seen in all."""
        return Row("all", 0.0, 0.0, 0.0, 0.0, **self._counts())

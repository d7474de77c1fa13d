"""Publishers, subscribers and members of groups that go on at another hub when one fails them."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, cast

import grpc
from google.protobuf.duration_pb2 import Duration

from switchboard.v1 import errors_pb2, event_service_pb2, subscription_pb2
from switchboard.v1.event_pb2 import Event, Filter
from tests.e2e.cluster.nodes import Hubs
from tests.e2e.group_killing import Member, Receipt, Records
from tests.e2e.load import TYPE, Publisher, reason_of, stub

RETRY_SECONDS = 0.1
PROBE = "load.probe"
"""Type of single events by which it is tried whether all is well again."""
_SETTLED = (
    event_service_pb2.SETTLE_OUTCOME_OK,
    event_service_pb2.SETTLE_OUTCOME_ALREADY_SETTLED,
)
_MOST_ACK_IDS = 500
_BATCH = 32
_ANYBODY = cast("Member", None)  # Order is judged by time alone, whoever it came to.
_DOWN = (
    grpc.StatusCode.UNAVAILABLE,
    # What grpc.aio makes of a call, or of a write, that the end of its connection interrupts.
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    # A hub that is frozen.
    grpc.StatusCode.DEADLINE_EXCEEDED,
)


class RefusedError(Exception):
    """The hub has not accepted events of a stream that goes on."""


@dataclass
class Tally:
    """What is counted over all clients."""

    refused: Counter[str] = field(default_factory=Counter)
    """Calls and events that a hub refused, by its reason."""
    lost: Counter[str] = field(default_factory=Counter)
    """Calls that failed because of their connection, or of a hub that is silent, by status."""
    last: dict[str, str] = field(default_factory=dict)
    """What the last failure said, by what failed."""

    def note(self, error: Exception, what: str) -> None:
        """Counts a failure.

        Args:
            error: What failed it.
            what: What failed.

        Raises:
            AssertionError: It is none that a client has to expect while something is down.
        """
        if isinstance(error, RefusedError):
            self.refused[f"{what}: {error}"] += 1
            return
        assert isinstance(error, grpc.aio.AioRpcError), error
        assert error.code() in _DOWN, error
        self.last[what] = error.details() or ""
        reason, _ = reason_of(error)
        if reason:
            self.refused[f"{what}: {reason}"] += 1
        else:
            self.lost[f"{what}: {error.code().name}"] += 1


async def keep_on(
    hubs: Hubs, first: int, tally: Tally, what: str, work: Callable[[int], Awaitable[None]]
) -> NoReturn:
    """Does something that needs a hub, for ever: at the next one each time it fails.

    Args:
        hubs: The hubs.
        first: The number of the first one.
        tally: Counts the failures.
        what: What it is.
        work: Does it at the hub of a number.
    """
    number = first
    while True:
        try:
            await work(number)
        except (grpc.aio.AioRpcError, RefusedError) as error:
            tally.note(error, what)
        number = (number + 1) % len(hubs.nodes)
        # Nothing tells when a hub is back.
        await asyncio.sleep(RETRY_SECONDS)


class LastingPublisher(Publisher):
    """Publishes numbered events, in a pipelined stream, whatever happens.

    Args:
        source: The events' source.
        keys: How many ordering keys the events have.
        rate: Events a second at most.
        hold: Says whether to publish nothing now.
    """

    def __init__(self, source: str, keys: int, rate: float, hold: Callable[[], bool]) -> None:
        super().__init__(
            source, batch=_BATCH, window=16, keys=keys, pace=self._wait, answered=self._answer
        )
        self.answer_times = [time.monotonic()]
        """When answers came, those of a tenth of a second as one."""
        self._rate = rate
        self._hold = hold
        self._due = 0.0
        self._moved = asyncio.Event()

    async def _wait(self) -> None:
        now = time.monotonic()
        await asyncio.sleep(max(0.0, self._due - now))
        while self._hold():
            await asyncio.sleep(RETRY_SECONDS)
            # Nobody waits for an answer meanwhile.
            self.answer_times[-1] = time.monotonic()
        self._due = max(self._due, time.monotonic() - 1) + _BATCH / self._rate

    def _answer(self, _: int) -> None:
        self._moved.set()
        now = time.monotonic()
        if now - self.answer_times[-1] >= 0.1:
            self.answer_times.append(now)

    def _take(self, ack: event_service_pb2.PublishAck) -> None:
        refused = [each.result.error for each in ack.exceptions if each.result.HasField("error")]
        if refused:
            # What was accepted beside it, is a duplicate when it is published again.
            raise RefusedError(errors_pb2.ErrorReason.Name(refused[0].reason))
        super()._take(ack)

    async def more(self, count: int) -> None:
        """Waits until so many more events are answered."""
        goal = len(self.sequences) + count
        while len(self.sequences) < goal:
            self._moved.clear()
            await self._moved.wait()

    def pause(self, since: float) -> float:
        """The longest time without an answer from a time on until now, in seconds."""
        now = time.monotonic()
        times = [since, *(each for each in self.answer_times if each > since), now]
        return max(after - before for before, after in itertools.pairwise(times))


class Subscriber:
    """Reads the whole log in its order, event by event, and resumes where it was."""

    def __init__(self, hubs: Hubs) -> None:
        self._hubs = hubs
        self.events: list[tuple[str, str]] = []
        """Source and id of each, in the order of the log: the first has sequence 1."""
        self.streams = 0
        """How many streams it took."""
        self._moved = asyncio.Event()

    async def read(self, number: int) -> None:
        """Reads from a hub until it fails.

        Raises:
            AssertionError: An event is missing, came twice, or out of order.
        """
        request = subscription_pb2.SubscribeRequest(heartbeat_interval=Duration(seconds=2))
        if self.events:
            request.after_sequence = len(self.events)
        else:
            request.start_at = subscription_pb2.START_AT_EARLIEST
        self.streams += 1
        async for response in stub(self._hubs.channel(number)).Subscribe(request):
            assert not response.HasField("gap"), response
            for delivery in response.deliveries:
                event = delivery.event
                expected = len(self.events) + 1
                assert event.sequence == expected, f"{event.sequence} came and not {expected}"
                self.events.append((event.source_service, event.id))
            if response.deliveries:
                self._moved.set()

    async def reach(self, sequence: int) -> None:
        """Waits until it has read so far."""
        while len(self.events) < sequence:
            self._moved.clear()
            await self._moved.wait()


class Group:
    """What the members of a group have seen together, by sequence.

    Args:
        name: Its name.
        mode: Its mode.
    """

    def __init__(self, name: str, mode: subscription_pb2.DeliveryMode.ValueType) -> None:
        self.name = name
        self.mode = mode
        self.deliveries = 0
        self.first_ns: dict[int, int] = {}
        """When it was first delivered."""
        self.attempted_ns: dict[int, int] = {}
        """When its acknowledgement was first sent."""
        self.keys: dict[int, str] = {}
        """Its ordering key, where it has one."""
        self.settled: set[int] = set()
        """What was acknowledged, by an answer, or by a call whose answer was lost and that had to
        be repeated when the group did not know the delivery any more."""
        self.outcomes: Counter[str] = Counter()
        """How many acknowledgements were answered with what."""
        self._moved = asyncio.Event()

    @property
    def redelivered(self) -> int:
        """Deliveries that were not the first of their event."""
        return self.deliveries - len(self.first_ns)

    def received(self, event: Event) -> None:
        """Takes notice of a delivery."""
        self.deliveries += 1
        if event.sequence not in self.first_ns:
            self.first_ns[event.sequence] = time.monotonic_ns()
            if event.ordering_key:
                self.keys[event.sequence] = event.ordering_key

    def sending(self, sequences: Sequence[int]) -> None:
        """Takes notice of an acknowledgement that is about to be sent."""
        now = time.monotonic_ns()
        for sequence in sequences:
            self.attempted_ns.setdefault(sequence, now)

    def settle(self, sequences: Sequence[int]) -> None:
        """Takes notice of an answer."""
        self.settled.update(sequences)
        self._moved.set()

    async def settles(self, sequences: set[int]) -> None:
        """Waits until all of them are settled."""
        while not sequences <= self.settled:
            self._moved.clear()
            await self._moved.wait()

    def records(self) -> Records:
        """What has become of the events with a key, for `judge_order`."""
        records = Records(keys=dict(self.keys))
        for sequence in self.keys:
            records.receipts[sequence] = [Receipt(self.first_ns[sequence], 0, 1, _ANYBODY)]
            records.attempted[sequence] = [self.attempted_ns[sequence]]
        return records


class Worker:
    """A member of a group, which settles at another hub than its stream comes from.

    Args:
        hubs: The hubs.
        group: The group, and what its members have seen.
        tally: Counts failures.
    """

    def __init__(self, hubs: Hubs, group: Group, tally: Tally) -> None:
        self._hubs, self._group, self._tally = hubs, group, tally
        self._waiting: dict[str, int] = {}
        self._unanswered: set[str] = set()
        """Acknowledgements that were sent, and whose answer has not come, or never will."""
        self._more = asyncio.Event()

    async def work(self, number: int) -> None:
        """Receives from a hub until it fails."""
        request = subscription_pb2.SubscribeRequest(
            group=self._group.name,
            mode=self._group.mode,
            filter=Filter(types=[TYPE, PROBE]),
            ack_deadline=Duration(seconds=30),
            heartbeat_interval=Duration(seconds=2),
            max_in_flight=256,
            # Nothing is to be given up, however often its member or its hub dies.
            retry_policy=subscription_pb2.RetryPolicy(max_attempts=100),
            start_at=subscription_pb2.START_AT_EARLIEST,
        )
        async for response in stub(self._hubs.channel(number)).Subscribe(request):
            for delivery in response.deliveries:
                self._group.received(delivery.event)
                self._waiting[delivery.ack_id] = delivery.event.sequence
            if response.deliveries:
                self._more.set()

    async def settle(self, number: int) -> None:
        """Acknowledges at a hub, until it fails, what this member has received from any."""
        while True:
            await self._more.wait()
            ids = list(self._waiting)[:_MOST_ACK_IDS]
            repeated = self._unanswered.intersection(ids)
            self._group.sending([self._waiting[each] for each in ids])
            self._unanswered.update(ids)
            answer = await stub(self._hubs.channel(number)).Acknowledge(
                event_service_pb2.AcknowledgeRequest(group=self._group.name, ack_ids=ids),
                timeout=20,
            )
            self._unanswered.difference_update(ids)
            settled = []
            for each, result in zip(ids, answer.results, strict=True):
                sequence = self._waiting.pop(each)
                self._group.outcomes[event_service_pb2.SettleOutcome.Name(result.outcome)] += 1
                # What is not settled has gone back to the group, and will come again; that all is
                # settled in the end, the group itself says.
                if result.outcome in _SETTLED or each in repeated:
                    settled.append(sequence)
            self._group.settle(settled)
            if not self._waiting:
                self._more.clear()

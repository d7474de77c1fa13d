"""The log of many nodes: a RabbitMQ stream that one node at a time writes and all follow."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from switchboard_server.backends.rabbitmq.appends import Requests
from switchboard_server.backends.rabbitmq.declaring import Declaring, StreamLimits
from switchboard_server.backends.rabbitmq.following import Follower
from switchboard_server.backends.rabbitmq.forwarding import SEAT, Forwarder
from switchboard_server.backends.rabbitmq.history import History
from switchboard_server.backends.rabbitmq.journal import Journal
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.messages import AtSeat, Received
from switchboard_server.backends.rabbitmq.peers import Peers
from switchboard_server.backends.rabbitmq.place import Place
from switchboard_server.backends.rabbitmq.records import Columns
from switchboard_server.backends.rabbitmq.scheduling import Schedule
from switchboard_server.backends.rabbitmq.seat import Seat, Term
from switchboard_server.backends.rabbitmq.sequencing import Sequencer
from switchboard_server.backends.rabbitmq.stream import StreamReader
from switchboard_server.backends.rabbitmq.tail import LogTail
from switchboard_server.backends.rabbitmq.topology import Topology
from switchboard_server.core.clock import Clock, wall_clock
from switchboard_server.core.errors import SwitchboardError, UnavailableError, shutting_down
from switchboard_server.core.ports import (
    Appended,
    Capabilities,
    Lane,
    LogListener,
    ReadResult,
    RecentId,
    Window,
)
from switchboard_server.core.records import Batch, Codec, Drafts
from switchboard_server.core.stats import COMMIT_BOUNDS, Histogram

STALL_SECONDS = 5.0
"""An append that is open for so long says that the log cannot be written to: it takes less until
another node has taken the seat of one that has ended."""
LOOK_SECONDS = 0.25
"""How often open requests are looked at."""
RETRY_SECONDS = 0.5
"""How soon the log is read again while it is opened."""

T = TypeVar("T")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClusterLogSettings:
    """How the log works; the same on all nodes.

    Args:
        batch_size: Events that one message holds at most, unless one call has more.
        timeout: Seconds after which an append fails that was not answered.
        limits: What the stream keeps.
        look_interval: Seconds between two looks where the stream begins.
    """

    batch_size: int = 1024
    timeout: float = 10.0
    limits: StreamLimits = field(default_factory=StreamLimits)
    look_interval: float = 5.0


@dataclass(frozen=True, slots=True)
class LogFloor:
    """Asks the sequencer to go on after a sequence.

    Args:
        last: What this node has read in a stream that was lost.
    """

    last: int


class ClusterLog:
    """An `EventLog` that nodes share.

    What this node wants stored goes to the node that holds the seat of the sequencer, which numbers
    it and writes it to the stream. It is answered when this node has read it there, so when it is
    replicated; a change of the holder is a pause, not a failure.

    Retention is the stream's: whole segments go, and what is too old goes when the next segment
    begins.

    Args:
        link: The connection for writing and following.
        reading: The connection for reading history.
        peers: The nodes, on `link`.
        topology: The names.
        codec: How events look as bytes.
        settings: How it works.
        clock: Unix time in nanoseconds.
        identified: Is told the id of the log when it is known, and should it become another one.
    """

    capabilities = Capabilities(
        name="rabbitmq",
        durable="replicated to a quorum of RabbitMQ nodes, not fsynced",
        survives_restart=True,
        contiguous=True,
    )

    def __init__(
        self,
        link: Link,
        reading: Link,
        peers: Peers,
        topology: Topology,
        *,
        codec: Codec,
        settings: ClusterLogSettings,
        clock: Clock = wall_clock,
        identified: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._link = link
        self._peers = peers
        self._topology = topology
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self.identified = identified
        self.commits = Histogram(COMMIT_BOUNDS)
        self._place = Place()
        self._reader = StreamReader(reading, topology.log)
        self._sequencer = Sequencer(
            topology,
            self._place,
            codec,
            clock,
            batch_size=settings.batch_size,
            timeout=settings.timeout,
            known=self._known,
        )
        self._schedule = Schedule(
            self._sequencer, clock, self._remembered, lambda: self._place.last
        )
        self._requests = Requests(peers.id, settings.timeout, self.commits.observe)
        self._forwarder = Forwarder(
            peers, self._place, self._requests, self._sequencer, self._schedule
        )
        self._history = History(self._reader, lambda: self.window, self._trimmed)
        self._follower = Follower(self._place, self._sequencer, self._history.index, self)
        declare = Declaring(link, topology, settings.limits)
        self._tail = LogTail(link, self._reader, topology.log, declare, self._follower)
        self._seat = Seat(
            link,
            topology,
            peers,
            SEAT,
            taken=self._taken,
            lost=self._lost,
            leaving=self._leaving,
        )
        self._listener: LogListener | None = None
        self._opened = False
        self._closing = False
        self._replaced = asyncio.Event()
        self._away: str | None = None
        self._problem: str | None = None
        self._since = self._loop.time()
        self._tasks: list[asyncio.Task[None]] = []
        self._unwatch: Callable[[], None] = lambda: None
        peers.on_tell(LogFloor, self._rise)

    @property
    def log_id(self) -> str:
        """Names this log."""
        return self._place.log_id

    @property
    def window(self) -> Window:
        """What is retained now."""
        return self._follower.window

    @property
    def pending_bytes(self) -> int:
        """Bytes of events of this node that wait to become durable."""
        return self._requests.pending_bytes

    @property
    def size(self) -> int:
        """Bytes that the log takes, about: as many as its messages would, were all like those read.

        AMQP tells no size of a stream.
        """
        read, records = self._follower.record_bytes
        held = (self._tail.offset or 0) - self._history.first_offset + 1
        return held * read // records if records else 0

    # --- what the hub asks --------------------------------------------------------------------

    @property
    def problem(self) -> str | None:
        """What keeps it from being followed and written to, for people; None: nothing."""
        if self._link.problem is not None:
            return _unreachable(self._link.problem)
        problem = self._away or self._problem
        if problem is None and not self._opened and self._seat.problem is not None:
            # Where no other node has begun the log either, this is what it waits for.
            problem = _unreachable(self._seat.problem)
        return problem

    async def open(self, listener: LogListener) -> None:
        """See `EventLog.open`. Waits for as long as it takes, and says for what in `problem`.

        Safe to cancel, if it is closed then.
        """
        self._listener = listener
        self._tail.start()
        self._unwatch = self._peers.watch_seats(lambda *_: self._forwarder.wake())
        await self._seat.start()
        await self._follower.caught_up.wait()
        await _patiently(self._history.look)
        self._opened = True
        self._problem = None
        self._judge()
        self._tasks = [
            asyncio.create_task(self._keep_looking()),
            asyncio.create_task(self._keep_time()),
        ]

    def append(self, drafts: Drafts, lane: Lane | None = None) -> asyncio.Future[Appended]:
        """See `EventLog.append`."""
        return self._request(drafts, lane, scheduled=False)

    def schedule(
        self, drafts: Drafts, lane: Lane | None = None
    ) -> asyncio.Future[Mapping[int, int]]:
        """See `EventLog.schedule`."""
        return self._request(drafts, lane, scheduled=True)

    async def read(self, after: int, max_bytes: int, priority: int = 0) -> ReadResult:
        """See `EventLog.read`."""
        self._check()
        return await self._history.read(after, max_bytes, priority)

    async def read_backward(self, before: int, max_bytes: int) -> ReadResult:
        """See `EventLog.read_backward`."""
        self._check()
        return await self._history.read_backward(before, max_bytes)

    async def sequence_before(self, time_ns: int) -> int:
        """See `EventLog.sequence_before`."""
        self._check()
        return await self._history.sequence_before(time_ns)

    async def recent_ids(self, since_ns: int, limit: int) -> Sequence[RecentId]:
        """See `EventLog.recent_ids`; of scheduled events, those that this node keeps for all.

        Part of opening, so it waits for as long as it takes, too.
        """
        self._check()
        found = list(await _patiently(lambda: self._history.recent_ids(since_ns, limit)))
        found += [each for each in self._schedule.recent_ids() if each.time_ns >= since_ns]
        found.sort(key=lambda each: each.time_ns)
        return found[-limit:]

    async def close(self) -> None:
        """See `EventLog.close`."""
        if self._closing:
            return
        self._closing = True
        if self._opened:
            await self._requests.emptied()  # What is not answered in time fails.
        self._unwatch()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._seat.close()
        await self._tail.close()
        await self._reader.close()
        self._requests.fail_all(shutting_down())

    def _request(
        self, drafts: Drafts, lane: Lane | None, *, scheduled: bool
    ) -> asyncio.Future[Any]:
        refusal: UnavailableError | None = None
        if self._closing:
            refusal = shutting_down()
        elif self._problem and (
            # What RabbitMQ does not read now it would store when nobody waits for it any more.
            self._link.blocked or self._loop.time() - self._since > self._settings.timeout
        ):
            refusal = UnavailableError("LOG_UNAVAILABLE", f"{self._problem}; nothing was stored")
        if refusal is not None:
            if lane is not None:
                lane.fail(refusal)
            refused: asyncio.Future[Any] = self._loop.create_future()
            refused.set_exception(refusal)
            return refused
        future = self._requests.add(drafts, scheduled=scheduled, lane=lane)
        self._forwarder.wake()
        return future

    def _check(self) -> None:
        if self._closing:
            raise shutting_down()

    # --- the seat -----------------------------------------------------------------------------

    async def _taken(self, term: Term) -> None:
        await self._tail.started.wait()
        await self._schedule.open(Journal(self._link, self._topology, term))
        await self._sequencer.begin(term)
        await self._schedule.begin(self._history.released_since)
        self._forwarder.wake()

    async def _leaving(self, term: Term) -> None:
        await self._sequencer.drained()

    async def _lost(self, term: Term) -> None:
        self._sequencer.end(term)
        await self._schedule.end()

    def _known(self, drafts: Drafts) -> Mapping[int, int]:
        return self._listener.known(drafts) if self._listener is not None else {}

    def _remembered(self, recent: Sequence[RecentId]) -> None:
        if self._listener is not None and recent:
            self._listener.remembered(recent)

    def _rise(self, received: Received[LogFloor]) -> None:
        self._sequencer.rise(received.message.last)

    # --- what is read -------------------------------------------------------------------------

    def stored(self, columns: Columns, batches: Sequence[Batch]) -> None:
        """See `Followed.stored`."""
        if self._opened and self._listener is not None:
            self._listener.appended(batches)
        self._requests.read(columns.answers, columns.first, columns.time_ns)
        self._requests.reached(columns.last)
        if columns.released:
            self._schedule.released(columns.released)

    def term_began(self) -> None:
        """See `Followed.term_began`."""
        self._forwarder.wake()

    def lost_its_place(self, *, skipped: bool) -> None:
        """See `Followed.lost_its_place`."""
        if skipped:
            # They may be among what is gone, answered by records that nobody reads any more.
            self._requests.fail_sent(self._problem)
        else:
            self._history.begin_anew()
            self._replaced.set()
        self._forwarder.begin_anew()

    def fell_behind(self, last: int) -> None:
        """See `Followed.fell_behind`."""
        self._peers.tell(AtSeat(SEAT), LogFloor(last))

    def attached(self, problem: str | None) -> None:
        """See `Followed.attached`."""
        if problem is not None:
            problem = _unreachable(self._link.problem or problem)
        self._away = problem
        self._judge()

    def _judge(self) -> None:
        """Finds out whether the log can be written to, and tells when that has changed."""
        problem = self._away
        if problem is None and self._link.blocked:
            problem = _unreachable(str(self._link.problem))
        if problem is None and self._requests.oldest_seconds > STALL_SECONDS:
            problem = "no hub puts events into the log now"
        if (problem is None) != (self._problem is None):
            self._since = self._loop.time()
            if self._opened and self._listener is not None and not self._closing:
                self._listener.availability_changed(problem)
        self._problem = problem

    # --- what is done now and then ------------------------------------------------------------

    def _trimmed(self, first: int) -> None:
        self._follower.trimmed(first)

    async def _keep_looking(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.look_interval):
                    await self._replaced.wait()
            self._replaced.clear()
            try:
                await self._history.look()
            except SwitchboardError as error:
                _logger.debug("where the log begins: %s", error.message)

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._judge()
            if self._requests.expire(self._problem) and self._listener is not None:
                self._listener.appended(())


async def _patiently(read: Callable[[], Awaitable[T]]) -> T:
    """Reads, again and again until it can be."""
    while True:
        try:
            return await read()
        except SwitchboardError as error:
            _logger.debug("opening the log: %s", error.message)
        await asyncio.sleep(RETRY_SECONDS)


def _unreachable(problem: str) -> str:
    return f"the log cannot be reached: RabbitMQ: {problem.removeprefix('RabbitMQ: ')}"

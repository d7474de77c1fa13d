"""The log of many nodes: a RabbitMQ stream that one node at a time writes and all follow."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from switchboard_server.backends.rabbitmq.appends import Request, Requests
from switchboard_server.backends.rabbitmq.declaring import Declaring, StreamLimits
from switchboard_server.backends.rabbitmq.history import History
from switchboard_server.backends.rabbitmq.index import Spot
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.messages import AtSeat, Received
from switchboard_server.backends.rabbitmq.peers import Peers
from switchboard_server.backends.rabbitmq.place import Place, Verdict
from switchboard_server.backends.rabbitmq.records import (
    TERM,
    DraftColumns,
    RecordError,
    columns_to_drafts,
    decode_batches,
    decode_columns,
    decode_marker,
    drafts_to_columns,
)
from switchboard_server.backends.rabbitmq.seat import Seat, Term
from switchboard_server.backends.rabbitmq.sequencing import Entry, Sequencer
from switchboard_server.backends.rabbitmq.stream import Found, StreamReader
from switchboard_server.backends.rabbitmq.tail import LogTail
from switchboard_server.backends.rabbitmq.topology import Topology
from switchboard_server.core.clock import Clock, wall_clock
from switchboard_server.core.errors import SwitchboardError, UnavailableError
from switchboard_server.core.ports import (
    Appended,
    Capabilities,
    LogListener,
    ReadResult,
    RecentId,
    Window,
)
from switchboard_server.core.records import Codec, Drafts
from switchboard_server.core.stats import COMMIT_BOUNDS, Histogram

SEAT = "sequencer"
"""The seat of who numbers."""
FORWARD_BYTES = 512 * 1024
"""A message to the sequencer takes no further call once it holds so many bytes."""
LOOK_SECONDS = 0.25
"""How often open requests are looked at."""
OPEN_SECONDS = 30.0
"""How long opening may take: another node may have to give up a seat first."""

CAPABILITIES = Capabilities(
    name="rabbitmq",
    durable="replicated to a quorum of RabbitMQ nodes, not fsynced",
    survives_restart=True,
    contiguous=True,
)

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
class AppendCalls:
    """Asks the sequencer to number events; the body holds the calls.

    Args:
        node: Id of the node whose requests these are.
    """

    node: str


@dataclass(frozen=True, slots=True)
class AppendSettled:
    """Answers a request of which nothing was stored.

    Args:
        number: The request.
        duplicates: Which of its events were accepted before.
        error: Why it failed; empty: it did not.
    """

    number: int
    duplicates: dict[int, int]
    error: str = ""


@dataclass(frozen=True, slots=True)
class LogFloor:
    """Asks the sequencer to go on after a sequence.

    Args:
        last: What this node has read in a stream that was lost.
    """

    last: int


class _Call(msgspec.Struct, array_like=True):
    """A request on its way to the sequencer."""

    number: int
    scheduled: bool
    drafts: DraftColumns


_encode_calls = msgspec.msgpack.Encoder().encode
_decode_calls = msgspec.msgpack.Decoder(list[_Call]).decode


class ClusterLog:
    """An `EventLog` that nodes share.

    What this node wants stored goes to the node that holds the seat of the sequencer, which numbers
    it and writes it to the stream. It is answered when this node has read it there.

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

    capabilities = CAPABILITIES

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
        self._clock = clock
        self._identified = identified
        self._loop = asyncio.get_running_loop()
        self._place = Place()
        self._window = Window(1, 0)
        self._reader = StreamReader(reading, topology.log)
        self._history = History(self._reader, lambda: self._window, self._trim)
        self._sequencer = Sequencer(
            topology,
            self._place,
            codec,
            clock,
            batch_size=settings.batch_size,
            known=self._known,
        )
        declaring = Declaring(link, topology, settings.limits)
        self._tail = LogTail(link, self._reader, topology.log, declaring, self)
        self._seat = Seat(
            link,
            topology,
            peers,
            SEAT,
            taken=self._taken,
            lost=self._lost,
            leaving=self._leaving,
        )
        self.commits = Histogram(COMMIT_BOUNDS)
        self._requests = Requests(peers.id, settings.timeout, self.commits.observe)
        self._listener: LogListener | None = None
        self._told = False
        self._id = ""
        self._problem: str | None = "the log has not been read yet"
        self._since = self._loop.time()
        self._replaced = False
        self._dispatching = False
        self._route: tuple[str, int] = ("", 0)
        self._bytes = self._records = 0
        self._caught_up = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._unwatch: Callable[[], None] | None = None
        self._closing = False
        peers.on_tell(AppendCalls, self._forwarded)
        peers.on_tell(AppendSettled, self._settled)
        peers.on_tell(LogFloor, lambda received: self._sequencer.rise(received.message.last))

    @property
    def log_id(self) -> str:
        """Names this log."""
        return self._place.log_id

    @property
    def window(self) -> Window:
        """What is retained now."""
        return self._window

    @property
    def pending_bytes(self) -> int:
        """Bytes of events of this node that wait to become durable."""
        return self._requests.pending_bytes

    @property
    def size(self) -> int:
        """Bytes that the log takes, about: what is read is counted, the rest estimated by it."""
        held = (self._tail.offset or 0) - self._history.first_offset + 1
        return held * self._bytes // self._records if self._records else 0

    # --- life ---------------------------------------------------------------------------------

    async def open(self, listener: LogListener) -> None:
        """See `EventLog.open`."""
        self._listener = listener
        self._tail.start()
        self._unwatch = self._peers.watch_seats(self._seat_changed)
        await self._seat.start()
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._caught_up.wait()
            await self._history.look()
        except (TimeoutError, SwitchboardError) as error:
            await self.close()
            raise UnavailableError(
                "LOG_UNAVAILABLE",
                f"the log cannot be opened: {self._problem or error}; see to it that RabbitMQ "
                "runs, and that RABBITMQ_URL leads to it",
            ) from error
        self._told = True
        self._problem = None
        self._tasks = [
            asyncio.create_task(self._keep_looking()),
            asyncio.create_task(self._keep_time()),
        ]

    def append(self, drafts: Drafts) -> asyncio.Future[Appended]:
        """See `EventLog.append`."""
        return self._request(drafts, scheduled=False)

    def schedule(self, drafts: Drafts) -> asyncio.Future[Mapping[int, int]]:
        """See `EventLog.schedule`."""
        return self._request(drafts, scheduled=True)

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
        """See `EventLog.recent_ids`."""
        self._check()
        return await self._history.recent_ids(since_ns, limit)

    async def close(self) -> None:
        """See `EventLog.close`."""
        if self._closing:
            return
        self._closing = True
        if self._told:
            await self._requests.emptied()  # What is not answered in time fails.
        self._told = False
        if self._unwatch is not None:
            self._unwatch()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._seat.close()
        await self._tail.close()
        await self._reader.close()
        self._requests.fail_all(_shutting_down())

    def _check(self) -> None:
        if self._closing:
            raise _shutting_down()

    # --- what this node wants stored ----------------------------------------------------------

    def _request(self, drafts: Drafts, *, scheduled: bool) -> asyncio.Future[Any]:
        refused: asyncio.Future[Any] | None = None
        if self._closing:
            refused = self._loop.create_future()
            refused.set_exception(_shutting_down())
        elif self._problem and self._loop.time() - self._since > self._settings.timeout:
            refused = self._loop.create_future()
            refused.set_exception(
                UnavailableError("LOG_UNAVAILABLE", f"{self._problem}; nothing was stored")
            )
        if refused is not None:
            return refused
        future = self._requests.add(drafts, scheduled=scheduled)
        self._wake()
        return future

    def _wake(self) -> None:
        if not self._dispatching:
            self._dispatching = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Sends what has not been sent, to whoever numbers now."""
        self._dispatching = False
        term = self._peers.term(SEAT)
        if self._sequencer.term is not None:
            self._send_to_self(self._place.epoch)
        elif (
            term is not None
            and term.session != self._peers.session
            # What was open when a term began is only then known not to be stored when the marker
            # of that term has been read.
            and self._place.term == term.epoch
        ):
            self._send_to(term.session, self._place.epoch)

    def _send_to_self(self, epoch: int) -> None:
        self._take_route("", epoch)
        for request in self._requests.take_unsent():
            self._sequencer.add(
                Entry(
                    self._peers.id,
                    request.number,
                    request.drafts,
                    partial(self._settle, request.number),
                    partial(self._requests.fail, request.number),
                )
            )

    def _send_to(self, session: str, epoch: int) -> None:
        self._take_route(f"{self._peers.session}>{session}", epoch)
        calls: list[_Call] = []
        size = 0
        for request in self._requests.take_unsent():
            calls.append(_call(request))
            size += request.size
            if size >= FORWARD_BYTES:
                self._forward(calls)
                calls, size = [], 0
        if calls:
            self._forward(calls)

    def _take_route(self, route: str, epoch: int) -> None:
        """Sends everything again where it goes another way now."""
        if self._route != (route, epoch):
            self._route = (route, epoch)
            self._requests.send_again()

    def _forward(self, calls: list[_Call]) -> None:
        try:
            self._peers.tell(AtSeat(SEAT), AppendCalls(self._peers.id), _encode_calls(calls))
        except SwitchboardError as error:
            for call in calls:
                self._requests.fail(call.number, error)

    # --- what this node numbers ---------------------------------------------------------------

    async def _taken(self, term: Term) -> None:
        await self._tail.started.wait()
        await self._sequencer.begin(term)
        self._wake()

    async def _leaving(self, term: Term) -> None:
        await self._sequencer.drained()

    async def _lost(self, term: Term) -> None:
        if self._sequencer.term is term:
            self._sequencer.end()

    def _forwarded(self, received: Received[AppendCalls]) -> None:
        """Takes calls of another node."""
        node, sender = received.message.node, received.sender
        for call in _decode_calls(received.body):
            self._sequencer.add(
                Entry(
                    node,
                    call.number,
                    columns_to_drafts(call.drafts),
                    partial(self._tell_settled, sender, call.number),
                    partial(self._tell_failed, sender, call.number),
                )
            )

    def _tell_settled(self, session: str, number: int, duplicates: Mapping[int, int]) -> None:
        self._tell(session, AppendSettled(number, dict(duplicates)))

    def _tell_failed(self, session: str, number: int, error: Exception) -> None:
        _logger.error("events of another node cannot be numbered", exc_info=error)
        self._tell(session, AppendSettled(number, {}, f"{type(error).__name__}: {error}"))

    def _tell(self, session: str, message: AppendSettled) -> None:
        try:
            self._peers.tell(session, message)
        except SwitchboardError as error:
            _logger.warning("an answer was dropped: %s", error.message)

    def _settled(self, received: Received[AppendSettled]) -> None:
        message = received.message
        if message.error:
            self._requests.fail(
                message.number, RuntimeError(f"failed on another node: {message.error}")
            )
        else:
            self._settle(message.number, message.duplicates)

    def _settle(self, number: int, duplicates: Mapping[int, int]) -> None:
        self._requests.settle(number, duplicates, self._place.last)

    def _known(self, drafts: Drafts) -> Mapping[int, int]:
        return self._listener.known(drafts) if self._listener is not None else {}

    def _seat_changed(self, seat: str, _: object) -> None:
        if seat == SEAT:
            self._wake()

    # --- what the tail reads ------------------------------------------------------------------

    def take(self, message: Found) -> None:
        """See `TailListener.take`."""
        try:
            if message.type == TERM:
                self._take_marker(message)
            else:
                self._take_record(message)
        except RecordError as error:
            text = "message %d of the log is passed over: %s"
            _logger.error(text, message.offset, error)  # noqa: TRY400 - all is said
        if not self._caught_up.is_set() and message.offset >= self._tail.target:
            if self._place.log_id:
                self._caught_up.set()

    def _take_record(self, message: Found) -> None:
        columns = decode_columns(message.body)
        verdict = self._place.take(columns)
        if verdict is Verdict.FOREIGN and self._adopt():
            verdict = self._place.take(columns)
        if verdict is not Verdict.COUNTS:
            self._sequencer.missed(columns)
            return
        self._identify()
        batches = self._sequencer.own(columns) or decode_batches(message.body, columns)
        self._window = Window(min(self._window.first, columns.first), columns.last)
        self._bytes += len(message.body)
        self._records += 1
        spot = Spot(columns.first, columns.time_ns, message.offset)
        self._history.index.pass_by(spot, len(message.body))
        if self._told and self._listener is not None:
            self._listener.appended(batches)
        self._sequencer.learned(columns)
        self._requests.read(columns.answers, columns.first, columns.time_ns)
        self._requests.reached(columns.last)

    def _take_marker(self, message: Found) -> None:
        marker = decode_marker(message.body)
        before = self._place.last
        if self._place.mark(marker) is Verdict.FOREIGN and self._adopt():
            self._place.mark(marker)
            if marker.last < before:
                self._peers.tell(AtSeat(SEAT), LogFloor(before))
        self._identify()
        if self._place.last > self._window.last:
            self._window = Window(self._window.first, self._place.last)
        self._sequencer.marked(marker)
        self._wake()

    def _adopt(self) -> bool:
        """Takes the log that the stream holds now for this one, if the stream was replaced."""
        if not self._replaced:
            return False
        self._replaced = False
        self._place.begin_anew()
        self._history.index.clear()
        return True

    def _identify(self) -> None:
        if self._place.log_id != self._id:
            self._id = self._place.log_id
            self._identified(self._id)

    def skipped(self) -> None:
        """See `TailListener.skipped`."""
        self._place.loose = True

    def replaced(self) -> None:
        """See `TailListener.replaced`."""
        self._replaced = True
        self._place.loose = True
        if self._sequencer.term is not None:
            self._sequencer.term.end("the stream was replaced")

    def attached(self, problem: str | None) -> None:
        """See `TailListener.attached`."""
        self._report(problem and f"the log cannot be reached: {self._link.problem or problem}")

    def _report(self, problem: str | None) -> None:
        if (problem is None) != (self._problem is None):
            self._since = self._loop.time()
            if self._told and self._listener is not None and not self._closing:
                if problem is None:
                    _logger.info("the log is followed again")
                else:
                    _logger.error("%s", problem)
                self._listener.availability_changed(problem)
        self._problem = problem

    # --- what is done now and then ------------------------------------------------------------

    def _trim(self, first: int) -> None:
        """Takes notice of where the log begins."""
        last = self._window.last
        self._window = Window(min(max(first, self._window.first), last + 1), last)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._settings.look_interval)
            try:
                await self._history.look()
            except SwitchboardError as error:
                _logger.debug("where the log begins: %s", error.message)

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._requests.expire(self._problem) and self._listener is not None:
                self._listener.appended(())


def _call(request: Request) -> _Call:
    return _Call(request.number, request.scheduled, drafts_to_columns(request.drafts))


def _shutting_down() -> UnavailableError:
    return UnavailableError("SHUTTING_DOWN", "the hub shuts down")

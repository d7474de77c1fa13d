"""The embedded log: numbers events, commits what waits together, and releases scheduled events.

Group commit: while one transaction is on its way to the disk, everything that arrives gathers, and
goes into the next. Alone at low load, thousands at high load, and never a timer.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from switchboard_server.backends.clocks import Alarm, LogTime
from switchboard_server.backends.embedded.store import Commit, Due, GroupWork, Store, StoreError
from switchboard_server.backends.embedded.waiting import Waiting, commit_of, fail
from switchboard_server.backends.embedded.worker import Inline, Thread, Worker
from switchboard_server.core.clock import SECOND_NS, Clock, wall_clock
from switchboard_server.core.errors import UnavailableError, shutting_down
from switchboard_server.core.ports import (
    NO_DUPLICATES,
    Appended,
    Capabilities,
    Lane,
    LogListener,
    ReadResult,
    RecentId,
    Window,
)
from switchboard_server.core.records import Codec, Drafts
from switchboard_server.core.stats import COMMIT_BOUNDS, Histogram

MAX_COMMIT_BYTES = 8 * 1024 * 1024
"""A transaction takes nothing further once it holds this many bytes."""
GATHER_TURNS = 16
"""Most turns of the event loop for which a transaction waits while more arrives in each of them."""
GATHER_SECONDS = 0.003
"""How long a transaction waits at most while the loop is busy, for then more is on its way here,
and each transaction costs as much as serving ten calls."""
QUIET_SECONDS = 0.00003
"""A turn of the loop that takes longer had something to do."""
CROWD = 3
"""Where the last transaction had so many calls, the next waits for the lull to be over, too."""
LULL_SECONDS = 0.0003
"""How long that may be: gRPC's own thread hands calls over one by one."""
GATHER_BYTES = 256 * 1024
"""A transaction waits no further once so much is there for it."""
MAX_RELEASED = 1000
"""Most scheduled events that enter the log in one transaction."""
PROBE_SECONDS = 1.0
"""How often a log that cannot be written to is tried again."""
STALL_SECONDS = 5.0
"""A disk that does not answer for so long is said to hang, and given nothing further."""
READERS = 2
"""Threads that read the log for subscribers who are behind."""

T = TypeVar("T")
_logger = logging.getLogger(__name__)


class EmbeddedLog:
    """An `EventLog` of one process, over a `Store`.

    Args:
        store: Where batches are kept.
        codec: How events look as bytes.
        clock: Unix time in nanoseconds.
        trim_interval: Seconds between two looks for what need not be retained any more.
        gather_seconds: How long a transaction waits at most while the loop is busy.
    """

    def __init__(
        self,
        store: Store,
        codec: Codec,
        *,
        clock: Clock = wall_clock,
        trim_interval: float = 1.0,
        gather_seconds: float = 0.0,
    ) -> None:
        self._gather_seconds = gather_seconds
        self._crowd = 0
        self.store = store
        self._codec = codec
        self._clock = clock
        self._trim_interval = trim_interval
        self._waiting: deque[Waiting] = deque()
        self._committing = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._stalled = False
        self._log_id = ""
        self._window = Window(1, 0)
        self._problem: str | None = None
        self._releasing: asyncio.Task[None] | None = None
        self._due_meanwhile_ns: int | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.pending_bytes = 0
        self.size = 0
        self.commits = Histogram(COMMIT_BOUNDS)

    @property
    def capabilities(self) -> Capabilities:
        """What this log promises."""
        return self.store.capabilities

    @property
    def log_id(self) -> str:
        """Names this log."""
        return self._log_id

    @property
    def window(self) -> Window:
        """What is retained now."""
        return self._window

    async def open(self, listener: LogListener) -> None:
        """See `EventLog.open`."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._writer: Worker = Thread("switchboard-log") if self.store.blocks else Inline()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="switchboard-read")
        try:
            state = await self._writer.call(self.store.open)
            self.size = await self._writer.call(self.store.size)
        except StoreError as error:
            await self._writer.call(self.store.close)
            await self._writer.close()
            self._readers.shutdown()
            raise UnavailableError("LOG_UNAVAILABLE", str(error)) from error
        self._log_id, self._window = state.log_id, state.window
        self._time = LogTime(self._clock, state.time_ns)
        self._alarm = Alarm(self._release, self._clock)
        self._arm(state.next_due_ns)
        self._keeper = asyncio.create_task(self._keep())

    def append(self, drafts: Drafts, lane: Lane | None = None) -> asyncio.Future[Appended]:
        """See `EventLog.append`."""
        return self._enqueue(drafts, lane=lane)

    def schedule(
        self, drafts: Drafts, lane: Lane | None = None
    ) -> asyncio.Future[Mapping[int, int]]:
        """See `EventLog.schedule`."""
        return self._enqueue(drafts, scheduled=True, lane=lane)

    def write(self, work: GroupWork) -> asyncio.Future[Any]:
        """Does something with groups in the next transaction, as `append` does with events.

        Returns:
            Answers when it is durable. Fails with UnavailableError when it could not be stored.
        """
        return self._wait(Waiting(self._loop.create_future(), group=work))

    async def read(self, after: int, max_bytes: int, priority: int = 0) -> ReadResult:
        """See `EventLog.read`."""
        return await self.reading(partial(self.store.read, after, max_bytes, priority))

    async def read_backward(self, before: int, max_bytes: int) -> ReadResult:
        """See `EventLog.read_backward`."""
        return await self.reading(partial(self.store.read_backward, before, max_bytes))

    async def sequence_before(self, time_ns: int) -> int:
        """See `EventLog.sequence_before`."""
        return await self.reading(partial(self.store.sequence_before, time_ns))

    async def recent_ids(self, since_ns: int, limit: int) -> Sequence[RecentId]:
        """See `EventLog.recent_ids`."""
        return await self.reading(partial(self.store.recent_ids, since_ns, limit))

    async def close(self) -> None:
        """See `EventLog.close`."""
        if self._closed:
            return
        self._closed = True
        self._alarm.cancel()
        for task in (self._keeper, self._releasing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self._idle.wait()
        self._readers.shutdown()
        await self._writer.call(self.store.close)
        await self._writer.close()

    def _enqueue(
        self,
        drafts: Drafts,
        *,
        scheduled: bool = False,
        released: Sequence[int] = (),
        lane: Lane | None = None,
    ) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        return self._wait(Waiting(future, drafts, scheduled, released, lane=lane))

    def _wait(self, waiting: Waiting) -> asyncio.Future[Any]:
        refusal: UnavailableError | None = None
        if self._closed:
            refusal = shutting_down()
        elif self._stalled:
            refusal = UnavailableError("LOG_UNAVAILABLE", f"{self._problem}; nothing was stored")
        if refusal is not None:
            fail([waiting], refusal)
            return waiting.future
        self.pending_bytes += waiting.size
        self._waiting.append(waiting)
        if not self._committing:
            self._committing = True
            self._idle.clear()
            self._gather(0, 0)
        return waiting.future

    def _gather(
        self, turns: int, seen: int, began: float = 0.0, last: float = 0.0, active: float = 0.0
    ) -> None:
        """Waits while every turn of the loop brings more, so that a transaction has much to do.

        Made by load, not by time: a lone event waits for two turns, microseconds in an idle hub.

        Args:
            turns: How many turns it has waited.
            seen: How many calls were waiting at the last turn.
            began: When it began to wait.
            last: When the last turn was.
            active: When the loop had something to do.
        """
        waiting, now = len(self._waiting), time.perf_counter()
        if not turns:
            began = last = active = now
        more = waiting > seen or not turns
        if more or now > last + QUIET_SECONDS:
            active = now
        patience = LULL_SECONDS if self._crowd >= CROWD else 0.0
        busy = now <= active + patience and now < began + self._gather_seconds
        if ((more and turns < GATHER_TURNS) or busy) and self.pending_bytes < GATHER_BYTES:
            self._loop.call_soon(self._gather, turns + 1, waiting, began, now, active)
        else:
            self._commit()

    def _commit(self) -> None:
        """Sends what waits to the disk."""
        taken, size = [], 0
        while self._waiting and size < MAX_COMMIT_BYTES:
            taken.append(self._waiting.popleft())
            size += taken[-1].size
        self._crowd = len(taken)
        if not taken:
            self._committing = False
            self._idle.set()
            return
        time_ns = self._time.now()
        try:
            work = commit_of(taken, self._window.last + 1, time_ns, self._codec)
        except Exception as error:  # A defect must fail these calls, not all later ones.
            self._settle(taken, error)
            self._gather(0, 0)
            return
        began = time.perf_counter()
        done = self._writer.call(partial(self.store.commit, work))
        done.add_done_callback(partial(self._committed, taken, work, began))

    def _committed(
        self, taken: list[Waiting], work: Commit, began: float, done: asyncio.Future[None]
    ) -> None:
        """Tells everybody what became of a transaction, and begins the next."""
        error = done.exception()
        if error is None:
            try:
                self._succeed(taken, work, began)
            except Exception as defect:  # It must not stop all later transactions.
                _logger.exception("what became durable could not be told to everybody")
                fail(taken, defect)
        elif isinstance(error, StoreError):
            self._report(str(error))
            self._settle(taken, UnavailableError("LOG_UNAVAILABLE", str(error)))
        else:
            self._settle(taken, error)
        self._gather(0, 0)

    def _succeed(self, taken: list[Waiting], work: Commit, began: float) -> None:
        first = self._window.last + 1
        if work.batches:
            self._window = Window(self._window.first, work.batches[-1].last)
        self.commits.observe(time.perf_counter() - began)
        self._report(None)
        for each in taken:
            self.pending_bytes -= each.size
        self._listener.appended(work.batches)
        for each in taken:
            if each.scheduled:
                for extra in each.drafts.extras.values():
                    self._arm(extra.deliver_at_ns)
                answer: Any = NO_DUPLICATES
            elif each.group is not None:
                answer = each.group.answer()
            else:
                answer = Appended(first, work.time_ns)
                first += len(each.drafts)
            if not each.future.done():
                each.future.set_result(answer)

    def _settle(self, taken: list[Waiting], error: BaseException) -> None:
        """Fails calls, and those that wait behind them."""
        lanes = {each.lane for each in taken} - {None}
        if lanes:
            taken += [each for each in self._waiting if each.lane in lanes]
            self._waiting = deque(each for each in self._waiting if each.lane not in lanes)
        for each in taken:
            self.pending_bytes -= each.size
        fail(taken, error)
        self._listener.appended(())

    def _report(self, problem: str | None) -> None:
        """Tells the listener when the log stops or begins to take events."""
        if problem is None:
            self._stalled = False
        if (problem is None) != (self._problem is None):
            if problem is None:
                _logger.info("the log takes events again")
            else:
                _logger.error("the log takes no events: %s", problem)
            self._problem = problem
            self._listener.availability_changed(problem)
            if problem is not None:
                self._loop.call_later(PROBE_SECONDS, self._probe)

    def _probe(self) -> None:
        if self._problem is not None and not self._closed:
            self._writer.call(self.store.probe).add_done_callback(self._probed)

    def _probed(self, done: asyncio.Future[None]) -> None:
        if done.exception() is None:
            self._report(None)
        else:
            self._loop.call_later(PROBE_SECONDS, self._probe)

    def _arm(self, due_ns: int | None) -> None:
        """Sets the alarm for the scheduled event that is due next."""
        if due_ns is None or self._closed:
            return
        if self._releasing is not None:
            self._due_meanwhile_ns = min(due_ns, self._due_meanwhile_ns or due_ns)
            return
        self._alarm.set(due_ns)

    def _release(self) -> None:
        self._releasing = asyncio.create_task(self._release_due())

    async def _release_due(self) -> None:
        """Moves scheduled events whose time has come into the log."""
        due_ns: int | None = self._clock() + int(PROBE_SECONDS * SECOND_NS)
        try:
            due: Due = await self._writer.call(partial(self.store.due, self._clock(), MAX_RELEASED))
            if due.drafts:
                # All are waited for, whatever becomes of one: none may be read again meanwhile.
                done = await asyncio.gather(
                    *(
                        self._enqueue(drafts, released=[row])
                        for row, drafts in zip(due.rows, due.drafts, strict=True)
                    ),
                    return_exceptions=True,
                )
                errors = [each for each in done if isinstance(each, BaseException)]
                if errors:
                    raise errors[0]  # noqa: TRY301 - treated like one of reading
            due_ns = due.next_due_ns
        except (StoreError, UnavailableError) as error:
            self._report(str(error))
        except Exception:  # A defect with one event must not keep back those of later times.
            _logger.exception("scheduled events could not be released")
        self._releasing = None
        self._arm(due_ns)
        self._arm(self._due_meanwhile_ns)
        self._due_meanwhile_ns = None

    async def _keep(self) -> None:
        """Looks after the store: whether it is there, and what of it need not be retained.

        The latter is removed a slice at a time between transactions.
        """
        failing = False
        while True:
            await asyncio.sleep(self._trim_interval)
            try:
                await self._ask(self.store.check)
            except StoreError as error:
                self._report(str(error))
                continue
            try:
                trim = partial(self.store.trim, self._clock())
                while (window := await self._ask(trim)) is not None:
                    self._window = Window(window.first, self._window.last)
                self.size = await self._ask(self.store.size)
                failing = False
            except StoreError as error:
                if not failing:
                    _logger.warning("what need not be retained cannot be removed: %s", error)
                failing = True

    async def _ask(self, work: Callable[[], T]) -> T:
        """Does something where the store's writing is done, and notices where that hangs.

        A disk that hangs (a volume that is cut off, a file system that is frozen) fails nothing:
        whatever comes to it waits.
        """
        done = self._writer.call(work)
        await asyncio.wait([done], timeout=STALL_SECONDS)
        if not done.done():
            self._report(f"the disk of the log has not answered for {STALL_SECONDS:g} seconds")
            self._stalled = True
        return await done

    async def exclusively(self, work: Callable[[], T]) -> T:
        """Does something with the store where its writing is done.

        Args:
            work: Calls a method of the store.

        Raises:
            UnavailableError: It cannot be done now.
        """
        if self._closed:
            raise shutting_down()
        try:
            return await self._writer.call(work)
        except StoreError as error:
            raise UnavailableError("LOG_UNAVAILABLE", str(error)) from error

    async def reading(self, work: Callable[[], T]) -> T:
        """Reads the store beside the writing.

        Args:
            work: Calls a method of the store that reads.

        Raises:
            UnavailableError: It cannot be read now.
        """
        if self._closed:
            raise shutting_down()
        try:
            if not self.store.blocks:
                await asyncio.sleep(0)  # A turn of the loop for the others, as a thread would give.
                return work()
            return await self._loop.run_in_executor(self._readers, work)
        except (StoreError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not self._closed:
                raise
            raise UnavailableError("LOG_UNAVAILABLE", str(error)) from error

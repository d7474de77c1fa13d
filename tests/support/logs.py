"""Logs and stores that do what a test says, and tell it what was asked of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from switchboard_server.backends.embedded.log import EmbeddedLog
from switchboard_server.backends.embedded.memory import MemoryStore
from switchboard_server.backends.embedded.store import (
    Commit,
    Due,
    Retention,
    Store,
    StoreState,
)
from switchboard_server.core.events import EventHub, Limits
from switchboard_server.core.groups.changes import DeadLetter
from switchboard_server.core.groups.ports import Found, StoredGroup
from switchboard_server.core.ports import (
    Appended,
    Capabilities,
    Lane,
    LogListener,
    ReadResult,
    RecentId,
    Window,
)
from switchboard_server.core.records import Batch, Drafts
from switchboard_server.core.stats import COMMIT_BOUNDS, Histogram
from tests.support.events import PlainCodec
from tests.support.loop import manual_loop


class Recorder:
    """A `LogListener` that keeps what it is told."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.problems: list[str | None] = []
        self.ids: dict[tuple[str, str], int] = {}
        self._changed = asyncio.Event()

    def appended(self, batches: Sequence[Batch]) -> None:
        """See `LogListener.appended`."""
        self.batches += batches
        for batch in batches:
            for index, each in batch.ids.items():
                self.ids[batch.route(index).source_service, each] = batch.first + index
        self._changed.set()

    def known(self, drafts: Drafts) -> Mapping[int, int]:
        """See `LogListener.known`."""
        return {
            index: self.ids[drafts.route(index).source_service, each]
            for index, each in enumerate(drafts.ids or ())
            if (drafts.route(index).source_service, each) in self.ids
        }

    def remembered(self, recent: Sequence[RecentId]) -> None:
        """See `LogListener.remembered`."""
        self.ids.update({(each.source_service, each.id): each.sequence for each in recent})

    def availability_changed(self, problem: str | None) -> None:
        """See `LogListener.availability_changed`."""
        self.problems.append(problem)
        self._changed.set()

    async def until(self, condition: Callable[["Recorder"], bool]) -> None:
        """Waits until what was told meets a condition."""
        while not condition(self):
            self._changed.clear()
            await self._changed.wait()


class ScriptedLog:
    """An `EventLog` that answers nothing by itself.

    Attributes:
        appends: What was appended, with the future that answers.
        schedules: What was scheduled, likewise.
        lanes: The lane of each append.
        window: What is retained.
        pending_bytes: What waits.
        recent: What `recent_ids` answers.
        reading: What `read` does.
        reading_backward: What `read_backward` does; None: the same.
    """

    capabilities = Capabilities("scripted", "nothing", survives_restart=False, contiguous=True)
    log_id = "scripted"
    size = 0

    def __init__(self) -> None:
        self.appends: list[tuple[Drafts, asyncio.Future[Appended]]] = []
        self.schedules: list[tuple[Drafts, asyncio.Future[Mapping[int, int]]]] = []
        self.lanes: list[Lane | None] = []
        self.window = Window(1, 0)
        self.pending_bytes = 0
        self.recent: Sequence[RecentId] = ()
        self.asked_ids: list[tuple[int, int]] = []
        self.reading: Callable[[int, int], ReadResult] = lambda _after, _bytes: ReadResult(
            (), self.window
        )
        self.reading_backward: Callable[[int, int], ReadResult] | None = None
        self.commits = Histogram(COMMIT_BOUNDS)
        self.closed = False

    async def open(self, listener: LogListener) -> None:
        """See `EventLog.open`."""
        self.listener = listener

    def append(self, drafts: Drafts, lane: Lane | None = None) -> asyncio.Future[Appended]:
        """See `EventLog.append`."""
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self.appends.append((drafts, future))
        self.lanes.append(lane)
        return future

    def schedule(
        self, drafts: Drafts, lane: Lane | None = None
    ) -> asyncio.Future[Mapping[int, int]]:
        """See `EventLog.schedule`."""
        future: asyncio.Future[Mapping[int, int]] = asyncio.get_running_loop().create_future()
        self.schedules.append((drafts, future))
        return future

    async def read(self, after: int, max_bytes: int, priority: int = 0) -> ReadResult:
        """See `EventLog.read`."""
        return self.reading(after, max_bytes)

    async def read_backward(self, before: int, max_bytes: int) -> ReadResult:
        """See `EventLog.read_backward`."""
        return (self.reading_backward or self.reading)(before, max_bytes)

    async def sequence_before(self, time_ns: int) -> int:
        """See `EventLog.sequence_before`."""
        return self.window.first - 1 if time_ns else 0

    async def recent_ids(self, since_ns: int, limit: int) -> Sequence[RecentId]:
        """See `EventLog.recent_ids`."""
        self.asked_ids.append((since_ns, limit))
        return self.recent

    async def close(self) -> None:
        """See `EventLog.close`."""
        self.closed = True


class HookedStore:
    """A `Store` around another one, with hooks.

    Attributes:
        before: By a method's name, what to call first; it may raise in the method's stead.
        after: By a method's name, what to call with the method's result.
        asked: Takes every transaction that is asked for; None: nobody wants them.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities
        self.blocks = inner.blocks
        self.before: dict[str, Callable[[], object]] = {}
        self.after: dict[str, Callable[[Any], object]] = {}
        self.asked: list[Commit] | None = None

    def _call(self, name: str, *arguments: Any) -> Any:
        if name in self.before:
            self.before[name]()
        result = getattr(self.inner, name)(*arguments)
        if name in self.after:
            self.after[name](result)
        return result

    def open(self) -> StoreState:
        """See `Store.open`."""
        state: StoreState = self._call("open")
        return state

    def commit(self, work: Commit) -> None:
        """See `Store.commit`."""
        if self.asked is not None:
            self.asked.append(work)
        self._call("commit", work)

    def due(self, now_ns: int, limit: int) -> Due:
        """See `Store.due`."""
        due: Due = self._call("due", now_ns, limit)
        return due

    def check(self) -> None:
        """See `Store.check`."""
        self._call("check")

    def probe(self) -> None:
        """See `Store.probe`."""
        self._call("probe")

    def trim(self, now_ns: int) -> Window | None:
        """See `Store.trim`."""
        window: Window | None = self._call("trim", now_ns)
        return window

    def size(self) -> int:
        """See `Store.size`."""
        size: int = self._call("size")
        return size

    def read(self, after: int, max_bytes: int, priority: int = 0) -> ReadResult:
        """See `Store.read`."""
        result: ReadResult = self._call("read", after, max_bytes, priority)
        return result

    def read_backward(self, before: int, max_bytes: int) -> ReadResult:
        """See `Store.read_backward`."""
        result: ReadResult = self._call("read_backward", before, max_bytes)
        return result

    def sequence_before(self, time_ns: int) -> int:
        """See `Store.sequence_before`."""
        sequence: int = self._call("sequence_before", time_ns)
        return sequence

    def recent_ids(self, since_ns: int, limit: int) -> Sequence[RecentId]:
        """See `Store.recent_ids`."""
        found: Sequence[RecentId] = self._call("recent_ids", since_ns, limit)
        return found

    def read_each(self, sequences: Sequence[int]) -> Found:
        """See `Store.read_each`."""
        found: Found = self._call("read_each", sequences)
        return found

    def groups(self) -> Sequence[StoredGroup]:
        """See `Store.groups`."""
        found: Sequence[StoredGroup] = self._call("groups")
        return found

    def dead_letters(
        self, number: int, before: tuple[int, int] | None, limit: int
    ) -> Sequence[DeadLetter]:
        """See `Store.dead_letters`."""
        found: Sequence[DeadLetter] = self._call("dead_letters", number, before, limit)
        return found

    def dead_letters_of(self, number: int, sequences: Sequence[int]) -> Sequence[DeadLetter]:
        """See `Store.dead_letters_of`."""
        found: Sequence[DeadLetter] = self._call("dead_letters_of", number, sequences)
        return found

    def redriven(self, number: int, after: int, limit: int) -> Sequence[DeadLetter]:
        """See `Store.redriven`."""
        found: Sequence[DeadLetter] = self._call("redriven", number, after, limit)
        return found

    def close(self) -> None:
        """See `Store.close`."""
        self._call("close")


@asynccontextmanager
async def memory_hub(
    limits: Limits | None = None, retention: Retention | None = None
) -> AsyncIterator[tuple[EventHub, HookedStore]]:
    """An open hub over a log in memory, and the store under it, in the loop's own time."""
    store = HookedStore(MemoryStore(retention or Retention()))
    clock = manual_loop().clock
    hub = EventHub(EmbeddedLog(store, PlainCodec(), clock=clock), limits, clock)
    await hub.open()
    try:
        yield hub, store
    finally:
        await hub.close()

"""Nodes of a cluster without sockets: a log that all tail, and a post that really encodes."""

import asyncio
import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from switchboard_server.backends.embedded.groups import EmbeddedGroups
from switchboard_server.backends.embedded.log import EmbeddedLog
from switchboard_server.backends.rabbitmq.packets import (
    decode,
    encode,
)
from switchboard_server.core.cluster.ports import CarrierListener, Handler, Receiver
from switchboard_server.core.cluster.seats import seat_of
from switchboard_server.core.errors import SwitchboardError, UnavailableError
from switchboard_server.core.failures import Failure
from switchboard_server.core.groups.changes import Change, DeadLetter, Snapshot
from switchboard_server.core.groups.config import GroupConfig
from switchboard_server.core.groups.ports import Found, GroupRecord, StoredGroup
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
from switchboard_server.core.stats import Histogram

T = TypeVar("T")


def gone(text: str) -> UnavailableError:
    """What nobody can do now."""
    return UnavailableError("LOG_UNAVAILABLE", text)


# --- the log -------------------------------------------------------------------------------------


class SharedLog:
    """A log that nodes tail, each at its own pace.

    Args:
        log: Where events are; not open yet.
    """

    def __init__(self, log: EmbeddedLog) -> None:
        self.log = log
        self.tails: list[TailingLog] = []

    async def open(self) -> None:
        """Opens it."""
        await self.log.open(self)

    def appended(self, batches: Sequence[Batch]) -> None:
        """See `LogListener`."""
        for tail in self.tails:
            tail.take(batches)

    def known(self, drafts: Drafts) -> Mapping[int, int]:
        """See `LogListener`."""
        return {}

    def remembered(self, recent: Sequence[RecentId]) -> None:
        """See `LogListener`."""

    def availability_changed(self, problem: str | None) -> None:
        """See `LogListener`."""


class TailingLog:
    """An `EventLog` of one node.

    Attributes:
        holding: Batches that have not come here yet; None: they come at once.
    """

    def __init__(self, shared: SharedLog) -> None:
        self._shared = shared
        self._log = shared.log
        self._listener: LogListener | None = None
        self.holding: list[Batch] | None = None
        self._last = 0

    @property
    def capabilities(self) -> Capabilities:
        """See `EventLog`."""
        return self._log.capabilities

    @property
    def log_id(self) -> str:
        """See `EventLog`."""
        return self._log.log_id

    @property
    def window(self) -> Window:
        """See `EventLog`."""
        window = self._log.window
        return Window(min(window.first, self._last + 1), self._last)

    @property
    def pending_bytes(self) -> int:
        """See `EventLog`."""
        return self._log.pending_bytes

    @property
    def size(self) -> int:
        """See `EventLog`."""
        return self._log.size

    @property
    def commits(self) -> Histogram:
        """See `EventLog`."""
        return self._log.commits

    async def open(self, listener: LogListener) -> None:
        """See `EventLog`."""
        self._listener = listener
        self._last = self._log.window.last
        self._shared.tails.append(self)

    def take(self, batches: Sequence[Batch]) -> None:
        """Takes what has been appended."""
        if self.holding is not None:
            self.holding += batches
        elif self._listener is not None:
            self._last = batches[-1].last if batches else self._last
            self._listener.appended(batches)

    def catch_up(self) -> None:
        """Has come what has been held up."""
        held, self.holding = self.holding or [], None
        self.take(held)

    def skip(self) -> None:
        """Lets go of what has been held up: it is only in the log."""
        self.holding = None

    def append(self, drafts: Drafts, lane: Lane | None = None) -> asyncio.Future[Appended]:
        """See `EventLog`."""
        return self._log.append(drafts, lane)

    def schedule(
        self, drafts: Drafts, lane: Lane | None = None
    ) -> asyncio.Future[Mapping[int, int]]:
        """See `EventLog`."""
        return self._log.schedule(drafts, lane)

    async def read(self, after: int, max_bytes: int, priority: int = 0) -> ReadResult:
        """See `EventLog`."""
        found = await self._log.read(after, max_bytes, priority)
        batches = [each for each in found.batches if each.last <= self._last]
        return ReadResult(batches, self.window, found.lost)

    async def read_backward(self, before: int, max_bytes: int) -> ReadResult:
        """See `EventLog`."""
        return await self._log.read_backward(before, max_bytes)

    async def sequence_before(self, time_ns: int) -> int:
        """See `EventLog`."""
        return await self._log.sequence_before(time_ns)

    async def recent_ids(self, since_ns: int, limit: int) -> Sequence[RecentId]:
        """See `EventLog`."""
        return await self._log.recent_ids(since_ns, limit)

    async def close(self) -> None:
        """Tails no more."""
        if self in self._shared.tails:
            self._shared.tails.remove(self)


class KeptGroups:
    """What the nodes keep of their groups, whoever has them.

    Args:
        inner: Keeps dead letters, and says when something is durable.
    """

    def __init__(self, inner: EmbeddedGroups) -> None:
        self.inner = inner
        self._groups: dict[int, StoredGroup] = {}

    async def load(self, seat: str) -> Sequence[StoredGroup]:
        """The groups of a seat, as they stand."""
        found = [
            replace(
                each, snapshot=copy.deepcopy(each.snapshot), changes=copy.deepcopy(each.changes)
            )
            for each in self._groups.values()
            if seat_of(each.record.name) == seat
        ]
        for each in found:
            number = each.record.number
            each.dead_letters = len(await self.inner.dead_letters(number, None, 10_000))
            each.redriven = len(await self.inner.redriven(number, 0, 10_000))
        return found

    def create(
        self, name: str, config: GroupConfig, secret: int, snapshot: Snapshot, time_ns: int
    ) -> asyncio.Future[GroupRecord]:
        """See `GroupStore.create_group`."""
        future = self.inner.create_group(name, config, secret, snapshot, time_ns)

        def keep(done: asyncio.Future[GroupRecord]) -> None:
            record = done.result()
            self._groups[record.number] = StoredGroup(record, copy.deepcopy(snapshot))

        future.add_done_callback(keep)
        return future

    def delete(self, number: int) -> asyncio.Future[None]:
        """See `GroupStore.delete_group`."""
        self._groups.pop(number)
        return self.inner.delete_group(number)

    def save(self, number: int, change: Change) -> asyncio.Future[None]:
        """See `GroupStore.save`."""
        stored = self._groups.get(number)
        if stored is not None:
            kept = copy.deepcopy(replace(change, buried=[]))
            stored.changes = [kept] if kept.snapshot is not None else [*stored.changes, kept]
            if kept.idle_since_ns is not None:
                stored.idle_since_ns = kept.idle_since_ns
        return self.inner.save(number, change)


class TermStore:
    """A `GroupStore` of one seat, for as long as a node holds it.

    Args:
        kept: Keeps the groups of all seats.
        seat: The seat.

    Attributes:
        ended: Nothing is kept any more.
        stuck: What is to be kept is neither kept nor refused.
    """

    def __init__(self, kept: KeptGroups, seat: str) -> None:
        self._groups = kept
        self._inner = kept.inner
        self._seat = seat
        self.ended = False
        self.stuck = False

    def _kept(self, keep: Callable[[], asyncio.Future[T]]) -> asyncio.Future[T]:
        if not self.ended and not self.stuck:
            return keep()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if not self.ended:
            return future
        future.set_exception(gone("the term has ended"))
        return future

    async def load_groups(self) -> Sequence[StoredGroup]:
        """See `GroupStore`."""
        return await self._groups.load(self._seat)

    def create_group(
        self, name: str, config: GroupConfig, secret: int, snapshot: Snapshot, time_ns: int
    ) -> asyncio.Future[GroupRecord]:
        """See `GroupStore`."""
        return self._kept(lambda: self._groups.create(name, config, secret, snapshot, time_ns))

    def delete_group(self, number: int) -> asyncio.Future[None]:
        """See `GroupStore`."""
        return self._kept(lambda: self._groups.delete(number))

    def save(self, number: int, change: Change) -> asyncio.Future[None]:
        """See `GroupStore`."""
        return self._kept(lambda: self._groups.save(number, change))

    async def read_each(self, sequences: Sequence[int]) -> Found:
        """See `GroupStore`."""
        return await self._inner.read_each(sequences)

    async def dead_letters(
        self, number: int, before: tuple[int, int] | None, limit: int
    ) -> Sequence[DeadLetter]:
        """See `GroupStore`."""
        return await self._inner.dead_letters(number, before, limit)

    async def dead_letters_of(self, number: int, sequences: Sequence[int]) -> Sequence[DeadLetter]:
        """See `GroupStore`."""
        return await self._inner.dead_letters_of(number, sequences)

    async def redriven(self, number: int, after: int, limit: int) -> Sequence[DeadLetter]:
        """See `GroupStore`."""
        return await self._inner.redriven(number, after, limit)

    def expire_dead_letters(self, before_ns: int) -> asyncio.Future[Mapping[int, int]]:
        """See `GroupStore`."""
        return self._kept(lambda: self._inner.expire_dead_letters(before_ns))


# --- the post ------------------------------------------------------------------------------------


class _LostError(Exception):
    """No answer can come any more."""


@dataclass
class Post:
    """Carries messages between nodes of one process.

    Attributes:
        carriers: Who is there, by address.
        holders: Who holds which seat, by its address.
        refuse: Is asked for every message before it is sent; it may raise.
        carried: How many messages of each class have arrived.
    """

    carriers: "dict[str, PostCarrier]" = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)
    refuse: Callable[[object], None] = lambda _message: None
    carried: dict[str, int] = field(default_factory=dict)

    def hold(self, seat: str, address: str) -> None:
        """Lets all know who holds a seat; empty: nobody."""
        if address:
            self.holders[seat] = address
        else:
            self.holders.pop(seat, None)
        for carrier in list(self.carriers.values()):
            carrier.seat_moved(seat, address)

    def cut(self, carrier: "PostCarrier") -> None:
        """Ends a node's connection; all hear of it."""
        address = carrier.address
        if not address:
            return
        del self.carriers[address]
        carrier.address = ""
        for seat in [each for each, who in self.holders.items() if who == address]:
            self.hold(seat, "")
        for other in list(self.carriers.values()):
            other.node_gone(address)
            carrier.node_gone(other.address)

    def connect(self, carrier: "PostCarrier", address: str) -> None:
        """Gives a node an address."""
        carrier.address = address
        self.carriers[address] = carrier


class PostCarrier:
    """A `Carrier` of one node.

    Attributes:
        frozen: What comes here is not read.
    """

    def __init__(self, post: Post, node: str) -> None:
        self._post = post
        self.node = node
        self.address = ""
        self.frozen = False
        self._handlers: dict[str, tuple[type[Any], Handler[Any]]] = {}
        self._receivers: dict[str, tuple[type[Any], Receiver[Any]]] = {}
        self._listeners: list[CarrierListener] = []
        self._waiting: dict[asyncio.Future[Any], tuple[str, str]] = {}
        self._moved = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def nodes(self) -> Collection[str]:
        """See `Carrier`."""
        return self._post.carriers if self.address else ()

    async def request(
        self, target: str, message: object, expects: type[T], seconds: float, *, seat: bool
    ) -> T:
        """See `Carrier`."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    address = await self._address(target) if seat else target
                    try:
                        return await self._ask(address, target if seat else "", message, expects)
                    except _LostError as error:
                        if not seat:
                            raise gone(str(error)) from None
        except TimeoutError:
            raise gone(f"{target} has not answered") from None

    def tell(self, address: str, message: object, body: bytes = b"") -> bool:
        """See `Carrier`."""
        if address not in self.nodes:
            return False
        self._post.refuse(message)
        name, raw = type(message).__name__, bytes(encode(message))
        self._send(address, lambda to, sender: to.take(name, raw, body, sender))
        return True

    def on_request(self, kind: type[T], handler: Handler[T]) -> None:
        """See `Carrier`."""
        assert kind.__name__ not in self._handlers
        self._handlers[kind.__name__] = (kind, handler)

    def on_tell(self, kind: type[T], receiver: Receiver[T]) -> None:
        """See `Carrier`."""
        assert kind.__name__ not in self._receivers
        self._receivers[kind.__name__] = (kind, receiver)

    def watch(self, listener: CarrierListener) -> None:
        """See `Carrier`."""
        self._listeners.append(listener)

    # --- what the post does ----------------------------------------------------------------------

    def take(self, name: str, raw: bytes, body: bytes, sender: str) -> None:
        """Takes a message."""
        self._count(name)
        kind, receiver = self._receivers[name]
        receiver(decode(raw, kind), memoryview(body), sender)

    def node_gone(self, address: str) -> None:
        """Takes notice that a node is gone."""
        for future, (asked, _) in list(self._waiting.items()):
            if asked == address and not future.done():
                future.set_exception(_LostError(f"{address} is gone"))
        for listener in self._listeners:
            listener.node_gone(address)

    def seat_moved(self, seat: str, address: str) -> None:
        """Takes notice of who holds a seat."""
        self._moved.set()
        for future, (asked, of) in list(self._waiting.items()):
            if of == seat and asked != address and not future.done():
                future.set_exception(_LostError(f"{seat} has moved"))
        for listener in self._listeners:
            listener.seat_moved(seat, address)

    async def _address(self, seat: str) -> str:
        while not self.address or seat not in self._post.holders:
            self._moved.clear()
            await self._moved.wait()
        return self._post.holders[seat]

    async def _ask(self, address: str, seat: str, message: object, expects: type[T]) -> T:
        if address not in self.nodes:
            raise _LostError(f"{address} is gone")
        self._post.refuse(message)
        name, raw = type(message).__name__, bytes(encode(message))
        answer: asyncio.Future[tuple[str, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[answer] = (address, seat)
        try:
            self._send(address, lambda to, sender: to.handle(name, raw, sender, answer))
            failed, told = await answer
        finally:
            del self._waiting[answer]
        if failed:
            raise decode(told, Failure).error()
        return decode(told, expects)

    def _send(self, address: str, arrive: "Callable[[PostCarrier, str], None]") -> None:
        sender = self.address

        def deliver() -> None:
            to = self._post.carriers.get(address)
            if to is not None and not to.frozen and sender in self._post.carriers:
                arrive(to, sender)

        asyncio.get_running_loop().call_soon(deliver)

    def handle(
        self, name: str, raw: bytes, sender: str, answer: "asyncio.Future[tuple[str, bytes]]"
    ) -> None:
        """Answers a message."""
        self._count(name)
        task = asyncio.create_task(self._answer(name, raw, sender, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(
        self, name: str, raw: bytes, sender: str, answer: "asyncio.Future[tuple[str, bytes]]"
    ) -> None:
        kind, handler = self._handlers[name]
        failed, told = "", b""
        try:
            told = bytes(encode(await handler(decode(raw, kind), sender)))
        except SwitchboardError as error:
            failure = Failure.of(error)
            failed, told = failure.kind, bytes(encode(failure))
        if not self.address:
            return

        def arrive(_to: PostCarrier, _sender: str) -> None:
            if not answer.done():
                answer.set_result((failed, told))

        self._send(sender, arrive)

    def _count(self, name: str) -> None:
        self._post.carried[name] = self._post.carried.get(name, 0) + 1

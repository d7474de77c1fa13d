"""A registry that nodes of one process share, in the loop's own time and without a server.

The place decides with the very `Directory` of a hub that stands alone, so what it decides is what
the conformance tests hold all registries to.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.registry.directory import Directory, too_many
from switchboard_server.core.registry.entries import Declared, Entry
from switchboard_server.core.registry.limits import RegistryLimits
from switchboard_server.core.registry.model import (
    Change,
    Key,
    Moment,
    Registration,
    RemovalCause,
    Status,
)
from switchboard_server.core.registry.replica import SharedEntry
from switchboard_server.core.registry.shared import SharedRegistry
from switchboard_server.core.registry.sharing import (
    Hold,
    Judgement,
    Record,
    SharedCapabilities,
    SharedChange,
    SharedHandler,
    View,
)
from tests.support.loop import manual_loop, turns
from tests.support.registries import ScriptedProber, a_registration

HISTORY = 100
"""How many changes the place remembers."""

T = TypeVar("T")


class Place:
    """Where it is kept, and who shares it.

    Attributes:
        stores: Those of the nodes that live, by their names.
        view: Who lives.
        announced: Changes up to this revision were published.
        judged: What checks have found, as far as it was taken.
    """

    def __init__(self) -> None:
        self.stores: dict[str, MemoryStore] = {}
        self.view = View(0, (), 0)
        self.announced = 0
        self.judged: list[Judgement] = []
        self.directory = Directory(self._changed)
        self._loop = manual_loop()
        self._stamp = 0
        self._withheld = (0, 0)
        self._births: dict[Key, tuple[Entry, int, int]] = {}
        self._stamps: dict[Key, int] = {}
        self._changes: deque[SharedChange] = deque(maxlen=HISTORY)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def now(self) -> Moment:
        """The time."""
        return Moment(self._loop.time(), self._loop.clock())

    def join(self, store: "MemoryStore") -> None:
        """Takes a node for alive."""
        self.stores[store.node] = store
        self._look()

    def bury(self, store: "MemoryStore") -> None:
        """Takes a node for dead: leases that its streams held run on without them."""
        if self.stores.pop(store.node, None) is None:
            return
        for entry in list(self.directory):
            if isinstance(entry.holder, str) and entry.holder in store.tokens:
                self.free(entry, entry.instance.spec.lease_ns / SECOND_NS)
        store.tokens.clear()
        self._look()

    def tell(self, telling: Callable[[SharedHandler], None]) -> None:
        """Tells every node something."""
        for store in self.stores.values():
            store.tell(telling)

    def everything(self, handler: SharedHandler) -> None:
        """Tells a node all that is known."""
        records = [self.record(entry) for entry in self.directory]
        handler.loaded(self.directory.revision, records, list(self._changes))

    def stamp(self, entry: Entry) -> Record:
        """Takes note of a write that is no change."""
        self._stamp += 1
        self._stamps[entry.instance.key] = self._stamp
        self.arm()
        return self.record(entry)

    def written(self, entry: Entry) -> Record:
        """Takes note of a write that is no change, and tells of it."""
        record = self.stamp(entry)
        self.tell(lambda handler: handler.touched(record))
        return record

    def record(self, entry: Entry) -> Record:
        """An instance as nodes share it."""
        key = entry.instance.key
        doomed = entry.unhealthy_until
        return Record(
            entry.instance,
            entry.declared,
            entry.checked,
            entry.leased,
            str(entry.holder or ""),
            self._birth(key, entry),
            entry.lease_expire_ns,
            None if doomed == math.inf else self.wall_ns(doomed),
            entry.unconfirmed,
            self._stamps[key],
        )

    def wall_ns(self, seconds: float) -> int:
        """A moment of the loop by the wall clock."""
        return self.now.wall_ns + round((seconds - self.now.seconds) * SECOND_NS)

    def free(self, entry: Entry, seconds: float) -> None:
        """Lets a lease run on for so long without the stream that held it."""
        entry.lease_until = self.now.seconds + seconds
        entry.lease_expire_ns = self.wall_ns(entry.lease_until)
        self.directory.release(entry)
        self.written(entry)

    def arm(self) -> None:
        """Looks at what runs out when it does, and tells whether eviction is withheld."""
        withheld = self.directory.preserving_since_ns, self.directory.withheld
        if withheld != self._withheld:
            self._withheld = withheld
            self.tell(lambda handler: handler.withheld(*withheld))
        if self._timer is not None:
            self._timer.cancel()
        due = self.directory.next_deadline(self.now)
        self._timer = None if due == math.inf else self._loop.call_at(due, self._sweep)

    def close(self) -> None:
        """Looks at nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        view = self.view = View(self.view.number + 1, tuple(self.stores), self.announced)
        self.tell(lambda handler: handler.viewed(view))

    def _sweep(self) -> None:
        confirmed = [entry for entry in self.directory if not entry.unconfirmed]
        self.directory.expire(self.now)
        for entry in confirmed:
            if entry.unconfirmed:
                self.written(entry)
        self.arm()

    def _birth(self, key: Key, entry: Entry) -> int:
        known = self._births.get(key)
        if known is None or known[:2] != (entry, entry.generation):
            # Those of one key grow, also when it registers anew.
            known = (entry, entry.generation, self._stamp)
            self._births[key] = known
        return known[2]

    def _changed(self, change: Change, entry: Entry) -> None:
        self._stamp += 1
        self._stamps[change.key] = self._stamp
        shared = SharedChange(
            change.revision, self.record(entry), change.previous, change.cause, change.quiet, 0.0
        )
        self._changes.append(shared)
        self.tell(lambda handler: handler.changed(shared))


class MemoryStore:
    """A `SharedStore` over a place in memory.

    Attributes:
        handler: Is told.
        tokens: Those of the node that are valid.
        problem: Why the place cannot be used from here; None: it can.
        deaf: Whether the node hears nothing until `listen`; its writes are done all the same.
        held: Whether writes are answered only when `release` is called.
        lost: Whether the answers to writes get lost.
        reports: The loads that were reported.
    """

    capabilities = SharedCapabilities("memory", survives_restart=False)
    handler: SharedHandler

    def __init__(self, place: Place, node: str) -> None:
        self._place = place
        self._node = node
        self._news: deque[Callable[[SharedHandler], None]] = deque()
        self._released = asyncio.Event()
        self._numbers = 0
        self.tokens: set[str] = set()
        self.problem: str | None = None
        self.deaf = False
        self.held = False
        self.lost = False
        self.reports: list[Mapping[Key, float]] = []

    @property
    def node(self) -> str:
        """See `SharedStore.node`."""
        return self._node

    @property
    def alive(self) -> bool:
        """See `SharedStore.alive`."""
        return self.problem is None

    async def open(self, handler: SharedHandler) -> None:
        """See `SharedStore.open`."""
        self.handler = handler
        if self.problem is None:
            self._place.everything(handler)
            self._place.join(self)
        handler.reported(self.problem)

    async def register(
        self, spec: Registration, registrant: str, max_instances: int
    ) -> tuple[Record, bool]:
        """See `SharedStore.register`."""
        self._admit()
        place, directory = self._place, self._place.directory
        known = directory.find(spec.key)
        if known is None and directory.size >= max_instances:
            raise too_many(max_instances)
        before = None if known is None else _lasting(place.record(known))
        entry, created = directory.put(spec, registrant, place.now)
        if entry.holder:
            entry.lease_until = math.inf
        if before == _lasting(place.record(entry)):
            # Nothing but the lease: told as what it is.
            record = place.stamp(entry)
            place.tell(
                lambda handler: handler.renewed(spec.key, record.lease_expire_ns, record.stamp)
            )
            return await self._answer((record, created))
        return await self._answer((place.written(entry), created))

    def token(self) -> str:
        """See `SharedStore.token`."""
        self._numbers += 1
        token = f"{self._node}:{self._numbers}"
        self.tokens.add(token)
        return token

    async def hold(self, key: Key, token: str, before: Hold | None = None) -> Record | None:
        """See `SharedStore.hold`."""
        self._admit()
        directory = self._place.directory
        entry = directory.get(key)
        if before is not None:
            same = self._place.record(entry).birth == before.birth
            if not same or entry.holder not in (None, *before.tokens):
                return await self._answer(None)
        directory.hold(entry, token, self._place.now)
        entry.lease_until = math.inf
        return await self._answer(self._place.written(entry))

    async def let_go(self, key: Key, token: str, seconds: float) -> None:
        """See `SharedStore.let_go`."""
        self._admit()
        entry = self._place.directory.find(key)
        if entry is not None and entry.holder == token:
            self._place.free(entry, seconds)
        await self._answer(None)

    async def remove(self, key: Key) -> int:
        """See `SharedStore.remove`."""
        self._admit()
        directory = self._place.directory
        entry = directory.get(key)
        change = directory.remove(entry, RemovalCause.DEREGISTERED, self._place.now)
        return await self._answer(change.revision)

    async def declare(self, key: Key, declared: Declared | None) -> Record:
        """See `SharedStore.declare`."""
        self._admit()
        entry = self._place.directory.get(key)
        self._place.directory.declare(entry, declared, self._place.now)
        return await self._answer(self._place.written(entry))

    async def judge(self, view: int, judgements: Sequence[Judgement]) -> bool:
        """See `SharedStore.judge`."""
        self._admit()
        if view != self._place.view.number:
            return await self._answer(False)
        for judgement in judgements:
            entry = self._place.directory.find(judgement.key)
            if entry is not None and self._place.record(entry).birth == judgement.birth:
                self._place.judged.append(judgement)
                check = entry.instance.spec.check
                bad = judgement.verdict.status is Status.UNHEALTHY
                # The node has weighed it already.
                for _ in range(check.unhealthy_threshold if bad else check.healthy_threshold):
                    self._place.directory.judge(entry, judgement.verdict, self._place.now)
                self._place.written(entry)
        return await self._answer(True)

    async def report(self, loads: Mapping[Key, float]) -> None:
        """See `SharedStore.report`."""
        self._admit()
        self.reports.append(loads)
        self._place.tell(lambda handler: handler.loads(loads))
        await self._answer(None)

    async def close(self) -> None:
        """See `SharedStore.close`."""
        self._place.bury(self)

    def beat(self) -> None:
        """Tells the place how far the node has announced changes, as nodes do now and then."""
        self._place.announced = max(self._place.announced, self.handler.announced() or 0)

    def cut(self, problem: str = "no route") -> None:
        """Cuts the node off; the others do not notice until it is buried."""
        self.problem = problem
        self.handler.reported(problem)

    def mend(self) -> None:
        """Connects it again."""
        self.problem = None
        self._news.clear()
        self._place.everything(self.handler)
        self.handler.reported(None)
        if self._place.stores.get(self._node) is not self:
            self._place.join(self)
            self.handler.joined()
            return
        view = self._place.view
        self.tell(lambda handler: handler.viewed(view))

    def listen(self) -> None:
        """Hears what it has missed."""
        self.deaf = False
        self._hear()

    def release(self) -> None:
        """Answers what was done."""
        self.held = False
        self._released.set()

    def tell(self, telling: Callable[[SharedHandler], None]) -> None:
        """Tells the node something, in the next turn of the loop at the earliest."""
        if self.problem is None:
            self._news.append(telling)
            asyncio.get_running_loop().call_soon(self._hear)

    def _hear(self) -> None:
        while self._news and not self.deaf:
            self._news.popleft()(self.handler)

    def _admit(self) -> None:
        if self.problem is not None:
            raise UnavailableError("REGISTRY_UNAVAILABLE", self.problem)

    async def _answer(self, answer: T) -> T:
        if self.held:
            await self._released.wait()
        if self.lost:
            raise UnavailableError("REGISTRY_UNAVAILABLE", "the answer was lost")
        return answer


class SharingNode:
    """A node with its registry, and what came of it.

    Attributes:
        printed: Revisions of the changes that it published.
    """

    def __init__(self, place: Place, name: str, limits: RegistryLimits | None = None) -> None:
        self.store = MemoryStore(place, name)
        self.prober = ScriptedProber()
        self.registry = SharedRegistry(self.store, self.prober, limits, manual_loop().clock)
        self.printed: list[int] = []

    async def publish(self, changes: Sequence[Change]) -> None:
        """See `Publish`."""
        self.printed += [change.revision for change in changes]

    async def register(self, number: int = 1, **fields: Any) -> Entry:
        """Registers an instance."""
        return (await self.registry.register(a_registration(number, **fields)))[0]

    def entry(self, number: int = 1) -> SharedEntry:
        """An instance as the node knows it."""
        entry = self.registry._replica.entry(a_key(number))
        assert entry is not None
        return entry

    @property
    def there(self) -> dict[str, Status]:
        """Who is registered, as far as the node knows."""
        entries = self.registry._replica.entries()
        return {entry.instance.spec.id: entry.instance.status for entry in entries}

    async def close(self) -> None:
        """Ends it in good order. May be called twice."""
        await self.registry.begin_shutdown()
        await self.registry.close()


class Sharing:
    """Some nodes and the place that they share.

    Attributes:
        place: The place.
        nodes: The nodes, in the order in which they came.
    """

    def __init__(self) -> None:
        self.place = Place()
        self.nodes: list[SharingNode] = []

    async def add(self, name: str, limits: RegistryLimits | None = None) -> SharingNode:
        """Starts one more."""
        node = SharingNode(self.place, name, limits)
        self.nodes.append(node)
        await node.registry.open(node.publish)
        await turns()
        return node


@asynccontextmanager
async def sharing(count: int = 2) -> AsyncIterator[Sharing]:
    """Nodes "n0", "n1" and so on, that know each other."""
    made = Sharing()
    for number in range(count):
        await made.add(f"n{number}")
    try:
        yield made
    finally:
        for node in made.nodes:
            node.store.release()
            if node.store.problem is not None:
                # What it still has to say would wait for a time that does not pass.
                node.store.mend()
            await node.close()
        made.place.close()


def a_key(number: int = 1) -> Key:
    """An instance that `a_registration` registers."""
    return Key("users", f"i{number}")


def _lasting(record: Record) -> Record:
    """What of it does not change with each sign of life."""
    return replace(record, lease_expire_ns=0, unconfirmed=False, stamp=0)

"""Registries, each in a thread and an event loop of its own; some share one over a Redis.

So a node can be frozen as by SIGSTOP, while time and the others go on, or die without a word.
"""

import asyncio
import itertools
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from switchboard_server.backends.redis.link import RedisLink
from switchboard_server.backends.redis.registry import RedisRegistry
from switchboard_server.core.errors import NotFoundError, UnavailableError
from switchboard_server.core.registry.discovery import Selection
from switchboard_server.core.registry.entries import Entry
from switchboard_server.core.registry.leases import Lease
from switchboard_server.core.registry.limits import RegistryLimits
from switchboard_server.core.registry.local import LocalRegistry
from switchboard_server.core.registry.model import Change, Key, Status
from switchboard_server.core.registry.ownership import in_charge
from switchboard_server.core.registry.ports import RegistryStore
from switchboard_server.core.registry.registry import Registry
from switchboard_server.core.registry.replica import SharedEntry
from switchboard_server.core.registry.shared import SharedRegistry
from switchboard_server.core.registry.watching import Delta, Item, Watcher
from tests.support.registries import ScriptedProber, a_registration

LEASE = 1.5
"""Lease of the nodes, in seconds."""
REAP = 1.6
"""After how many seconds unhealthy instances go."""
TIMEOUT = 15.0
"""How long anything may take, on a busy machine."""

T = TypeVar("T")


def a_prefix() -> str:
    """A name under which nobody else keeps anything."""
    return f"test-{secrets.token_hex(4)}"


async def until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> float:
    """Waits until something is so, which other threads bring about; returns how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not come to be so"
        # In a thread, because the time of some loops stands still.
        await asyncio.to_thread(time.sleep, 0.005)
    return time.monotonic() - began


class Paper:
    """Where changes are announced.

    Attributes:
        printed: Revision, event and instance of each, as often as they were published.
    """

    def __init__(self) -> None:
        self.printed: list[tuple[int, str, str]] = []

    async def publish(self, changes: Sequence[Change]) -> None:
        """See `Publish`."""
        for change in changes:
            what = change.cause.name if change.cause is not None else change.instance.status.name
            self.printed.append((change.revision, what, str(change.key)))

    @property
    def events(self) -> list[tuple[int, str, str]]:
        """What subscribers see: the log takes an id, which tells the revision, once."""
        return list(dict.fromkeys(self.printed))


class Host:
    """A registry in a thread and an event loop of its own.

    Attributes:
        registry: What it hosts, once `start` has returned.
        prober: Checks instances for it.
        changes: All that it told its listeners, in order.
        drains: Likewise of draining.
        gone: It has ended.
    """

    registry: Registry

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.drains: list[tuple[str, bool]] = []
        self.prober = ScriptedProber()
        self.gone = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    async def start(self) -> Self:
        """Opens it; returns itself."""
        await self.run(self._start())
        return self

    async def stop(self) -> None:
        """Ends it in good order, as far as it is there."""
        if self.gone:
            return
        self.gone = True
        await self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def run(self, doing: Awaitable[T]) -> T:
        """Has something done in its own loop."""

        async def wrapped() -> T:
            async with asyncio.timeout(TIMEOUT):
                return await doing

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(wrapped(), self._loop))

    async def call(self, function: Callable[[], T]) -> T:
        """Likewise of something that is no coroutine."""

        async def wrapped() -> T:
            return function()

        return await self.run(wrapped())

    async def register(self, number: int = 1, service: str = "users", **fields: Any) -> bool:
        """Registers an instance; returns whether it is new."""
        spec = a_registration(number, service, **fields)
        return (await self.run(self.registry.register(spec)))[1]

    async def hold(self, number: int = 1, load: float | None = None) -> Lease:
        """Holds the lease of an instance."""
        return await self.run(self.registry.keep_alive(a_key(number), load))

    async def let_go(self, lease: Lease, *, broken: bool = True) -> None:
        """Lets go of it."""
        await self.call(lambda: self.registry.let_go(lease, broken=broken))

    async def last_word(self, lease: Lease) -> None:
        """Waits until the hub ends a stream, and raises why."""

        async def follow() -> None:
            while await lease.next() is not None:
                pass

        await self.run(follow())

    async def set_status(self, status: Status | None, number: int = 1) -> None:
        """Says whether an instance wants calls."""
        await self.run(self.registry.set_status(a_key(number), status, "so it is"))

    async def deregister(self, number: int = 1) -> int:
        """Removes an instance; returns the revision."""
        return await self.run(self.registry.deregister(a_key(number)))

    async def watch(self, after: int = 0) -> Watcher:
        """Watches all services."""
        return await self.call(lambda: self.registry.watch([], after=after, all_statuses=True))

    async def next(self, watcher: Watcher) -> Item:
        """What a watcher is told next."""
        return await self.run(watcher.next())

    async def told(self, watcher: Watcher) -> Delta:
        """The changes that a watcher is told next."""
        while not isinstance(item := await self.next(watcher), Delta):
            pass
        return item

    @property
    def there(self) -> dict[str, Status]:
        """Who is registered, as far as it knows."""
        return {entry.instance.spec.id: entry.instance.status for entry in self.entries()}

    @property
    def serving(self) -> list[str]:
        """Whom it lets be discovered."""
        try:
            found = self.registry.discover(Selection("users", limit=1000))
        except (NotFoundError, UnavailableError) as error:
            if error.reason == "REGISTRY_UNAVAILABLE":
                raise
            return []
        return sorted(entry.instance.spec.id for entry in found.entries)

    def entries(self) -> list[Entry]:
        """All that it knows."""
        while True:
            try:
                return list(self.registry._roster)
            except RuntimeError:
                # It changed meanwhile, in its own thread.
                continue

    def entry(self, number: int = 1) -> Entry:
        """An instance."""
        return self.registry._roster.get(a_key(number))

    async def _start(self) -> None:
        await self._open()
        self.registry.on_change(self.changes.append)
        self.registry.on_draining(lambda name, drains: self.drains.append((name, drains)))

    async def _open(self) -> None:
        raise NotImplementedError

    async def _close(self) -> None:
        await self.registry.begin_shutdown()
        await self.registry.close()


class LocalHost(Host):
    """A registry that decides alone.

    Args:
        store: What it is kept in.
    """

    def __init__(self, store: RegistryStore) -> None:
        super().__init__()
        self._store = store

    async def _open(self) -> None:
        self.registry = LocalRegistry(self._store, self.prober, the_limits())
        await self.registry.open()


class Node(Host):
    """A node that shares a registry with others.

    Args:
        url: Where Redis is.
        name: The node's.
        prefix: Begins all names in Redis.
        paper: Where it announces changes.
        max_instances: Most instances.
    """

    registry: SharedRegistry

    def __init__(
        self, url: str, name: str, prefix: str, paper: Paper, max_instances: int = 1000
    ) -> None:
        super().__init__()
        self._arguments = (url, name, prefix, paper, max_instances)
        self._thaw: threading.Event | None = None

    async def stop(self) -> None:
        """See the base; one that is frozen is let go on."""
        if self._thaw is not None:
            self.thaw()
        await super().stop()

    def freeze(self) -> None:
        """Stops it in its tracks."""
        self._thaw = threading.Event()
        self._loop.call_soon_threadsafe(self._thaw.wait)

    def thaw(self) -> None:
        """Lets it go on."""
        assert self._thaw is not None
        self._thaw.set()
        self._thaw = None

    async def die(self) -> None:
        """Ends it without a word to anybody."""
        await self.run(self.link.close())
        await self.stop()

    @property
    def frozen(self) -> bool:
        """Whether it is frozen."""
        return self._thaw is not None

    @property
    def owned(self) -> set[str]:
        """Whom it checks."""
        return {entry.instance.spec.id for entry in self.shared() if entry.owned}

    def shared(self) -> list[SharedEntry]:
        """All that it knows."""
        return [entry for entry in self.entries() if isinstance(entry, SharedEntry)]

    async def _open(self) -> None:
        url, name, prefix, paper, max_instances = self._arguments
        self.link = RedisLink([url], prefix=prefix, name=name, timeout=0.5, beat=0.5)
        await self.link.open()
        self.store = RedisRegistry(self.link, name, lease=LEASE, interval=2.0, reap_after=REAP)
        self.registry = SharedRegistry(self.store, self.prober, the_limits(max_instances))
        await self.registry.open(paper.publish)

    async def _close(self) -> None:
        await super()._close()
        await self.link.close()


def a_key(number: int = 1) -> Key:
    """An instance that `a_registration` registers."""
    return Key("users", f"i{number}")


def the_limits(max_instances: int = 1000) -> RegistryLimits:
    """How registries of tests work: fast."""
    return RegistryLimits(check_interval=1.0, reap_after=REAP, max_instances=max_instances)


class Cluster:
    """Three nodes, and more where a test wants them.

    Args:
        url: Where Redis is.
        prefix: Begins all names in Redis.
    """

    def __init__(self, url: str, prefix: str = "") -> None:
        self.url = url
        self.prefix = prefix or a_prefix()
        self.paper = Paper()
        self.nodes: list[Node] = []

    async def __aenter__(self) -> list[Node]:
        for number in range(3):
            await self.add(f"n{number}")
        await self.settled()
        return self.nodes

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            await node.stop()

    async def add(self, name: str, url: str = "", **arguments: Any) -> Node:
        """Starts one more."""
        node = Node(url or self.url, name, self.prefix, self.paper, **arguments)
        self.nodes.append(node)
        return await node.start()

    @property
    def living(self) -> list[Node]:
        """The nodes that are there."""
        return [node for node in self.nodes if not node.gone]

    def checked_by(self, node: Node, count: int) -> list[int]:
        """Numbers of instances that a node checks while all live: names are random, and hashed."""
        names = {each.store.node for each in self.living}
        found = (
            number
            for number in itertools.count(1)
            if in_charge(str(a_key(number)), names) == node.store.node
        )
        return list(itertools.islice(found, count))

    async def settled(self) -> float:
        """Waits until all nodes know each other and can write; returns how long it took."""
        names = {node.store.node for node in self.living}
        return await until(
            lambda: all(
                node.registry.outage is None and set(node.registry._inspector.nodes) == names
                for node in self.living
            )
        )

    async def agreed(self, expected: Callable[[Node], bool] | None = None) -> float:
        """Waits until all nodes know the same; returns how long it took."""

        def same() -> bool:
            views = [(node.registry.revision, node.there) for node in self.living]
            return all(view == views[0] for view in views) and (
                expected is None or all(map(expected, self.living))
            )

        return await until(same)


@contextmanager
def frozen(node: Node) -> Iterator[None]:
    """A node that is frozen for so long."""
    node.freeze()
    try:
        yield
    finally:
        node.thaw()

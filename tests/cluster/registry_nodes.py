"""Nodes that share a registry over a Redis, each in a thread and an event loop of its own.

So one of them can be frozen as by SIGSTOP, time flowing on and the others with it, or die without a
word.
"""

import asyncio
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from switchboard_server.backends.redis.link import RedisLink
from switchboard_server.backends.redis.registry import RedisRegistry
from switchboard_server.core.registry.discovery import Selection
from switchboard_server.core.registry.entries import Entry
from switchboard_server.core.registry.leases import Lease
from switchboard_server.core.registry.limits import RegistryLimits
from switchboard_server.core.registry.model import Change, Key, Status
from switchboard_server.core.registry.replica import SharedEntry
from switchboard_server.core.registry.shared import SharedRegistry
from switchboard_server.core.registry.watching import Delta, Item, Watcher
from tests.support.registries import ScriptedProber, a_registration

LEASE = 1.5
"""Lease of the nodes, in seconds."""
REAP = 1.0
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
        await asyncio.sleep(0.005)
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


class Node:
    """One node.

    Args:
        url: Where Redis is.
        name: The node's.
        prefix: Begins all names in Redis.
        paper: Where it announces changes.
        max_instances: Most instances.

    Attributes:
        changes: All that it told its listeners, in order.
        drains: Likewise of draining.
        prober: Checks instances for it.
    """

    def __init__(
        self, url: str, name: str, prefix: str, paper: Paper, max_instances: int = 1000
    ) -> None:
        self.changes: list[Change] = []
        self.drains: list[tuple[str, bool]] = []
        self.prober = ScriptedProber()
        self._arguments = (url, name, prefix, paper, max_instances)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._thaw: threading.Event | None = None
        self.gone = False

    async def start(self) -> "Node":
        """Opens it; returns itself."""
        await self.run(self._open())
        return self

    async def run(self, doing: Awaitable[T]) -> T:
        """Has something done in the node's own loop."""

        async def wrapped() -> T:
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
        return await self.run(self.registry.keep_alive(Key("users", f"i{number}"), load))

    async def let_go(self, lease: Lease, *, broken: bool = True) -> None:
        """Lets go of it."""
        await self.call(lambda: self.registry.let_go(lease, broken=broken))

    async def watch(self, after: int = 0) -> Watcher:
        """Watches all services."""
        return await self.call(lambda: self.registry.watch([], after=after, all_statuses=True))

    async def next(self, watcher: Watcher) -> Item:
        """What a watcher is told next."""
        return await asyncio.wait_for(self.run(watcher.next()), TIMEOUT)

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

    async def stop(self) -> None:
        """Ends it in good order, as far as it is there."""
        if self.gone:
            return
        if self._thaw is not None:
            self.thaw()
        self.gone = True
        await self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    @property
    def frozen(self) -> bool:
        """Whether it is frozen."""
        return self._thaw is not None

    @property
    def there(self) -> dict[str, Status]:
        """Who is registered, as far as it knows."""
        return {entry.instance.spec.id: entry.instance.status for entry in self.entries()}

    @property
    def serving(self) -> list[str]:
        """Whom it lets be discovered."""
        found = self.registry.discover(Selection("users", limit=1000))
        return sorted(entry.instance.spec.id for entry in found.entries)

    @property
    def owned(self) -> set[str]:
        """Whom it checks."""
        return {entry.instance.spec.id for entry in self.entries() if entry.owned}

    def entries(self) -> list[SharedEntry]:
        """All that it knows."""
        while True:
            try:
                return self.registry._replica.entries()
            except RuntimeError:
                # It changed meanwhile, in its own thread.
                continue

    def entry(self, number: int = 1) -> Entry:
        """An instance."""
        return self.registry._replica.get(Key("users", f"i{number}"))

    async def _open(self) -> None:
        url, name, prefix, paper, max_instances = self._arguments
        self.link = RedisLink([url], prefix=prefix, name=name, timeout=0.5, beat=0.5)
        await self.link.open()
        self.store = RedisRegistry(self.link, name, lease=LEASE, interval=2.0, reap_after=REAP)
        limits = RegistryLimits(check_interval=1.0, reap_after=REAP, max_instances=max_instances)
        self.registry = SharedRegistry(self.store, self.prober, limits)
        await self.registry.open(paper.publish)
        self.registry.on_change(self.changes.append)
        self.registry.on_draining(lambda name, drains: self.drains.append((name, drains)))

    async def _close(self) -> None:
        await self.registry.begin_shutdown()
        await self.registry.close()
        await self.link.close()


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


async def told(node: Node, watcher: Watcher) -> Delta:
    """The changes that a watcher is told next."""
    while not isinstance(item := await node.next(watcher), Delta):
        pass
    return item


@contextmanager
def frozen(node: Node) -> Iterator[None]:
    """A node that is frozen for so long."""
    node.freeze()
    try:
        yield
    finally:
        node.thaw()

"""The backends under test, each with what only it can do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from switchboard_server.backends.embedded.groups import EmbeddedGroups
from switchboard_server.backends.embedded.log import EmbeddedLog
from switchboard_server.backends.embedded.memory import MemoryStore
from switchboard_server.backends.embedded.sqlite import FILE_NAME, SqliteStore
from switchboard_server.backends.embedded.store import Retention, Store, StoreError
from switchboard_server.backends.rabbitmq.log import ClusterLog, ClusterLogSettings
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.groups.ports import GroupStore
from switchboard_server.core.ports import Appended, Capabilities
from switchboard_server.core.records import Batch, Extra
from tests.support.cluster_logs import LogNode, a_prefix
from tests.support.events import PlainCodec, bodies, sequences, some
from tests.support.logs import HookedStore, Recorder
from tests.support.loop import manual_loop, turns
from tests.support.rabbit import PATIENCE_SECONDS

MEMORY = "memory"
SQLITE = "sqlite"
RABBITMQ = "rabbitmq"
BACKENDS = {
    MEMORY: MemoryStore.capabilities,
    SQLITE: SqliteStore.capabilities,
}
"""What each embedded backend promises, by its name."""
LOGS = {**BACKENDS, RABBITMQ: ClusterLog.capabilities}
"""What each log promises, by its name."""


@dataclass
class Bench:
    """Logs of one backend, over one place.

    Args:
        name: Name of the backend.
        folder: Where a log that survives restarts keeps its data.
        url: Where RabbitMQ is, for the backend that needs it.
    """

    name: str
    folder: Path
    url: str = ""
    opened: list["OpenLog | LogNode"] = field(default_factory=list)
    prefix: str = field(default_factory=a_prefix)

    @property
    def capabilities(self) -> Capabilities:
        """What the backend promises."""
        return LOGS[self.name]

    def beside(self, folder: Path) -> "Bench":
        """The same backend over another place."""
        return Bench(self.name, folder, self.url)

    async def open(self, retention: Retention | None = None) -> "OpenLog":
        """Opens a log, the same again where the backend survives restarts."""
        if self.name == RABBITMQ:
            if retention is not None:
                pytest.skip(f"{self.name}: removes whole segments; see test_cluster_log_reading.py")
            return await self._open_cluster()
        keep = retention or Retention()
        store: Store = MemoryStore(keep) if self.name == MEMORY else SqliteStore(self.folder, keep)
        opened = OpenLog(HookedStore(store))
        await opened.log.open(opened.listener)
        self.opened.append(opened)
        return opened

    async def _open_cluster(self) -> "OpenLog":
        node = LogNode(
            self.url,
            self.prefix,
            # While time stands still nothing is expected from the other end either.
            heartbeat=0,
            clock=manual_loop().clock,
            settings=ClusterLogSettings(batch_size=4096),
        )
        self.opened.append(node)
        opened = OpenClusterLog(node)
        await node.start()
        # Who finds no connection tries again a moment later, which does not come by itself.
        for link in (node.link, node.reading):
            await link.wait_connected(PATIENCE_SECONDS)
        await node.log.open(opened.listener)
        while not node.numbers:
            await node.round_trip()
        return opened

    async def close(self) -> None:
        """Closes what is open."""
        for opened in self.opened:
            await opened.close()


class OpenLog:
    """An open log, its listener, and the means to disturb it."""

    def __init__(self, store: HookedStore) -> None:
        self.store = store
        self.listener = Recorder()
        self.log = EmbeddedLog(store, PlainCodec(), clock=manual_loop().clock)
        self.embedded = EmbeddedGroups(self.log)
        self.groups: GroupStore = self.embedded

    async def close(self) -> None:
        """Closes it all."""
        await self.log.close()

    async def append(self, *texts: str, **fields: object) -> Appended:
        """Appends events of one call, and waits for the answer."""
        return await self.log.append(some(*texts, **fields))  # type: ignore[arg-type]

    async def append_each(self, *texts: str) -> None:
        """Appends events one by one, each in a batch of its own, a second apart."""
        for text in texts:
            await self.append(text)
            manual_loop().advance(1)

    async def batches(self, after: int = 0) -> list[Batch]:
        """Everything after a sequence."""
        return list((await self.log.read(after, 1 << 30)).batches)

    async def settle(self) -> None:
        """Lets all happen that can happen without time passing, in the log's thread too."""
        for _ in range(8):
            await self.log._writer.call(int)  # Answered when all that was asked before is done.
            await turns(5)

    async def trim(self) -> None:
        """Lets the time come at which the log removes what need not be retained."""
        await self.settle()
        manual_loop().advance(1)
        await self.settle()

    def fail(self, *names: str, text: str = "the disk is full") -> None:
        """Has some of the store's methods fail from now on."""

        def raise_it() -> None:
            raise StoreError(text)

        for name in names:
            self.store.before[name] = raise_it

    def heal(self) -> None:
        """Has nothing fail any more."""
        self.store.before.clear()


class OpenClusterLog(OpenLog):
    """An open log of a node that is alone in its cluster."""

    def __init__(self, node: LogNode) -> None:
        self.node = node
        self.listener = Recorder()
        self.log = node.log  # type: ignore[assignment]  # The tests ask what the port has.

    @property
    def store(self) -> HookedStore:  # type: ignore[override]
        """Skips what is about a store."""
        pytest.skip("rabbitmq: has no store that can be made fail; see test_cluster_log_faults.py")

    async def settle(self) -> None:
        """See the base: lets happen what comes from RabbitMQ too."""
        for _ in range(4):
            await turns(5)
            await self.node.round_trip()
        while self.node.log._schedule.busy:
            await self.node.round_trip()
        await turns(5)

    async def trim(self) -> None:
        """Skips what is about a store that is trimmed."""
        pytest.skip("rabbitmq: removes whole segments; see test_cluster_log_reading.py")


def surviving(bench: Bench) -> Bench:
    """Skips what is about restarts where the backend says that nothing survives them."""
    if not bench.capabilities.survives_restart:
        pytest.skip(f"{bench.name}: a restart empties it (Capabilities.survives_restart)")
    return bench


def on_disk(bench: Bench) -> Path:
    """Where the backend keeps a log in a file; skips where it has none."""
    if bench.name != SQLITE:
        pytest.skip(f"{bench.name}: has no file that could be damaged")
    return bench.folder / FILE_NAME


def within_the_log(held: "OpenLog") -> None:
    """Skips what is about the log's own transactions where groups are kept elsewhere."""
    if held.groups is not held.embedded:
        pytest.skip("groups are kept apart from the log, in transactions of their own")


def held_bodies(batches: Sequence[Batch]) -> list[str]:
    """The bodies of all events of some batches."""
    return [body for batch in batches for body in bodies(batch.frames)]


def held_sequences(batches: Sequence[Batch]) -> list[int]:
    """The sequences of all events of some batches."""
    return [sequence for batch in batches for sequence in sequences(batch.frames)]


def later(*seconds: float) -> dict[int, Extra]:
    """Extras of events that are due so many seconds from now."""
    now = manual_loop().clock()
    return {
        index: Extra(deliver_at_ns=now + round(each * SECOND_NS))
        for index, each in enumerate(seconds)
    }

"""Registries for tests of the core: a store and a prober that do what a test says."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.registry.announcing import Publish
from switchboard_server.core.registry.entries import Entry, Verdict
from switchboard_server.core.registry.limits import RegistryLimits
from switchboard_server.core.registry.local import LocalRegistry
from switchboard_server.core.registry.model import (
    HealthCheck,
    Key,
    Moment,
    Probe,
    ProbeKind,
    Registration,
    Status,
)
from switchboard_server.core.registry.ports import (
    RegistryCapabilities,
    StoredInstance,
    StoredRegistry,
)
from switchboard_server.core.registry.targets import Target
from switchboard_server.core.registry.validation import normalise
from tests.support.loop import EPOCH_NS, manual_loop

PASSED = Verdict(Status.SERVING, "passed")
FAILED = Verdict(Status.UNHEALTHY, "failed")
OWN_WORD = Verdict(Status.NOT_SERVING, "says so")
TCP = HealthCheck(Probe(ProbeKind.TCP))
"""A check."""


def a_registration(number: int = 1, service: str = "users", **fields: Any) -> Registration:
    """A registration that the hub takes."""
    named = {"id": f"i{number}", "host": "10.0.0.1", "port": 1000 + number}
    return Registration(service, **{**named, **fields})


def a_spec(number: int = 1, service: str = "users", **fields: Any) -> Registration:
    """The same with defaults filled in."""
    return normalise(a_registration(number, service, **fields), 10_000_000_000)


def status_of(entry: Entry) -> Status:
    """The status that others see."""
    return entry.instance.status


def at(seconds: float) -> Moment:
    """A moment so many seconds after the beginning."""
    return Moment(seconds, EPOCH_NS + round(seconds * 1e9))


class ScriptedStore:
    """A `RegistryStore` that keeps what it is given.

    Attributes:
        found: What it holds when it is opened.
        problem: Why it takes nothing; None: it takes everything.
        held: Whether saves wait until `release` is called.
        kept: What it holds.
        saves: How many saves there were.
    """

    capabilities = RegistryCapabilities("scripted", survives_restart=True)

    def __init__(self, found: StoredRegistry | None = None) -> None:
        self.found = found or StoredRegistry()
        self.problem: str | None = None
        self.held = False
        self.kept: dict[Key, StoredInstance] = {
            each.instance.key: each for each in self.found.instances
        }
        self.revision = self.found.revision
        self.saves = 0
        self.complete: bool | None = None
        self._waiting: list[asyncio.Future[None]] = []

    async def open(self) -> StoredRegistry:
        """See `RegistryStore.open`."""
        return self.found

    def save(
        self, instances: Sequence[StoredInstance], removed: Sequence[Key], revision: int
    ) -> asyncio.Future[None]:
        """See `RegistryStore.save`."""
        self.saves += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.problem is not None:
            future.set_exception(UnavailableError("REGISTRY_UNAVAILABLE", self.problem))
            return future
        self.kept.update({each.instance.key: each for each in instances})
        for key in removed:
            self.kept.pop(key, None)
        self.revision = revision
        if self.held:
            self._waiting.append(future)
        else:
            future.set_result(None)
        return future

    def release(self) -> None:
        """Answers the saves that wait."""
        self.held = False
        for future in self._waiting:
            future.set_result(None)
        self._waiting.clear()

    async def close(self, *, complete: bool) -> None:
        """See `RegistryStore.close`."""
        self.complete = complete


class ScriptedProber:
    """A `Prober` that finds what a test says.

    Attributes:
        verdict: What it finds.
        verdicts: What it finds at some ports instead.
        refusal: What `admit` raises; None: nothing.
        held: Whether probes wait until they are cancelled or `release` is called.
        probed: The targets so far.
    """

    def __init__(self) -> None:
        self.verdict = PASSED
        self.verdicts: dict[int, Verdict] = {}
        self.refusal: Exception | None = None
        self.held = False
        self.probed: list[Target] = []
        self.closed = False
        self._released = asyncio.Event()
        self._late: Verdict | None = None

    async def admit(self, target: Target) -> None:
        """See `Prober.admit`."""
        if self.refusal is not None:
            raise self.refusal

    async def probe(self, target: Target, seconds: float) -> Verdict:
        """See `Prober.probe`."""
        self.probed.append(target)
        if self.held:
            await self._released.wait()
            if self._late is not None:
                return self._late
        return self.verdicts.get(target.port, self.verdict)

    def release(self, verdict: Verdict | None = None) -> None:
        """Lets the probes that wait go on, and waits for none any more.

        Args:
            verdict: What those that wait find; None: what others do.
        """
        self.held = False
        self._late = verdict
        self._released.set()

    async def close(self) -> None:
        """See `Prober.close`."""
        self.closed = True


class Bench:
    """An open registry with all that it leans on."""

    def __init__(
        self, store: ScriptedStore | None = None, limits: RegistryLimits | None = None
    ) -> None:
        self.store = store or ScriptedStore()
        self.prober = ScriptedProber()
        self.registry = LocalRegistry(self.store, self.prober, limits, manual_loop().clock)

    async def register(self, number: int = 1, service: str = "users", **fields: Any) -> Entry:
        """Registers an instance."""
        return (await self.registry.register(a_registration(number, service, **fields)))[0]


@asynccontextmanager
async def open_registry(
    store: ScriptedStore | None = None,
    limits: RegistryLimits | None = None,
    publish: Publish | None = None,
) -> AsyncIterator[Bench]:
    """A registry in the loop's own time."""
    bench = Bench(store, limits)
    await bench.registry.open(publish)
    try:
        yield bench
    finally:
        await bench.registry.close()

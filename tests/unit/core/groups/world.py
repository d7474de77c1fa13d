"""A hub with groups over a log in memory, in the loop's own time."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from switchboard_server.backends.embedded.groups import EmbeddedGroups
from switchboard_server.backends.embedded.log import EmbeddedLog
from switchboard_server.backends.embedded.memory import MemoryStore
from switchboard_server.backends.embedded.store import Retention, StoreError
from switchboard_server.core.calls import Caller, Listeners
from switchboard_server.core.events import Begin, EventHub, Limits, Start
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.config import GroupConfig, Mode, RetryPolicy
from switchboard_server.core.groups.entries import Outcome, Rejection
from switchboard_server.core.groups.hub import GroupHub, GroupLimits, GroupWish
from switchboard_server.core.groups.letters import DeadLetters
from switchboard_server.core.groups.membership import Member
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.subscription import Gap, Started
from switchboard_server.core.tail import Chunk
from tests.support.deliveries import Got, TellingCodec, deliveries
from tests.support.events import a_route, some
from tests.support.logs import HookedStore
from tests.support.loop import manual_loop, turns

AT_ONCE = RetryPolicy(max_attempts=3, min_backoff_ns=0, max_backoff_ns=0)
"""Three attempts without a wait."""
GIVE_UP = Rejection(dead_letter=True)
"""Without another attempt."""


@dataclass
class Worker:
    """A member of a group, and the gaps that it was told of."""

    member: Member
    gaps: list[Gap] = field(default_factory=list)

    async def take(self, count: int) -> list[Got]:
        """The next deliveries, which come in whole chunks and are these many."""
        got: list[Got] = []
        while len(got) < count:
            item = await self.member.next()
            if isinstance(item, Gap):
                self.gaps.append(item)
            elif isinstance(item, Chunk):
                got += deliveries(item.frames)
        assert len(got) == count, got
        return got


@dataclass
class World:
    """A hub."""

    events: EventHub
    groups: GroupHub
    letters: DeadLetters
    calls: Caller
    store: HookedStore

    async def publish(self, *texts: str, priority: int = 2, kind: str = "order.created") -> int:
        """Publishes events; the first sequence."""
        done = await self.events.publish(some(*texts, routes=a_route(kind, priority=priority)))
        return done.first

    async def join(
        self,
        name: str = "g",
        *,
        credit: int = 64,
        mode: Mode = Mode.QUEUE,
        retry: RetryPolicy = AT_ONCE,
        wish: Filter | None = None,
        start: Start = Begin.LATEST,
        principal: Principal = ANONYMOUS,
        instance: str = "",
    ) -> Worker:
        """Joins a group."""
        config = GroupConfig(wish or Filter(), mode, retry=retry)
        member = await self.groups.subscribe(
            GroupWish(name, config, credit, instance), start, principal
        )
        assert isinstance(await member.next(), Started)
        return Worker(member)

    async def acknowledge(self, got: Sequence[Got], name: str = "g") -> list[Outcome]:
        """Settles deliveries."""
        return await self.groups.acknowledge(name, [each.ack_id for each in got])

    def fail(self, *names: str) -> None:
        """Has some of the store's methods fail from now on."""

        def raise_it() -> None:
            raise StoreError("the disk is full")

        for name in names:
            self.store.before[name] = raise_it

    def heal(self) -> None:
        """Has nothing fail any more."""
        self.store.before.clear()


@asynccontextmanager
async def a_world(
    limits: GroupLimits | None = None,
    *,
    tail_bytes: int = 1 << 20,
    retention: Retention | None = None,
    max_subscriptions: int = 100,
    hook: Callable[[HookedStore], None] | None = None,
) -> AsyncIterator[World]:
    """An open world."""
    store = HookedStore(MemoryStore(retention or Retention()))
    if hook is not None:
        hook(store)
    clock, codec = manual_loop().clock, TellingCodec()
    log = EmbeddedLog(store, codec, clock=clock)
    sizes = Limits(tail_bytes=tail_bytes, max_subscriptions=max_subscriptions)
    events = EventHub(log, sizes, clock)
    await events.open()
    kept = EmbeddedGroups(log)
    groups = GroupHub(events, kept, codec, limits or GroupLimits(), clock)
    await groups.open()
    letters, calls = DeadLetters(groups, kept, clock), Caller(events, Listeners(events, groups))
    try:
        yield World(events, groups, letters, calls, store)
        await turns()
    finally:
        await groups.close()
        await events.close()

"""Three nodes with groups over one log, in the loop's own time."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from switchboard_server.backends.embedded.groups import EmbeddedGroups
from switchboard_server.backends.embedded.log import EmbeddedLog
from switchboard_server.backends.embedded.memory import MemoryStore
from switchboard_server.backends.embedded.store import Retention
from switchboard_server.core.calls import Caller
from switchboard_server.core.cluster.groups import SpreadGroups
from switchboard_server.core.cluster.letters import SpreadLetters
from switchboard_server.core.cluster.responders import SpreadResponders
from switchboard_server.core.cluster.roaming import RoamingMember
from switchboard_server.core.cluster.seats import all_seats
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.events import Begin, EventHub, Limits, Start
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.config import GroupConfig, Mode, RetryPolicy
from switchboard_server.core.groups.entries import Outcome
from switchboard_server.core.groups.hub import GroupLimits, GroupWish
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.records import Drafts, Extra
from switchboard_server.core.subscription import Gap, Heartbeat, Started
from switchboard_server.core.tail import Chunk
from tests.support.clusters import KeptGroups, Post, PostCarrier, SharedLog, TailingLog, TermStore
from tests.support.deliveries import Got, TellingCodec, deliveries
from tests.support.events import a_route, some
from tests.support.loop import manual_loop, turns

AT_ONCE = RetryPolicy(max_attempts=10, min_backoff_ns=0, max_backoff_ns=0)
"""Ten attempts without a wait."""


@dataclass
class Worker:
    """A member of a group and what it has seen.

    Attributes:
        place: The stay of its stream with one holder of the group that the last deliveries are of.
        waiting: Deliveries that have come, and that nobody has taken.
    """

    node: "Node"
    name: str
    member: RoamingMember
    started: Started
    gaps: list[Gap] = field(default_factory=list)
    beats: int = 0
    place: object = None
    waiting: deque[Got] = field(default_factory=deque)

    async def take(self, count: int) -> list[Got]:
        """The next deliveries."""
        while len(self.waiting) < count:
            await self.hear()
        return [self.waiting.popleft() for _ in range(count)]

    async def hear(self) -> None:
        """Takes the next thing that the stream says."""
        item = await self.member.next()
        if isinstance(item, Gap):
            self.gaps.append(item)
        elif isinstance(item, Heartbeat):
            self.beats += 1
        elif isinstance(item, Chunk):
            self.place = self.member.place
            self.waiting.extend(deliveries(item.frames))

    async def silent(self) -> bool:
        """Whether nothing comes."""
        hearing = asyncio.create_task(self.hear())
        await turns()
        hearing.cancel()
        await asyncio.wait([hearing])
        return not self.waiting

    async def acknowledge(self, got: Sequence[Got]) -> list[Outcome]:
        """Settles deliveries through its own node."""
        return await self.node.groups.acknowledge(self.name, [each.ack_id for each in got])


@dataclass
class Node:
    """A node."""

    name: str
    log: TailingLog
    events: EventHub
    carrier: PostCarrier
    groups: SpreadGroups
    letters: SpreadLetters
    calls: Caller

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
        deadline: int = 30,
    ) -> Worker:
        """Joins a group."""
        config = GroupConfig(wish or Filter(), mode, deadline * 10**9, retry)
        member = await self.groups.subscribe(
            GroupWish(name, config, credit, instance), start, principal
        )
        started = await member.next()
        assert isinstance(started, Started)
        return Worker(self, name, member, started)

    async def publish(self, *texts: str, key: str = "", drafts: Drafts | None = None) -> int:
        """Publishes events; the first sequence."""
        extras = {index: Extra(ordering_key=key) for index in range(len(texts))} if key else {}
        done = await self.events.publish(drafts or some(*texts, extras=extras))
        return done.first


@dataclass
class World:
    """Three nodes."""

    nodes: list[Node]
    post: Post
    kept: KeptGroups
    shared: SharedLog
    stores: dict[str, TermStore] = field(default_factory=dict)
    owners: dict[str, Node] = field(default_factory=dict)
    connections: int = 0
    dead: list[Node] = field(default_factory=list)

    async def give(self, seat: str, node: Node, *, politely: bool = False) -> None:
        """Has a node hold a seat, which another one loses or gives up."""
        if politely and seat in self.owners:
            await self.owners[seat].groups.give_up(seat)
        self.vacate(seat)
        await self.seize(seat, node)

    async def seize(self, seat: str, node: Node) -> None:
        """Has a node take a seat that nobody holds."""
        store = self.stores[seat] = TermStore(self.kept, seat)
        await node.groups.take(seat, store)
        self.owners[seat] = node
        self.post.hold(seat, node.carrier.address)

    def vacate(self, seat: str) -> None:
        """Has whoever holds a seat lose it."""
        owner = self.owners.pop(seat, None)
        if owner is not None:
            self.stores[seat].ended = True
            owner.groups.lose(seat)
            self.post.hold(seat, "")

    def connect(self, node: Node) -> None:
        """Gives a node an address."""
        self.connections += 1
        self.post.connect(node.carrier, f"{node.name}.{self.connections}")

    def cut(self, node: Node) -> list[str]:
        """Ends a node's connection; the seats that are vacant for it."""
        seats = [seat for seat, owner in self.owners.items() if owner is node]
        for seat in seats:
            self.stores[seat].ended = True
            del self.owners[seat]
        self.post.cut(node.carrier)
        for seat in seats:
            node.groups.lose(seat)
        return seats

    async def kill(self, node: Node) -> list[str]:
        """Ends a node; the seats that are vacant for it."""
        seats = self.cut(node)
        self.nodes.remove(node)
        self.dead.append(node)
        node.groups.begin_shutdown(UnavailableError("SHUTTING_DOWN", "dead"))
        return seats


async def add_node(world: World, name: str, limits: GroupLimits | None = None) -> Node:
    """One more node."""
    loop = manual_loop()
    log, codec = TailingLog(world.shared), TellingCodec()
    events = EventHub(log, Limits(max_subscriptions=1000, max_lag=2.0), loop.clock)
    await events.open()
    carrier = PostCarrier(world.post, name)
    groups = SpreadGroups(events, carrier, codec, limits or GroupLimits(), loop.clock)
    calls = Caller(events, SpreadResponders(events, groups, carrier))
    node = Node(name, log, events, carrier, groups, SpreadLetters(groups.asking), calls)
    world.connect(node)
    world.nodes.append(node)
    return node


@asynccontextmanager
async def a_cluster(
    count: int = 3, limits: GroupLimits | None = None, *, seated: bool = True
) -> AsyncIterator[World]:
    """Nodes that have come up; the first holds all seats."""
    log = EmbeddedLog(MemoryStore(Retention()), TellingCodec(), clock=manual_loop().clock)
    shared = SharedLog(log)
    await shared.open()
    world = World([], Post(), KeptGroups(EmbeddedGroups(log)), shared)
    try:
        for number in range(count):
            await add_node(world, f"n{number}", limits)
        for seat in all_seats() if seated else ():
            await world.seize(seat, world.nodes[0])
        yield world
        await turns()
    finally:
        for node in [*world.nodes, *world.dead]:
            await node.groups.close()
            await node.events.close()
        await log.close()


def request(target: str = "desk", correlation_id: str = "c") -> Drafts:
    """A request to a service."""
    return some(
        "how much?",
        routes=a_route("service_request", target=target),
        extras={0: Extra(correlation_id=correlation_id)},
    )


async def respond(node: Node, text: str, correlation_id: str = "c") -> None:
    """Publishes a response."""
    extra = Extra(correlation_id=correlation_id)
    await node.events.publish(
        some(text, routes=a_route("service_response", source="desk"), extras={0: extra})
    )

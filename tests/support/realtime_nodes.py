"""Several nodes of one hub in this process, over a real Redis."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from switchboard_server.backends.redis.link import RedisLink
from switchboard_server.backends.redis.neighbours import RedisNeighbours
from switchboard_server.core.errors import NotFoundError
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.history import HistoryPolicy, HistoryRules
from switchboard_server.core.realtime.hub import RealtimeHub, RealtimeLimits
from switchboard_server.core.realtime.items import Item, Joined
from switchboard_server.core.realtime.messages import Delivered
from switchboard_server.core.realtime.views import Broadcast
from switchboard_server.core.realtime.wishes import (
    BroadcastWish,
    ConnectionsQuery,
    ConnectWish,
    PresenceQuery,
    RoomJoin,
    RoomQuery,
    Transport,
)
from tests.support.realtime import CHAT

PLENTY = 1 << 30
PATIENCE = 20.0
"""Seconds that a busy machine may need for what takes milliseconds."""


class Member:
    """A client that takes what comes at once, as a fast door does.

    Attributes:
        items: All that has come.
    """

    connection: Connection

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._came = asyncio.Event()

    def wake(self) -> None:
        """See `Connection.on_ready`."""
        self.items += self.connection.take(PLENTY)
        self._came.set()

    async def until(self, done: "Callable[[Member], object]") -> None:
        """Waits until something is so."""
        async with asyncio.timeout(PATIENCE):
            while not done(self):
                self._came.clear()
                await self._came.wait()

    async def until_ended(self) -> str:
        """Waits for the end; its reason."""
        await self.until(lambda _: self.connection.ended is not None)
        assert self.connection.ended is not None
        return self.connection.ended.reason

    async def until_heard(self, *texts: str) -> None:
        """Waits for messages, which must be these in this order and no others."""
        await self.until(lambda _: len(self.texts) >= len(texts))
        assert self.texts == list(texts)

    @property
    def messages(self) -> list[Delivered]:
        """The messages that have come."""
        return [item for item in self.items if isinstance(item, Delivered)]

    @property
    def texts(self) -> list[str]:
        """Their texts."""
        return [str(each.message.data["text"]) for each in self.messages]

    def joined(self, room: str) -> Joined:
        """What it was told of its joining a room, last."""
        told = [each for each in self.items if isinstance(each, Joined)]
        return next(each for each in reversed(told) if each.position.room == room)

    def offsets(self, room: str) -> list[int]:
        """The offsets of what came through a room."""
        places = [place for each in self.messages for place in each.rooms if place.room == room]
        return [place.offset for place in places]


class Node:
    """A node.

    Args:
        urls: Where Redis is.
        prefix: Names the cluster.
        name: Names the node.
        rules: Which rooms remember what.
        limits: How much it takes on.
        clock: See `Desk`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        prefix: str,
        name: str,
        *,
        rules: Mapping[str, HistoryPolicy] | None = None,
        limits: RealtimeLimits | None = None,
        history_bytes: int = PLENTY,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.name = name
        self.link = RedisLink(urls, prefix=prefix, name=name, timeout=1.0, beat=0.2)
        self.hub = RealtimeHub(
            partial(
                RedisNeighbours,
                self.link,
                history_bytes=history_bytes,
                node=f"{name}-{secrets.token_hex(4)}",
                clock=clock,
            ),
            HistoryRules({"chat-*": CHAT} if rules is None else rules),
            asyncio.get_running_loop().call_soon,
            node=name,
            limits=limits,
        )

    async def open(self) -> None:
        """Joins the others."""
        await self.hub.meet()
        await self.link.open()
        await self.link.wait_up(PATIENCE)

    async def close(self) -> None:
        """Leaves the others."""
        await self.hub.part()
        await self.link.close()

    async def die(self) -> None:
        """Is gone from one moment to the next, as by kill -9."""
        neighbours: Any = self.hub._neighbours
        neighbours._renewing.cancel()
        await self.link.close()

    async def connect(
        self, client_id: str = "", user: str = "", *rooms: str | RoomJoin, **more: Any
    ) -> Member:
        """Connects a client."""
        member = Member()
        joins = [RoomJoin(room) if isinstance(room, str) else room for room in rooms]
        transport = more.get("transport", Transport.GRPC)
        wish = ConnectWish(transport, "10.0.0.7:51234", client_id, user, joins)
        principal: Principal = more.get("principal", ANONYMOUS)
        member.connection = await self.hub.connect(wish, principal, member.wake)
        member.wake()
        return member

    async def send(self, text: str, **targets: Any) -> Broadcast:
        """Sends a message that holds a text."""
        return await self.hub.broadcast(BroadcastWish("chat", {"text": text}, **targets), ANONYMOUS)

    async def sees(self, *rooms: str) -> dict[str, Any]:
        """All that the node tells of who is where, to be compared between nodes."""
        seen: dict[str, Any] = {}
        connections = await self.hub.list_connections(ConnectionsQuery(page_size=1000), ANONYMOUS)
        seen["connections"] = {
            each.client_id: (each.user, each.node, tuple(each.rooms))
            for each in connections.connections
        }
        seen["total"] = connections.total
        presence = await self.hub.get_presence(PresenceQuery(page_size=1000), ANONYMOUS)
        seen["users"] = {each.user: each.connections for each in presence.presences}
        for room in rooms:
            page = await self.hub.get_presence(PresenceQuery(room=room), ANONYMOUS)
            seen[f"users of {room}"] = {each.user: each.connections for each in page.presences}
            try:
                shown = await self.hub.get_room(RoomQuery(room, 1000), ANONYMOUS)
            except NotFoundError:
                continue
            seen[room] = (shown.room.connections, shown.room.users)
            seen[f"members of {room}"] = [each.client_id for each in shown.members]
        return seen


@asynccontextmanager
async def nodes(
    urls: Sequence[str],
    count: int = 2,
    prefix: str = "",
    names: Sequence[str] = ("node-1", "node-2", "node-3"),
    **more: Any,
) -> AsyncIterator[list[Node]]:
    """Some nodes, which know each other.

    Args:
        urls: Where Redis is.
        count: How many.
        prefix: Names the cluster; empty: one of its own.
        names: Names the nodes.
        more: See `Node`.
    """
    prefix = prefix or f"t{secrets.token_hex(4)}"
    made = [Node(urls, prefix, name, **more) for name in names[:count]]
    for node in made:
        await node.open()
    try:
        yield made
    finally:
        for node in made:
            await node.close()


async def eventually(condition: "Callable[[], Any]", what: str = "") -> None:
    """Waits until something is so that tells nobody when it is."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.02)

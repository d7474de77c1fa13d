"""The other nodes of a hub, as far as connections and rooms are concerned: the port to them.

What a backend has to tell this node it tells its `Floor`.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.history import HistoryPolicy
from switchboard_server.core.realtime.items import Member
from switchboard_server.core.realtime.messages import Delivered, Message, Position
from switchboard_server.core.realtime.rooms import Move, Room, Totals
from switchboard_server.core.realtime.stats import NeighbourStats
from switchboard_server.core.realtime.views import (
    Broadcast,
    ConnectionView,
    JoinResult,
    RoomFacts,
    UserView,
)
from switchboard_server.core.realtime.wishes import BroadcastWish, ConnectionsQuery, RoomJoin


@dataclass(frozen=True, slots=True)
class Entry:
    """How a room stands at the moment in which a connection enters it.

    Args:
        position: Place of the latest message that its members on this node were handed.
        missed: All that followed the place asked for, up to `position`; None: that cannot be told,
            or was not asked.
        totals: Who stands in it on all nodes, the newcomer included; None: only this node is known.
        moves: Who of other nodes came or went after that, as far as this node has heard by now.
    """

    position: Position
    missed: Sequence[Delivered] | None = None
    totals: Totals | None = None
    moves: Sequence[Move] = ()


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a connection of another node is.

    Args:
        node: The node.
        user: Whose it is; empty: nobody's.
        token: Tells it from others that had its name.
    """

    node: str
    user: str
    token: str


class Elsewhere(Protocol):
    """Connections of other nodes.

    All of it raises UnavailableError where the other nodes, or the one that is asked, cannot be
    reached.
    """

    async def find(self, client_ids: Collection[str]) -> Mapping[str, Whereabouts]:
        """Finds those of some connections that are on other nodes."""
        ...

    async def join(self, client_id: str, where: Whereabouts, join: RoomJoin) -> JoinResult | None:
        """Has a connection stand in a room; None: it is gone. Raises what `Floor.join` does."""
        ...

    async def leave(
        self, client_id: str, where: Whereabouts, room: str, *, removed: bool
    ) -> bool | None:
        """Takes a connection out of a room; whether it stood there; None: it is gone."""
        ...

    async def end(
        self, found: Mapping[str, Whereabouts], users: Collection[str], error: SwitchboardError
    ) -> int:
        """Ends connections, by name and all those of some users; how many were ended."""
        ...


class Census(Protocol):
    """Who is there, on all nodes, and what rooms remember.

    All of it raises UnavailableError where that cannot be told.
    """

    def room_names(self, after: str, prefix: str) -> AsyncIterator[str]:
        """The rooms in which somebody stands or that remember something, in order.

        Some may be gone by now.

        Args:
            after: Only names after it; empty: from the beginning.
            prefix: What they begin with.
        """
        ...

    async def rooms(self, names: Sequence[str]) -> Sequence[RoomFacts | None]:
        """How some rooms are; None for one that is not."""
        ...

    async def members(self, room: str, after: str, limit: int) -> Sequence[Member]:
        """Who stands in a room, in the order of the names of the connections."""
        ...

    async def user_names(self, room: str, after: str, limit: int) -> Sequence[str]:
        """Who is online, in order; with a room, who stands in it."""
        ...

    async def users(self, names: Sequence[str], room: str) -> Sequence[UserView]:
        """The presence of some users; with a room, in that room."""
        ...

    async def connections(
        self, query: ConnectionsQuery, after: str, limit: int
    ) -> tuple[Sequence[ConnectionView], int]:
        """Connections that match, in order, and how many match in all."""
        ...

    async def after(self, room: str, place: Position) -> Sequence[Delivered] | None:
        """See `RoomHistories.after`."""
        ...

    async def latest(self, room: str, limit: int) -> Sequence[Delivered]:
        """See `RoomHistories.latest`."""
        ...


class Neighbours(Protocol):
    """What the nodes of a hub do together. A hub that is alone has `alone.Alone`.

    The connections of this node are this node's own; a backend only knows of them, from `admit` to
    `part`. All is called in one event loop, and coroutines concurrently. Cancelling one does not
    take back what it has begun: `part` does.

    Attributes:
        availability: Set whenever `problem` changes.
        elsewhere: Connections of other nodes.
        census: Who is there.
    """

    availability: asyncio.Event
    elsewhere: Elsewhere
    census: Census

    @property
    def problem(self) -> str | None:
        """Why the other nodes cannot be reached, for people; None: they can.

        Meanwhile this node goes on with what it can do rightly by itself.
        """
        ...

    @property
    def history_bytes(self) -> int:
        """Bytes that all histories hold, about."""
        ...

    def history_names(self) -> Sequence[str]:
        """The rooms that remember something, as far as this node keeps histories itself."""
        ...

    async def open(self) -> None:
        """Joins the other nodes, now or as soon as they can be reached."""
        ...

    async def close(self) -> None:
        """Leaves the other nodes."""
        ...

    async def admit(self, connection: Connection) -> None:
        """Makes a connection known that is about to be opened on this node.

        Another one of its name on another node is ended. Where this one has to make room itself
        before it is open, its `ended` is set.

        Raises:
            PermissionDeniedError: The name is of another user's connection.
            UnavailableError: The other nodes were lost meanwhile; `part` is to be called.
        """
        ...

    def part(self, connection: Connection, places: Sequence[tuple[Room, Member]]) -> None:
        """Tells that a connection is gone, or comes to nothing.

        Args:
            connection: The connection, which stands nowhere any more.
            places: Where it stood; the watchers of these rooms are to hear of it.
        """
        ...

    async def enter(
        self, connection: Connection, join: RoomJoin, policy: HistoryPolicy | None, now_ns: int
    ) -> Entry:
        """Makes known that a connection stands in a room, or about to.

        As soon as this returns, and before the event loop goes on, the caller has it stand there:
        what `Floor.deliver` brings later follows what the entry says.

        Args:
            connection: The connection.
            join: How it wants to stand there.
            policy: What history the room keeps; None: none.
            now_ns: When it joins, Unix time in nanoseconds.

        Raises:
            UnavailableError: The room's history cannot be reached now.
        """
        ...

    def leave(self, connection: Connection, room: Room, member: Member) -> None:
        """Tells that a connection has left a room, and has the watchers of the room hear of it."""
        ...

    async def send(
        self, message: Message, wish: BroadcastWish, kept: Mapping[str, HistoryPolicy]
    ) -> Broadcast:
        """Puts a message into histories, and has all nodes hand it to those that it is for.

        Args:
            message: The message. Who hands it out numbers it.
            wish: Whom it is for.
            kept: Those of its rooms that keep a history, each once.

        Returns:
            When it stands in the histories and, on this node, in the outboxes, and is on its way to
            the other nodes.

        Raises:
            UnavailableError: A history cannot be reached now, or was lost meanwhile.
        """
        ...

    def stats(self) -> NeighbourStats | None:
        """What is counted of other nodes and the way to them; None: there are none."""
        ...

"""What clients can do with those who are connected, whatever door they come through."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from switchboard_server.core.clock import Clock, wall_clock
from switchboard_server.core.errors import (
    AbortedError,
    PermissionDeniedError,
    SwitchboardError,
    UnavailableError,
    limit_reached,
    shutting_down,
)
from switchboard_server.core.principal import Principal
from switchboard_server.core.realtime import looking
from switchboard_server.core.realtime.checks import (
    MAX_ROOMS,
    another_users,
    check_broadcast,
    check_client_id,
    check_disconnect,
    check_name,
    check_targets,
    closed_by_somebody,
    content,
    not_found,
    too_many_rooms,
    user_of,
)
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.floor import Floor
from switchboard_server.core.realtime.history import HistoryRules
from switchboard_server.core.realtime.messages import Message
from switchboard_server.core.realtime.neighbours import Neighbours, Whereabouts
from switchboard_server.core.realtime.outbox import OutboxLimits
from switchboard_server.core.realtime.rounds import Fan
from switchboard_server.core.realtime.stats import RealtimeStats
from switchboard_server.core.realtime.views import (
    Broadcast,
    ConnectionsPage,
    JoinResult,
    PresencePage,
    RoomDetails,
    RoomsPage,
)
from switchboard_server.core.realtime.wishes import (
    BroadcastWish,
    ConnectionsQuery,
    ConnectWish,
    DisconnectWish,
    PresenceQuery,
    RoomJoin,
    RoomQuery,
    RoomsQuery,
)

CLIENT_GONE = "CLIENT_GONE"
"""The reason that is counted for a connection whose client went away."""


@dataclass(frozen=True, slots=True)
class RealtimeLimits:
    """How much the hub takes on.

    Args:
        max_connections: Most connections at a time.
        max_message_bytes: Largest content of a message, in bytes as JSON.
        outbox: How much may wait for one connection.
    """

    max_connections: int = 1000
    max_message_bytes: int = 256 * 1024
    outbox: OutboxLimits = field(default_factory=OutboxLimits)


class RealtimeHub:
    """The hub's connections and rooms. Its methods are called in one event loop.

    Those that are coroutines never wait where the hub is alone; they are coroutines because other
    nodes may have to be asked. While these cannot be reached, a node goes on with its own: messages
    go to its connections only, names are unique and counts are told on this node alone, and what
    needs a room's history or somebody elsewhere raises UnavailableError (REALTIME_UNAVAILABLE).

    What one does is done as a whole: cancelling it takes nothing back.

    Args:
        backing: Makes the way to the other nodes: `alone(histories)` where there are none.
        rules: Which rooms keep a history.
        call_soon: Has a function called in the next turn of the event loop.
        node: Name of this node, told to clients.
        limits: How much the hub takes on.
        clock: Unix time in nanoseconds.
    """

    def __init__(
        self,
        backing: Callable[[Floor], Neighbours],
        rules: HistoryRules,
        call_soon: Callable[[Callable[[], None]], object],
        *,
        node: str = "",
        limits: RealtimeLimits | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        self._node = node
        self._limits = limits or RealtimeLimits()
        self._clock = clock
        self._run = secrets.token_hex(5)
        self._received = 0
        self._floor = Floor(rules, call_soon, node=node, limits=self._limits.outbox, clock=clock)
        self._neighbours = self._floor.neighbours = backing(self._floor)

    @property
    def node(self) -> str:
        """Name of this node."""
        return self._node

    @property
    def problem(self) -> str | None:
        """Why other nodes cannot be reached, for people; None: they can, or there are none."""
        return self._neighbours.problem

    @property
    def availability(self) -> asyncio.Event:
        """Is set when `problem` changes."""
        return self._neighbours.availability

    # --- life ------------------------------------------------------------------------------------

    async def meet(self) -> None:
        """Joins the other nodes, now or as soon as they can be reached."""
        await self._neighbours.open()

    async def part(self) -> None:
        """Leaves the other nodes."""
        await self._neighbours.close()

    def begin_shutdown(self) -> UnavailableError:
        """Takes nothing more, and ends every connection after what waits for it.

        Returns:
            The error that callers get from now on.
        """
        self._floor.stopping = True
        for connection in list(self._floor.directory.connections.values()):
            self._floor.end(connection, shutting_down())
        self._floor.settle()
        return shutting_down()

    def stats(self) -> RealtimeStats:
        """What the hub counts, as it is now."""
        floor, directory = self._floor, self._floor.directory
        connections = directory.connections.values()
        return RealtimeStats(
            connections=Counter(each.transport.value for each in connections),
            users=len(directory.users),
            rooms=self._count_rooms(),
            history_bytes=self._neighbours.history_bytes,
            received=self._received,
            delivered=floor.delivered,
            replayed=floor.replayed,
            dropped=floor.dropped,
            pending=sum(len(each.outbox) for each in connections),
            ended=dict(floor.ended),
            neighbours=self._neighbours.stats(),
        )

    def _count_rooms(self) -> int:
        rooms = self._floor.directory.rooms
        return len(rooms) + sum(name not in rooms for name in self._neighbours.history_names())

    # --- connections -----------------------------------------------------------------------------

    async def connect(
        self,
        wish: ConnectWish,
        principal: Principal,
        on_ready: Callable[[], None],
        *,
        fan: Fan | None = None,
        outlet: int = 0,
    ) -> Connection:
        """Opens a connection; the door closes it with `close` when the client is gone.

        Another connection of that name and user is ended. What the new one has to be told first,
        `Started` and `Joined` for each room, can be taken at once.

        Args:
            wish: What is wanted.
            principal: Who connects.
            on_ready: See `Connection`.
            fan: See `Connection`.
            outlet: See `Connection`.

        Raises:
            InvalidArgumentError: A name is not allowed.
            PermissionDeniedError: The caller may not connect, not as this user, not under this
                name, which is another user's, or not stand in one of the rooms.
            ResourceExhaustedError: There are as many connections as there may be, or too many rooms
                are wanted.
            UnavailableError: The hub shuts down, or the history of one of the rooms cannot be
                reached.
        """
        principal.require("rooms.join")
        self._check_open()
        check_client_id(wish.client_id)
        user = user_of(wish, principal)
        for index, join in enumerate(wish.rooms):
            check_name(f"rooms[{index}].room", join.room)
            principal.require("rooms.join", join.room)
        if len({join.room for join in wish.rooms}) > MAX_ROOMS:
            raise too_many_rooms()
        self._namesake(wish.client_id, user)
        connection = self._floor.made(wish, user, principal)
        connection.fan, connection.outlet = fan, outlet
        try:
            await self._open(connection, wish)
        except BaseException as error:
            replaced = connection.ended
            self._abandon(connection, error)
            if replaced is not None and isinstance(error, SwitchboardError):
                raise replaced from None
            raise
        self._floor.attend(connection, on_ready)
        self._floor.settle()
        return connection

    def _namesake(self, client_id: str, user: str) -> Connection | None:
        """The connection of this node that has a name already.

        Raises:
            PermissionDeniedError: It is another user's.
            ResourceExhaustedError: There is none, and there are as many as there may be.
        """
        connections = self._floor.directory.connections
        other = connections.get(client_id)
        if other is not None:
            if other.user != user:
                raise another_users(client_id)
            return other
        limit = self._limits.max_connections
        if len(connections) >= limit:
            setting = "WEBSOCKET_MAX_CONNECTIONS"
            problem = f"there are {limit} connections already; raise {setting}"
            raise limit_reached(problem, limit, setting)
        return None

    async def _open(self, connection: Connection, wish: ConnectWish) -> None:
        await self._neighbours.admit(connection)
        if connection.ended is not None:
            raise connection.ended
        self._check_open()
        # Others may have come while the other nodes were told.
        other = self._namesake(connection.client_id, connection.user)
        if other is not None:
            text = f"another connection took the name {connection.client_id!r}"
            self._floor.end(other, AbortedError("CONNECTION_REPLACED", text))
        self._floor.open(connection)
        self._floor.settle()
        for join in wish.rooms:
            await self._floor.join(connection, join)

    def _abandon(self, connection: Connection, error: BaseException) -> None:
        """Takes back what was begun of opening a connection."""
        if self._floor.directory.connections.get(connection.client_id) is connection:
            reason = error.reason if isinstance(error, SwitchboardError) else CLIENT_GONE
            self._floor.close(connection, reason)
        else:
            self._neighbours.part(connection, ())
        self._floor.settle()

    def close(self, connection: Connection, reason: str = CLIENT_GONE) -> None:
        """Takes a connection out whose client is gone, or that its door has ended.

        May be called twice, and for a connection that the hub has ended.

        Args:
            connection: The connection.
            reason: Why, to be counted: a constant of the door's.
        """
        self._floor.close(connection, reason)
        self._floor.settle()

    async def disconnect(self, wish: DisconnectWish, principal: Principal) -> int:
        """Closes connections.

        Args:
            wish: Which.
            principal: Who wants it.

        Returns:
            How many were closed.

        Raises:
            InvalidArgumentError: Something is not allowed.
            PermissionDeniedError: The caller may not close one of them; then none is closed.
            UnavailableError: Other nodes cannot be reached, where there are some; those of this
                node are closed.
        """
        check_disconnect(wish)
        for user in wish.users:
            principal.require("connections.manage", user)
        chosen = dict.fromkeys(self._floor.directory.named(wish.clients))
        named = [connection.user for connection in chosen]
        here, elsewhere = self._floor.directory.connections, self._neighbours.elsewhere
        found: Mapping[str, Whereabouts] = {}
        problem: UnavailableError | None = None
        try:
            found = await elsewhere.find([each for each in wish.clients if each not in here])
        except UnavailableError as error:
            problem = error
        for user in (*named, *(where.user for where in found.values())):
            principal.require("connections.manage", user)
        for user in wish.users:
            chosen.update(dict.fromkeys(self._floor.directory.of_user(user)))
        closing = closed_by_somebody(wish)
        chosen = {each: None for each in chosen if each.ended is None}
        for connection in chosen:
            self._floor.end(connection, closing)
        self._floor.settle()
        if problem is not None:
            raise problem
        return len(chosen) + await elsewhere.end(found, wish.users, closing)

    # --- messages --------------------------------------------------------------------------------

    def check(self, wish: BroadcastWish, principal: Principal) -> bytes:
        """Checks a message as `broadcast` does, and sends nothing.

        Args:
            wish: The message and whom it is for.
            principal: Who would send it.

        Returns:
            Its content, encoded.

        Raises:
            InvalidArgumentError: Something of it is not allowed.
            PermissionDeniedError: The caller may not send to all this.
        """
        check_broadcast(wish)
        encoded = content(wish.data, self._limits.max_message_bytes)
        check_targets(wish, principal)
        return encoded

    async def broadcast(self, wish: BroadcastWish, principal: Principal) -> Broadcast:
        """Sends a message, once to each connection that it is for.

        Args:
            wish: The message and whom it is for.
            principal: Who sends it.

        Returns:
            When it stands in the history of the rooms that keep one and in the outboxes.

        Raises:
            InvalidArgumentError: Something of it is not allowed.
            PermissionDeniedError: The caller may not send to all this, or not in this name.
            NotFoundError: There is no connection to send it in the name of.
            UnavailableError: The hub shuts down, or a room's history cannot be reached. Where it
                was lost meanwhile, the message may have been sent.
        """
        encoded = self.check(wish, principal)
        sender_user = await self._sender(wish.sender_client_id, principal)
        self._check_open()
        number = next(self._floor.numbers)
        message = Message(
            number=number,
            message_id=f"{self._run}-{number:x}",
            message_type=wish.message_type,
            data=wish.data,
            json=encoded,
            sender_client_id=wish.sender_client_id,
            sender_user=principal.subject or sender_user,
            time_ns=self._clock(),
        )
        self._received += 1
        rules = self._floor.rules
        kept = {room: rule for room in wish.rooms if (rule := rules.of(room)) is not None}
        outcome = await self._neighbours.send(message, wish, kept)
        self._floor.settle()
        return outcome

    async def _sender(self, client_id: str, principal: Principal) -> str:
        """Whose the connection is in whose name a message is sent."""
        if not client_id:
            return ""
        connection = self._floor.directory.connections.get(client_id)
        if connection is not None:
            user = connection.user
        else:
            user = (await self._whereabouts(client_id)).user
        if principal.subject and user != principal.subject:
            raise PermissionDeniedError(
                "PERMISSION_DENIED",
                f"the connection {client_id!r} is not of {principal.subject!r}",
                metadata={"permission": "messaging.broadcast", "resource": client_id},
            )
        return user

    # --- rooms -----------------------------------------------------------------------------------

    async def join_room(self, client_id: str, join: RoomJoin, principal: Principal) -> JoinResult:
        """Has a connection stand in a room.

        Args:
            client_id: The connection.
            join: Which room, and how.
            principal: Who wants it.

        Raises:
            InvalidArgumentError: A name is not allowed.
            PermissionDeniedError: The caller may not join this room, or not have another user's
                connection join it.
            NotFoundError: There is no such connection.
            ResourceExhaustedError: It stands in as many rooms as it may, or its outbox is full.
            UnavailableError: The hub shuts down.
        """
        check_name("client_id", client_id)
        check_name("join.room", join.room)
        principal.require("rooms.join", join.room)
        self._check_open()
        connection = self._floor.directory.connections.get(client_id)
        if connection is None:
            return await self._join_elsewhere(client_id, join, principal)
        if connection.user != principal.subject:
            principal.require("rooms.manage", join.room)
        result = await self._floor.join(connection, join)
        self._floor.settle()
        if connection.ended is not None:
            raise connection.ended
        return result

    async def _join_elsewhere(
        self, client_id: str, join: RoomJoin, principal: Principal
    ) -> JoinResult:
        where = await self._whereabouts(client_id)
        if where.user != principal.subject:
            principal.require("rooms.manage", join.room)
        result = await self._neighbours.elsewhere.join(client_id, where, join)
        if result is None:
            raise not_found(client_id)
        return result

    async def leave_room(self, client_id: str, room: str, principal: Principal) -> bool:
        """Takes a connection out of a room.

        Args:
            client_id: The connection.
            room: The room.
            principal: Who wants it.

        Returns:
            Whether it stood there.

        Raises:
            InvalidArgumentError: A name is not allowed.
            PermissionDeniedError: The caller may not: as of `join_room`.
            NotFoundError: There is no such connection.
            UnavailableError: It is not on this node, and others cannot be reached.
        """
        check_name("client_id", client_id)
        check_name("room", room)
        principal.require("rooms.join", room)
        connection = self._floor.directory.connections.get(client_id)
        if connection is None:
            return await self._leave_elsewhere(client_id, room, principal)
        removed = connection.user != principal.subject
        if removed:
            principal.require("rooms.manage", room)
        left = self._floor.take_out(connection, room, removed=removed)
        self._floor.settle()
        return left

    async def _leave_elsewhere(self, client_id: str, room: str, principal: Principal) -> bool:
        where = await self._whereabouts(client_id)
        removed = where.user != principal.subject
        if removed:
            principal.require("rooms.manage", room)
        left = await self._neighbours.elsewhere.leave(client_id, where, room, removed=removed)
        if left is None:
            raise not_found(client_id)
        return left

    # --- what there is ---------------------------------------------------------------------------

    async def list_rooms(self, query: RoomsQuery, principal: Principal) -> RoomsPage:
        """Lists the rooms that the caller may view.

        Raises:
            InvalidArgumentError: The page size or the token is not allowed.
            PermissionDeniedError: The caller may view none.
        """
        return await looking.list_rooms(self._floor, query, principal)

    async def get_room(self, query: RoomQuery, principal: Principal) -> RoomDetails:
        """Shows a room.

        Raises:
            InvalidArgumentError: The name, a size or the token is not allowed.
            PermissionDeniedError: The caller may not view it.
            NotFoundError: There is no such room.
        """
        return await looking.get_room(self._floor, query, principal)

    async def get_presence(self, query: PresenceQuery, principal: Principal) -> PresencePage:
        """Tells who is online.

        Raises:
            InvalidArgumentError: Too many users, or a page size or token that is not allowed.
            PermissionDeniedError: The caller may not see it.
        """
        return await looking.get_presence(self._floor, query, principal)

    async def list_connections(
        self, query: ConnectionsQuery, principal: Principal
    ) -> ConnectionsPage:
        """Lists connections.

        Raises:
            InvalidArgumentError: The page size or the token is not allowed.
            PermissionDeniedError: The caller may not see them.
        """
        return await looking.list_connections(self._floor, query, principal)

    # --- inside ----------------------------------------------------------------------------------

    async def _whereabouts(self, client_id: str) -> Whereabouts:
        """Where a connection is that is not on this node.

        Raises:
            NotFoundError: There is none.
            UnavailableError: Nobody can tell.
        """
        where = (await self._neighbours.elsewhere.find([client_id])).get(client_id)
        if where is None:
            raise not_found(client_id)
        return where

    def _check_open(self) -> None:
        if self._floor.stopping:
            raise shutting_down()

"""What clients can do with those who are connected, whatever door they come through."""

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from switchboard_server.core.clock import Clock, wall_clock
from switchboard_server.core.errors import (
    AbortedError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from switchboard_server.core.principal import Principal
from switchboard_server.core.realtime import looking
from switchboard_server.core.realtime.checks import (
    MAX_ROOMS,
    check_broadcast,
    check_disconnect,
    check_name,
    check_targets,
    content,
    user_of,
)
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.floor import Floor
from switchboard_server.core.realtime.history import HistoryRules, RoomHistories
from switchboard_server.core.realtime.items import Left
from switchboard_server.core.realtime.messages import Message
from switchboard_server.core.realtime.outbox import OutboxLimits
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

    Those that are coroutines never wait in this process; they are coroutines because other nodes
    may have to be asked. What one does is done as a whole: cancelling it takes nothing back.

    Args:
        histories: Keeps what rooms remember.
        rules: Which rooms keep a history.
        call_soon: Has a function called in the next turn of the event loop.
        node: Name of this node, told to clients.
        limits: How much the hub takes on.
        clock: Unix time in nanoseconds.
    """

    def __init__(
        self,
        histories: RoomHistories,
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
        self._floor = Floor(
            histories, rules, call_soon, node=node, limits=self._limits.outbox, clock=clock
        )

    @property
    def node(self) -> str:
        """Name of this node."""
        return self._node

    async def connect(
        self, wish: ConnectWish, principal: Principal, on_ready: Callable[[], None]
    ) -> Connection:
        """Opens a connection; the door closes it with `close` when the client is gone.

        Another connection of that name and user is ended. What the new one has to be told first,
        `Started` and `Joined` for each room, can be taken at once.

        Args:
            wish: What is wanted.
            principal: Who connects.
            on_ready: See `Connection`.

        Raises:
            InvalidArgumentError: A name is not allowed.
            PermissionDeniedError: The caller may not connect, not as this user, not under this
                name, which is another user's, or not stand in one of the rooms.
            ResourceExhaustedError: There are as many connections as there may be, or too many rooms
                are wanted.
            UnavailableError: The hub shuts down.
        """
        principal.require("rooms.join")
        self._check_open()
        check_name("client_id", wish.client_id, required=False)
        user = user_of(wish, principal)
        for index, join in enumerate(wish.rooms):
            check_name(f"rooms[{index}].room", join.room)
            principal.require("rooms.join", join.room)
        if len({join.room for join in wish.rooms}) > MAX_ROOMS:
            raise _too_many_rooms()
        self._make_place(wish.client_id, user)
        connection = self._floor.open(wish, user, principal, on_ready)
        for join in wish.rooms:
            self._floor.join(connection, join)
        self._floor.settle()
        return connection

    def close(self, connection: Connection, reason: str = CLIENT_GONE) -> None:
        """Takes a connection out whose client is gone, or that its door has ended.

        May be called twice, and for a connection that the hub has ended.

        Args:
            connection: The connection.
            reason: Why, to be counted: a constant of the door's.
        """
        self._floor.close(connection, reason)
        self._floor.settle()

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
            UnavailableError: The hub shuts down.
        """
        encoded = self.check(wish, principal)
        sender = self._sender(wish.sender_client_id, principal)
        self._check_open()
        number = next(self._floor.numbers)
        message = Message(
            number=number,
            message_id=f"{self._run}-{number:x}",
            message_type=wish.message_type,
            data=wish.data,
            json=encoded,
            sender_client_id=wish.sender_client_id,
            sender_user=principal.subject or ("" if sender is None else sender.user),
            time_ns=self._clock(),
        )
        self._received += 1
        outcome = self._floor.send(message, wish)
        self._floor.settle()
        return outcome

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
        connection = self._found(client_id)
        if connection.user != principal.subject:
            principal.require("rooms.manage", join.room)
        if join.room not in connection.rooms and len(connection.rooms) >= MAX_ROOMS:
            raise _too_many_rooms()
        result = self._floor.join(connection, join)
        self._floor.settle()
        if connection.ended is not None:
            raise connection.ended
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
        """
        check_name("client_id", client_id)
        check_name("room", room)
        principal.require("rooms.join", room)
        connection = self._found(client_id)
        removed = connection.user != principal.subject
        if removed:
            principal.require("rooms.manage", room)
        place = connection.rooms.get(room)
        if place is None:
            return False
        self._floor.leave(connection, place)
        self._floor.tell(connection, Left(room, removed))
        self._floor.settle()
        return True

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
        """
        check_disconnect(wish)
        for user in wish.users:
            principal.require("connections.manage", user)
        chosen = dict.fromkeys(self._floor.directory.named(wish.clients))
        for connection in chosen:
            principal.require("connections.manage", connection.user)
        for user in wish.users:
            chosen.update(dict.fromkeys(self._floor.directory.of_user(user)))
        metadata = {"reason": wish.reason, "reconnect": "true" if wish.reconnect else "false"}
        advice = "connect again" if wish.reconnect else "do not connect again by yourself"
        text = f"somebody closed the connection: {wish.reason or 'no reason given'}; {advice}"
        for connection in chosen:
            self._floor.end(connection, AbortedError("CONNECTION_CLOSED", text, metadata=metadata))
        self._floor.settle()
        return len(chosen)

    async def list_rooms(self, query: RoomsQuery, principal: Principal) -> RoomsPage:
        """Lists the rooms that the caller may view.

        Raises:
            InvalidArgumentError: The page size or the token is not allowed.
            PermissionDeniedError: The caller may view none.
        """
        return looking.list_rooms(self._floor, query, principal)

    async def get_room(self, query: RoomQuery, principal: Principal) -> RoomDetails:
        """Shows a room.

        Raises:
            InvalidArgumentError: The name, a size or the token is not allowed.
            PermissionDeniedError: The caller may not view it.
            NotFoundError: There is no such room.
        """
        return looking.get_room(self._floor, query, principal)

    async def get_presence(self, query: PresenceQuery, principal: Principal) -> PresencePage:
        """Tells who is online.

        Raises:
            InvalidArgumentError: Too many users, or a page size or token that is not allowed.
            PermissionDeniedError: The caller may not see it.
        """
        return looking.get_presence(self._floor, query, principal)

    async def list_connections(
        self, query: ConnectionsQuery, principal: Principal
    ) -> ConnectionsPage:
        """Lists connections.

        Raises:
            InvalidArgumentError: The page size or the token is not allowed.
            PermissionDeniedError: The caller may not see them.
        """
        return looking.list_connections(self._floor, query, principal)

    def begin_shutdown(self) -> UnavailableError:
        """Takes nothing more, and ends every connection after what waits for it.

        Returns:
            The error that callers get from now on.
        """
        self._floor.stopping = True
        for connection in list(self._floor.directory.connections.values()):
            self._floor.end(connection, _shutting_down())
        self._floor.settle()
        return _shutting_down()

    def stats(self) -> RealtimeStats:
        """What the hub counts, as it is now."""
        floor, directory = self._floor, self._floor.directory
        connections = directory.connections.values()
        return RealtimeStats(
            connections=Counter(each.transport.value for each in connections),
            users=len(directory.users),
            rooms=looking.count_rooms(floor),
            history_bytes=floor.histories.size,
            received=self._received,
            delivered=floor.delivered,
            replayed=floor.replayed,
            dropped=floor.dropped,
            pending=sum(len(each.outbox) for each in connections),
            ended=dict(floor.ended),
        )

    def _make_place(self, client_id: str, user: str) -> None:
        """Ends the connection that has a name already, and sees to it that there are not too many.

        Raises:
            PermissionDeniedError: It is another user's.
            ResourceExhaustedError: There are as many as there may be.
        """
        other = self._floor.directory.connections.get(client_id)
        if other is not None:
            if other.user != user:
                raise PermissionDeniedError(
                    "PERMISSION_DENIED",
                    f"{client_id!r} is the name of another user's connection; take another",
                    metadata={"permission": "rooms.join", "resource": client_id},
                )
            text = f"another connection took the name {client_id!r}"
            self._floor.end(other, AbortedError("CONNECTION_REPLACED", text))
            return
        limit = self._limits.max_connections
        if len(self._floor.directory.connections) >= limit:
            raise ResourceExhaustedError(
                "LIMIT_REACHED",
                f"there are {limit} connections already; raise WEBSOCKET_MAX_CONNECTIONS",
                metadata={"limit": str(limit), "setting": "WEBSOCKET_MAX_CONNECTIONS"},
            )

    def _found(self, client_id: str) -> Connection:
        connection = self._floor.directory.connections.get(client_id)
        if connection is None:
            raise NotFoundError(
                "CONNECTION_NOT_FOUND", f"there is no connection named {client_id!r}"
            )
        return connection

    def _sender(self, client_id: str, principal: Principal) -> Connection | None:
        if not client_id:
            return None
        connection = self._found(client_id)
        if principal.subject and connection.user != principal.subject:
            raise PermissionDeniedError(
                "PERMISSION_DENIED",
                f"the connection {client_id!r} is not of {principal.subject!r}",
                metadata={"permission": "messaging.broadcast", "resource": client_id},
            )
        return connection

    def _check_open(self) -> None:
        if self._floor.stopping:
            raise _shutting_down()


def _too_many_rooms() -> ResourceExhaustedError:
    return ResourceExhaustedError(
        "LIMIT_REACHED",
        f"a connection stands in at most {MAX_ROOMS} rooms; leave one, or open another connection",
        metadata={"limit": str(MAX_ROOMS)},
    )


def _shutting_down() -> UnavailableError:
    return UnavailableError("SHUTTING_DOWN", "the hub shuts down; connect again in a moment")

"""Who is connected, and who stands where."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.history import HistoryPolicy
from switchboard_server.core.realtime.items import Member
from switchboard_server.core.realtime.names import SortedNames
from switchboard_server.core.realtime.notices import Gathering
from switchboard_server.core.realtime.rounds import Audience


class Totals(NamedTuple):
    """How many stand in a room on all nodes.

    Args:
        version: Grows with every change.
        connections: Connections that stand in it.
        users: Users who do.
    """

    version: int
    connections: int
    users: int


class Move(NamedTuple):
    """Somebody of another node joined a room, or left it.

    Args:
        totals: Who stands in it since then.
        before: Who left; None: nobody.
        now: Who joined; None: nobody.
    """

    totals: Totals
    before: Member | None
    now: Member | None


class Room:
    """A room in which somebody stands.

    Args:
        name: Its name.
        policy: What history it keeps; None: none.
        create_time_ns: When it was made, Unix time in nanoseconds.

    Attributes:
        members: Who stands in it.
        users: How many connections each user has in it.
        watchers: The members who want to hear of others.
        gathering: What has changed since the watchers were told; None: nothing.
        totals: Who stands in it on all nodes, as was told last; None: only this node is known.
    """

    __slots__ = (
        "_audience",
        "create_time_ns",
        "gathering",
        "members",
        "name",
        "policy",
        "totals",
        "users",
        "watchers",
    )

    def __init__(self, name: str, policy: HistoryPolicy | None, create_time_ns: int) -> None:
        self.name = name
        self.policy = policy
        self.create_time_ns = create_time_ns
        self.members: dict[Connection, Member] = {}
        self.users: dict[str, int] = {}
        self.watchers: dict[Connection, None] = {}
        self.gathering: Gathering | None = None
        self.totals: Totals | None = None
        self._audience: Audience | None = None

    @property
    def audience(self) -> Audience:
        """Who stands in it: the same object for as long as nobody joins or leaves."""
        if self._audience is None:
            self._audience = Audience(self.members)
        return self._audience

    @property
    def counts(self) -> tuple[int, int]:
        """Connections and users that stand in it, on all nodes as far as is known."""
        totals = self.totals
        if totals is None:
            return len(self.members), len(self.users)
        return totals.connections, totals.users

    def heard(self, totals: Totals | None) -> None:
        """Takes note of who stands there on all nodes, unless something newer is known."""
        if totals is not None and (self.totals is None or totals.version > self.totals.version):
            self.totals = totals

    def add(self, connection: Connection, join_time_ns: int) -> Member:
        """Has a connection stand in the room."""
        member = Member(connection.client_id, connection.user, join_time_ns)
        self.members[connection] = member
        self._audience = None
        connection.rooms[self.name] = self
        if connection.user:
            self.users[connection.user] = self.users.get(connection.user, 0) + 1
        return member

    def remove(self, connection: Connection) -> Member:
        """Has a connection stand in the room no longer."""
        self.unwatch(connection)
        self._audience = None
        del connection.rooms[self.name]
        if user := connection.user:
            self.users[user] -= 1
            if not self.users[user]:
                del self.users[user]
        return self.members.pop(connection)

    def watch(self, connection: Connection) -> None:
        """Has a member told of others that join and leave from now on."""
        if connection not in self.watchers:
            self.watchers[connection] = None
            # What is gathered so far, itself included, is not for it.
            if self.gathering is not None:
                self.gathering.late[connection] = None

    def unwatch(self, connection: Connection) -> None:
        """Takes back `watch`."""
        if connection in self.watchers:
            del self.watchers[connection]
            if self.gathering is not None:
                self.gathering.late.pop(connection, None)
            connection.outbox.forget_notice(self.name)


class Directory:
    """All connections of this process by name, by user and by room.

    Attributes:
        connections: By `client_id`.
        users: The connections of each user, earliest first.
        rooms: By name.
        client_ids: The names of the connections in order.
        user_names: The users' names in order.
        room_names: The rooms' names in order.
    """

    def __init__(self) -> None:
        self.connections: dict[str, Connection] = {}
        self.users: dict[str, dict[Connection, None]] = {}
        self.rooms: dict[str, Room] = {}
        self.client_ids = SortedNames()
        self.user_names = SortedNames()
        self.room_names = SortedNames()
        self._audience: Audience | None = None

    @property
    def audience(self) -> Audience:
        """All connections: the same object for as long as none comes or goes."""
        if self._audience is None:
            self._audience = Audience(self.connections.values())
        return self._audience

    def add(self, connection: Connection) -> None:
        """Adds a connection whose name is free."""
        self.connections[connection.client_id] = connection
        self._audience = None
        self.client_ids.add(connection.client_id)
        if user := connection.user:
            if user not in self.users:
                self.users[user] = {}
                self.user_names.add(user)
            self.users[user][connection] = None

    def remove(self, connection: Connection) -> None:
        """Removes a connection that stands in no room any more."""
        del self.connections[connection.client_id]
        self._audience = None
        self.client_ids.remove(connection.client_id)
        if user := connection.user:
            del self.users[user][connection]
            if not self.users[user]:
                del self.users[user]
                self.user_names.remove(user)

    def add_room(self, room: Room) -> None:
        """Adds a room whose name is free."""
        self.rooms[room.name] = room
        self.room_names.add(room.name)

    def remove_room(self, room: Room) -> None:
        """Removes a room in which nobody stands."""
        del self.rooms[room.name]
        self.room_names.remove(room.name)

    def of_user(self, user: str) -> Collection[Connection]:
        """The connections of a user."""
        return self.users.get(user, {})

    def named(self, client_ids: Collection[str]) -> Iterator[Connection]:
        """Those connections of the names given that are there."""
        for client_id in client_ids:
            connection = self.connections.get(client_id)
            if connection is not None:
                yield connection

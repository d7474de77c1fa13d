"""Who is there where this node is the only one."""

from collections.abc import AsyncIterator, Collection, Sequence
from itertools import islice

from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.history import RoomHistories
from switchboard_server.core.realtime.items import Member
from switchboard_server.core.realtime.messages import Delivered, Position
from switchboard_server.core.realtime.names import following, united
from switchboard_server.core.realtime.rooms import Directory
from switchboard_server.core.realtime.views import ConnectionView, RoomFacts, UserView
from switchboard_server.core.realtime.wishes import ConnectionsQuery


class LocalCensus:
    """See `Census`. Its coroutines never wait.

    Args:
        directory: Who is connected and stands where.
        histories: What rooms remember.
        node: Name of this node.
    """

    def __init__(self, directory: Directory, histories: RoomHistories, node: str) -> None:
        self._directory = directory
        self._histories = histories
        self._node = node

    async def room_names(self, after: str, prefix: str) -> AsyncIterator[str]:
        """See `Census.room_names`."""
        sources = (self._directory.room_names.names, self._histories.names())
        for name in united(*(following(source, after, prefix) for source in sources)):
            yield name

    async def rooms(self, names: Sequence[str]) -> Sequence[RoomFacts | None]:
        """See `Census.rooms`."""
        return list(map(self._room, names))

    async def members(self, room: str, after: str, limit: int) -> Sequence[Member]:
        """See `Census.members`."""
        standing = self._directory.rooms.get(room)
        if standing is None:
            return []
        members = {each.client_id: each for each in standing.members.values()}
        return [members[name] for name in islice(following(sorted(members), after), limit)]

    async def user_names(self, room: str, after: str, limit: int) -> Sequence[str]:
        """See `Census.user_names`."""
        if not room:
            names = self._directory.user_names.names
        else:
            standing = self._directory.rooms.get(room)
            names = [] if standing is None else sorted(standing.users)
        return list(islice(following(names, after), limit))

    async def users(self, names: Sequence[str], room: str) -> Sequence[UserView]:
        """See `Census.users`."""
        return [self._user(name, room) for name in names]

    async def connections(
        self, query: ConnectionsQuery, after: str, limit: int
    ) -> tuple[Sequence[ConnectionView], int]:
        """See `Census.connections`."""
        matching = sorted(
            each.client_id
            for each in self._candidates(query)
            if (not query.user or each.user == query.user)
            and (query.transport is None or each.transport is query.transport)
            and each.client_id.startswith(query.client_id_prefix)
        )
        page = islice(following(matching, after), limit)
        connections = self._directory.connections
        return [connection_view(connections[name], self._node) for name in page], len(matching)

    async def after(self, room: str, place: Position) -> Sequence[Delivered] | None:
        """See `Census.after`."""
        return self._histories.after(room, place)

    async def latest(self, room: str, limit: int) -> Sequence[Delivered]:
        """See `Census.latest`."""
        return self._histories.latest(room, limit)

    def _room(self, name: str) -> RoomFacts | None:
        room, history = self._directory.rooms.get(name), self._histories.view(name)
        if room is None and (history is None or not history.length):
            return None
        connections, users = (0, 0) if room is None else room.counts
        made = [each.create_time_ns for each in (room, history) if each is not None]
        return RoomFacts(
            connections,
            users,
            position=Position(name) if history is None else history.position,
            history_length=0 if history is None else history.length,
            create_time_ns=min(made),
        )

    def _user(self, user: str, asked_room: str) -> UserView:
        connections = self._directory.of_user(user)
        if asked_room:
            room = self._directory.rooms.get(asked_room)
            since = [
                room.members[each].join_time_ns
                for each in connections
                if room is not None and each in room.members
            ]
        else:
            since = [each.connect_time_ns for each in connections]
        return UserView(user, len(since), min(since, default=0))

    def _candidates(self, query: ConnectionsQuery) -> Collection[Connection]:
        """Connections that hold all that match, and not many more."""
        if query.room:
            room = self._directory.rooms.get(query.room)
            return () if room is None else room.members
        if query.user:
            return self._directory.of_user(query.user)
        return self._directory.connections.values()


def connection_view(connection: Connection, node: str) -> ConnectionView:
    """A connection of this node as it is.

    Args:
        connection: The connection.
        node: Name of this node.
    """
    return ConnectionView(
        client_id=connection.client_id,
        user=connection.user,
        transport=connection.transport,
        peer=connection.peer,
        node=node,
        connect_time_ns=connection.connect_time_ns,
        rooms=sorted(connection.rooms),
        pending_messages=len(connection.outbox),
        dropped_messages=connection.outbox.dropped,
    )

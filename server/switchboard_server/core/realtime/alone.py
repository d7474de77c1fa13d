"""A hub that is the only node: nobody is elsewhere, and it remembers in its own memory."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.floor import Floor
from switchboard_server.core.realtime.history import HistoryPolicy, RoomHistories
from switchboard_server.core.realtime.items import Member
from switchboard_server.core.realtime.local_census import LocalCensus
from switchboard_server.core.realtime.messages import Message, Position
from switchboard_server.core.realtime.neighbours import (
    Census,
    Elsewhere,
    Entry,
    Whereabouts,
)
from switchboard_server.core.realtime.rooms import Room
from switchboard_server.core.realtime.views import Broadcast, JoinResult
from switchboard_server.core.realtime.wishes import BroadcastWish, RoomJoin


def alone(histories: RoomHistories) -> Callable[[Floor], "Alone"]:
    """What to give to a `RealtimeHub` that is the only node.

    Args:
        histories: Keeps what rooms remember.
    """
    return lambda floor: Alone(histories, floor)


class Alone:
    """See `Neighbours`. Its coroutines never wait.

    Args:
        histories: Keeps what rooms remember.
        floor: Who is connected here.
    """

    problem: str | None = None

    def __init__(self, histories: RoomHistories, floor: Floor) -> None:
        self._histories = histories
        self._floor = floor
        self.availability = asyncio.Event()
        self.elsewhere: Elsewhere = Nowhere()
        self.census: Census = LocalCensus(floor.directory, histories, floor.node)

    @property
    def history_bytes(self) -> int:
        """See `Neighbours.history_bytes`."""
        return self._histories.size

    def history_names(self) -> Sequence[str]:
        """See `Neighbours.history_names`."""
        return self._histories.names()

    async def open(self) -> None:
        """Does nothing: there is nobody to join."""

    async def close(self) -> None:
        """Does nothing: there is nobody to leave."""

    async def admit(self, connection: Connection) -> None:
        """Does nothing: nobody else has to know."""

    def part(self, connection: Connection, places: Sequence[tuple[Room, Member]]) -> None:
        """See `Neighbours.part`."""
        for room, member in places:
            self.leave(connection, room, member)

    async def enter(
        self, connection: Connection, join: RoomJoin, policy: HistoryPolicy | None, now_ns: int
    ) -> Entry:
        """See `Neighbours.enter`."""
        if policy is None:
            return Entry(Position(join.room))
        position = self._histories.hold(join.room, policy, now_ns)
        if join.recover_after is None or join.room in connection.rooms:
            return Entry(position)
        return Entry(position, self._histories.after(join.room, join.recover_after))

    def leave(self, connection: Connection, room: Room, member: Member) -> None:
        """See `Neighbours.leave`."""
        if room.members:
            self._floor.changed(room.name, member, None)
        elif room.policy is not None:
            self._histories.release(room.name)

    async def send(
        self, message: Message, wish: BroadcastWish, kept: Mapping[str, HistoryPolicy]
    ) -> Broadcast:
        """See `Neighbours.send`."""
        seen = {
            room: self._histories.append(room, policy, message) for room, policy in kept.items()
        }
        handed = self._floor.deliver(message, wish, seen)
        return Broadcast(message.message_id, handed, [each.rooms[0] for each in seen.values()])

    def stats(self) -> None:
        """Nothing: there is nobody to count anything of."""


class Nowhere:
    """See `Elsewhere`: there is nobody."""

    async def find(self, client_ids: Collection[str]) -> Mapping[str, Whereabouts]:
        """Finds nobody."""
        return {}

    async def join(self, client_id: str, where: Whereabouts, join: RoomJoin) -> JoinResult | None:
        """Never called, since nobody is found."""

    async def leave(
        self, client_id: str, where: Whereabouts, room: str, *, removed: bool
    ) -> bool | None:
        """Never called, since nobody is found."""

    async def end(
        self, found: Mapping[str, Whereabouts], users: Collection[str], error: SwitchboardError
    ) -> int:
        """Ends nobody."""
        return 0

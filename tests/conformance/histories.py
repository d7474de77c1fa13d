"""Histories of rooms under test: each backend's, written and read as the hub does it."""

from collections.abc import Sequence
from typing import Any, Protocol

from switchboard_server.backends.embedded.histories import MemoryHistories
from switchboard_server.core.principal import ANONYMOUS
from switchboard_server.core.realtime.history import HistoryPolicy
from switchboard_server.core.realtime.messages import Delivered, Message, Position
from switchboard_server.core.realtime.wishes import BroadcastWish, RoomJoin
from tests.support.realtime import NOON_NS
from tests.support.realtime_nodes import Node

HOLDER = "holder"
"""Name of the connection that stands in rooms so that their count goes on."""


class Histories(Protocol):
    """What `RoomHistories` says, whatever it is reached through."""

    async def append(self, room: str, policy: HistoryPolicy, message: Message) -> Position:
        """See `RoomHistories.append`; the place."""
        ...

    async def hold(self, room: str) -> Position:
        """See `RoomHistories.hold`."""
        ...

    async def release(self, room: str) -> None:
        """See `RoomHistories.release`."""
        ...

    async def after(self, room: str, place: Position) -> Sequence[Delivered] | None:
        """See `RoomHistories.after`."""
        ...

    async def latest(self, room: str, limit: int) -> Sequence[Delivered]:
        """See `RoomHistories.latest`."""
        ...

    async def view(self, room: str) -> tuple[Position, int, int] | None:
        """See `RoomHistories.view`: position, length, when it was made."""
        ...

    async def names(self) -> Sequence[str]:
        """See `RoomHistories.names`."""
        ...

    async def size(self) -> int:
        """See `RoomHistories.size`."""
        ...


class InMemory:
    """Those of a hub that is alone."""

    def __init__(self, histories: MemoryHistories, policy: HistoryPolicy) -> None:
        self._histories = histories
        self._policy = policy

    async def append(self, room: str, policy: HistoryPolicy, message: Message) -> Position:
        return self._histories.append(room, policy, message).rooms[0]

    async def hold(self, room: str) -> Position:
        return self._histories.hold(room, self._policy, NOON_NS)

    async def release(self, room: str) -> None:
        self._histories.release(room)

    async def after(self, room: str, place: Position) -> Sequence[Delivered] | None:
        return self._histories.after(room, place)

    async def latest(self, room: str, limit: int) -> Sequence[Delivered]:
        return self._histories.latest(room, limit)

    async def view(self, room: str) -> tuple[Position, int, int] | None:
        view = self._histories.view(room)
        return None if view is None else (view.position, view.length, view.create_time_ns)

    async def names(self) -> Sequence[str]:
        return self._histories.names()

    async def size(self) -> int:
        return self._histories.size


class InRedis:
    """Those of a node: whoever stands in a room holds its history."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._neighbours: Any = node.hub._neighbours
        self._census = self._neighbours.census

    async def append(self, room: str, policy: HistoryPolicy, message: Message) -> Position:
        wish = BroadcastWish("chat", rooms=[room])
        sent = await self._neighbours.send(message, wish, {room: policy})
        (place,) = sent.positions
        assert isinstance(place, Position)
        return place

    async def hold(self, room: str) -> Position:
        if HOLDER not in self._node.hub._floor.directory.connections:
            await self._node.connect(HOLDER)
        joined = await self._node.hub.join_room(HOLDER, RoomJoin(room), ANONYMOUS)
        return joined.joined.position

    async def release(self, room: str) -> None:
        await self._node.hub.leave_room(HOLDER, room, ANONYMOUS)
        # Done in the order in which it was asked for.
        await self._node.link.call("PING")

    async def after(self, room: str, place: Position) -> Sequence[Delivered] | None:
        found: Sequence[Delivered] | None = await self._census.after(room, place)
        return found

    async def latest(self, room: str, limit: int) -> Sequence[Delivered]:
        found: Sequence[Delivered] = await self._census.latest(room, limit)
        return found

    async def view(self, room: str) -> tuple[Position, int, int] | None:
        (facts,) = await self._census.rooms([room])
        if facts is None:
            return None
        return facts.position, facts.history_length, facts.create_time_ns

    async def names(self) -> Sequence[str]:
        names = [name async for name in self._census.room_names("", "")]
        facts = await self._census.rooms(names)
        found = zip(names, facts, strict=True)
        return [name for name, each in found if each is not None and each.history_length]

    async def size(self) -> int:
        while await self._neighbours._membership._renewed(5000):
            pass
        size = self._neighbours.history_bytes
        assert isinstance(size, int)
        return size

"""What a connection is told besides messages, in the order in which its door takes it."""

from dataclasses import dataclass
from typing import NamedTuple

from switchboard_server.core.realtime.messages import Delivered, Position, Shared


class Member(NamedTuple):
    """A connection that stands in a room.

    Args:
        client_id: The connection.
        user: Its user; empty: none.
        join_time_ns: When it joined, Unix time in nanoseconds.
    """

    client_id: str
    user: str
    join_time_ns: int


@dataclass(frozen=True, slots=True)
class Started:
    """The connection stands; always the first item.

    Args:
        client_id: Its name.
        user: Whose it is; empty: nobody's.
        node: The hub node.
    """

    client_id: str
    user: str
    node: str


@dataclass(frozen=True, slots=True)
class Joined:
    """The connection stands in a room. What is replayed follows at once.

    Args:
        position: The room, with the place of the latest message in its history.
        recovered: All that was asked to be recovered is replayed.
        replayed: How many messages that is.
        connections: How many stand in the room, this one included.
        users: How many users stand in the room.
    """

    position: Position
    recovered: bool
    replayed: int
    connections: int
    users: int


@dataclass(frozen=True, slots=True)
class Left:
    """The connection stands in a room no longer.

    Args:
        room: The room.
        removed: Somebody else took it out.
    """

    room: str
    removed: bool


class PresenceNotice(Shared):
    """Others joined or left a room.

    Args:
        room: The room.
        joined: Who joined.
        left: Who left, or whose connection ended.
        connections: How many stand in the room now.
        users: How many users do.
    """

    __slots__ = ("connections", "joined", "left", "room", "users")

    def __init__(
        self,
        room: str,
        joined: tuple[Member, ...],
        left: tuple[Member, ...],
        connections: int,
        users: int,
    ) -> None:
        super().__init__()
        self.room = room
        self.joined = joined
        self.left = left
        self.connections = connections
        self.users = users


@dataclass(frozen=True, slots=True)
class Dropped:
    """Messages that are in no history are missing, because the client read too slowly.

    Args:
        count: How many, since the last such word.
    """

    count: int


Item = Delivered | Started | Joined | Left | PresenceNotice | Dropped
"""What a door takes from a connection and sends on."""

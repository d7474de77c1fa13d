"""What comes out of the hub's methods."""

from collections.abc import Sequence
from dataclasses import dataclass

from switchboard_server.core.realtime.items import Joined, Member
from switchboard_server.core.realtime.messages import Delivered, Position
from switchboard_server.core.realtime.wishes import Transport


@dataclass(frozen=True, slots=True)
class Broadcast:
    """What became of a message.

    Args:
        message_id: Its name.
        connections: How many connections' outboxes took it.
        positions: Its place in each room that keeps a history.
    """

    message_id: str
    connections: int
    positions: Sequence[Position]


@dataclass(frozen=True, slots=True)
class JoinResult:
    """How a connection stands in a room now.

    Args:
        joined: What it was told, or would have been.
        already_joined: It stood there before, and was told nothing.
    """

    joined: Joined
    already_joined: bool


@dataclass(frozen=True, slots=True)
class RoomFacts:
    """What is known of a room on all nodes.

    Args:
        connections: Connections that stand in it.
        users: Users who do.
        position: Place of the latest message.
        history_length: Messages in its history.
        create_time_ns: When it was made, Unix time in nanoseconds.
    """

    connections: int
    users: int
    position: Position
    history_length: int
    create_time_ns: int


@dataclass(frozen=True, slots=True)
class RoomView:
    """A room as it is now.

    Args:
        name: Its name.
        connections: Connections that stand in it.
        users: Users who do.
        history_size: How many messages its history keeps at most; 0: it keeps none.
        history_ttl_ns: How long it keeps one, in nanoseconds.
        position: Place of the latest message.
        history_length: Messages in its history.
        create_time_ns: When it was made, Unix time in nanoseconds.
    """

    name: str
    connections: int
    users: int
    history_size: int
    history_ttl_ns: int
    position: Position
    history_length: int
    create_time_ns: int


@dataclass(frozen=True, slots=True)
class RoomsPage:
    """Some rooms in the order of their names.

    Args:
        rooms: The rooms.
        next_page_token: Asks for the next page; empty: there is none.
    """

    rooms: Sequence[RoomView]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class RoomDetails:
    """A room with what was asked of it.

    Args:
        room: The room.
        members: Who stands in it, in the order of their names.
        next_member_page_token: Asks for more of them; empty: there are none.
        history: Messages of its history.
        history_contiguous: Nothing is missing between the place asked for and the first of them.
    """

    room: RoomView
    members: Sequence[Member]
    next_member_page_token: str
    history: Sequence[Delivered]
    history_contiguous: bool


@dataclass(frozen=True, slots=True)
class UserView:
    """A user's presence.

    Args:
        user: The user.
        connections: How many connections the user has; 0: offline.
        online_since_ns: When the earliest of them was opened, or joined the room; 0: offline.
    """

    user: str
    connections: int
    online_since_ns: int


@dataclass(frozen=True, slots=True)
class PresencePage:
    """Some users.

    Args:
        presences: The users.
        next_page_token: Asks for the next page; empty: there is none.
    """

    presences: Sequence[UserView]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """A connection as it is now.

    Args:
        client_id: Its name.
        user: Whose it is; empty: nobody's.
        transport: How it is connected.
        peer: Its network address.
        node: The hub node.
        connect_time_ns: When it was opened, Unix time in nanoseconds.
        rooms: Where it stands, in the order of the names; only what the caller may view.
        pending_messages: Messages in its outbox.
        dropped_messages: Messages that it missed.
    """

    client_id: str
    user: str
    transport: Transport
    peer: str
    node: str
    connect_time_ns: int
    rooms: Sequence[str]
    pending_messages: int
    dropped_messages: int


@dataclass(frozen=True, slots=True)
class ConnectionsPage:
    """Some connections in the order of their names.

    Args:
        connections: The connections.
        total: How many match, on all pages.
        next_page_token: Asks for the next page; empty: there is none.
    """

    connections: Sequence[ConnectionView]
    total: int
    next_page_token: str

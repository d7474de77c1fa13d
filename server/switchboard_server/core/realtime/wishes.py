"""What goes into the hub's methods: requests, whichever door they came through."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from switchboard_server.core.realtime.messages import Position


class Transport(Enum):
    """How a client is connected; the values are labels of metrics."""

    WEBSOCKET = "websocket"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class RoomJoin:
    """A wish to stand in a room.

    Args:
        room: The room.
        recover_after: Replay what followed this place; None: replay nothing. Its `room` is not
            looked at.
        presence_notices: Tell the connection when others join and leave.
    """

    room: str
    recover_after: Position | None = None
    presence_notices: bool = False


@dataclass(frozen=True, slots=True)
class ConnectWish:
    """A wish to be connected.

    Args:
        transport: How.
        peer: Network address, such as "10.0.0.7:51234".
        client_id: Name of the connection; empty: the hub makes one.
        user: Whose it is; empty: the caller's.
        rooms: Where to stand from the start.
    """

    transport: Transport
    peer: str
    client_id: str = ""
    user: str = ""
    rooms: Sequence[RoomJoin] = ()


@dataclass(frozen=True, slots=True)
class BroadcastWish:
    """A message and whom it is for: the union of the targets, less the excluded.

    Args:
        message_type: What it is.
        data: The content: a JSON object. The hub keeps it, so the caller must not change it later.
        to_all: To every connection.
        rooms: To whoever stands in these.
        users: To every connection of these.
        clients: To these connections.
        exclude_clients: Not to these.
        sender_client_id: Connection of the caller's own user in whose name it is sent; empty: none.
    """

    message_type: str
    data: dict[str, Any] = field(default_factory=dict)
    to_all: bool = False
    rooms: Sequence[str] = ()
    users: Sequence[str] = ()
    clients: Sequence[str] = ()
    exclude_clients: Sequence[str] = ()
    sender_client_id: str = ""


@dataclass(frozen=True, slots=True)
class DisconnectWish:
    """Which connections to close.

    Args:
        clients: By name.
        users: All connections of these users.
        reconnect: Whether they are welcome to come back at once.
        reason: Why, told to the clients.
    """

    clients: Sequence[str] = ()
    users: Sequence[str] = ()
    reconnect: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RoomsQuery:
    """Which rooms to list.

    Args:
        name_prefix: Only those whose name begins so.
        page_size: 1 to 1000; 0: 100.
        page_token: Where the page before ended; empty: the first page.
    """

    name_prefix: str = ""
    page_size: int = 0
    page_token: str = ""


@dataclass(frozen=True, slots=True)
class RoomQuery:
    """What to show of a room.

    Args:
        room: The room.
        member_page_size: Most members, up to 1000; 0: none.
        member_page_token: Where the page of members before ended; empty: the first page.
        history_limit: Most messages of the history, up to 1000; 0: none.
        history_after: The messages after this place, the earliest first; None: the latest ones.
    """

    room: str
    member_page_size: int = 0
    member_page_token: str = ""
    history_limit: int = 0
    history_after: Position | None = None


@dataclass(frozen=True, slots=True)
class PresenceQuery:
    """Which users to tell about.

    Args:
        users: These; empty: all who are online, a page at a time.
        room: Only connections that stand in this room; empty: all.
        page_size: 1 to 1000; 0: 100.
        page_token: Where the page before ended; empty: the first page.
    """

    users: Sequence[str] = ()
    room: str = ""
    page_size: int = 0
    page_token: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionsQuery:
    """Which connections to list; what is set must all match.

    Args:
        client_id_prefix: Those whose name begins so.
        user: Those of this user.
        room: Those that stand in this room.
        transport: Those that are connected so.
        page_size: 1 to 1000; 0: 100.
        page_token: Where the page before ended; empty: the first page.
    """

    client_id_prefix: str = ""
    user: str = ""
    room: str = ""
    transport: Transport | None = None
    page_size: int = 0
    page_token: str = ""

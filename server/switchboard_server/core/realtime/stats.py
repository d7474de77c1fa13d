"""What the hub counts of connections and messages."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NeighbourStats:
    """The other nodes and the way to them at one moment. Counts are since the start of the process.

    Args:
        connected: The other nodes can be reached.
        losses: How often they could not be reached any more.
        nodes: Nodes that are alive, this one included.
        swept: How often this node was taken for dead though it was not.
        sent: Messages that were sent to all nodes.
        received: Messages that arrived, this node's own included.
        caught_up: Messages that were read from histories since they had not arrived.
        interruptions: Rooms whose members here were sent away to recover.
        overflows: How often more arrived than could wait while this node caught up.
        asked: Requests to other nodes.
        unanswered: Those of them that nobody answered in time.
    """

    connected: bool
    losses: int
    nodes: int
    swept: int
    sent: int
    received: int
    caught_up: int
    interruptions: int
    overflows: int
    asked: int
    unanswered: int


@dataclass(frozen=True, slots=True)
class RealtimeStats:
    """Connections, rooms and messages at one moment. Counts are since the start of the process.

    Args:
        connections: Open connections, by the value of their transport.
        users: Users who have one.
        rooms: Rooms in which somebody stands, or whose history holds a message.
        history_bytes: Bytes that the histories hold, about.
        received: Messages that were sent to the hub.
        delivered: Messages that outboxes took, once for each connection; without replays.
        replayed: Messages that were replayed from a history.
        dropped: Messages in no history that connections missed because they read too slowly.
        pending: Messages and words that wait in outboxes.
        ended: Connections that ended, by the reason of the error or of the door.
        neighbours: The other nodes and the way to them; None: there are none.
    """

    connections: Mapping[str, int]
    users: int
    rooms: int
    history_bytes: int
    received: int
    delivered: int
    replayed: int
    dropped: int
    pending: int
    ended: Mapping[str, int]
    neighbours: NeighbourStats | None = None

"""What the hub counts of connections and messages."""

from collections.abc import Mapping
from dataclasses import dataclass


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

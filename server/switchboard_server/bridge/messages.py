"""What the realtime hub tells a connection, as frames."""

import time
from typing import Any

import orjson
from google.protobuf.timestamp_pb2 import Timestamp

from switchboard_server.bridge import frames
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.realtime.items import (
    Item,
    Joined,
    Left,
    Member,
    PresenceNotice,
    Started,
)
from switchboard_server.core.realtime.messages import Delivered, Position

_FORM = "websocket"


class ItemFrames:
    """Turns what the realtime hub has to say into frames.

    What many connections receive is made once, and remembered here from one connection to the next.

    Args:
        greeting: What `started` says besides who the client is.
    """

    def __init__(self, greeting: dict[str, Any]) -> None:
        self._greeting = greeting
        self._last: Item | None = None
        self._frame = b""

    def of(self, item: Item) -> bytes:
        """The frame that tells of an item."""
        if item is not self._last:
            # The frame first: without one, the item is not to be taken for known.
            self._frame = self._made(item)
            self._last = item
        return self._frame

    def _made(self, item: Item) -> bytes:
        if isinstance(item, Delivered):
            return item.rendered(_FORM, _message)
        if isinstance(item, PresenceNotice):
            return item.rendered(_FORM, _notice)
        if isinstance(item, Started):
            who = {"client_id": item.client_id, "user": item.user, "node": item.node}
            return frames.system("started", who | self._greeting)
        if isinstance(item, Joined):
            return frames.system("joined", joined(item))
        if isinstance(item, Left):
            return frames.system("left", {"room": item.room, "removed": item.removed})
        return frames.system("dropped", {"count": item.count})


def joined(item: Joined) -> dict[str, Any]:
    """How a connection stands in a room now, as JSON has it."""
    return {
        "room": item.position.room,
        "position": position(item.position),
        "recovered": item.recovered,
        "replayed": item.replayed,
        "connections": item.connections,
        "users": item.users,
    }


def position(place: Position) -> dict[str, Any]:
    """A place in a room; with epoch and offset where the room keeps a history."""
    if not place.epoch:
        return {"room": place.room}
    return {"room": place.room, "epoch": place.epoch, "offset": place.offset}


def time_text(time_ns: int) -> str:
    """A Unix time in nanoseconds as RFC 3339 has it, in UTC."""
    seconds, nanos = divmod(time_ns, SECOND_NS)
    return Timestamp(seconds=seconds, nanos=nanos).ToJsonString()


def heartbeat(identity: frames.FrameId = None) -> bytes:
    """The frame that says that the hub lives.

    Args:
        identity: What the frame was called that asked for it; None: none did.
    """
    content: dict[str, Any] = {"type": "heartbeat"}
    if identity is not None:
        content["id"] = identity
    return frames.encode(content | {"data": {"time": time_text(int(time.time() * SECOND_NS))}})


def _message(delivered: Delivered) -> bytes:
    message = delivered.message
    # The content is JSON already.
    rest = orjson.dumps(
        {
            "message_id": message.message_id,
            "rooms": list(map(position, delivered.rooms)),
            "sender_client_id": message.sender_client_id,
            "sender_user": message.sender_user,
            "send_time": time_text(message.time_ns),
        }
    )
    kind = orjson.dumps(message.message_type)
    return frames.text_frame(b'{"type":%b,"data":%b,%b' % (kind, message.json, rest[1:]))


def _notice(notice: PresenceNotice) -> bytes:
    return frames.encode(
        {
            "type": "presence",
            "data": {
                "room": notice.room,
                "joined": list(map(_member, notice.joined)),
                "left": list(map(_member, notice.left)),
                "connections": notice.connections,
                "users": notice.users,
            },
        }
    )


def _member(member: Member) -> dict[str, Any]:
    return {
        "client_id": member.client_id,
        "user": member.user,
        "join_time": time_text(member.join_time_ns),
    }

"""What nodes tell each other through channels, and messages as histories keep them.

A frame begins with a letter: "m" a message, which the script that sends it puts together; the
others are JSON behind it: "p" somebody came to a room or went, "e" a connection has to end, "q" a
request and "a" the answer to one.

A message is a line of JSON with its head, and a line with its content. Neither holds a line break.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from switchboard_server.core.realtime.messages import Delivered, Message, Position
from switchboard_server.core.realtime.wishes import BroadcastWish


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that came through a channel.

    Args:
        message: The message, unnumbered.
        wish: Whom it is for.
        places: Its place in each room that keeps a history.
    """

    message: Message
    wish: BroadcastWish
    places: Mapping[str, Position]


@dataclass(frozen=True, slots=True)
class Kept:
    """A message from a history.

    Args:
        seq: Its place among all messages of the hub.
        message: The message, unnumbered.
        place: Its place in the history.
        excluded: To whom it was not sent.
    """

    seq: int
    message: Message
    place: Position
    excluded: Sequence[str]

    @property
    def delivered(self) -> Delivered:
        """As a receiver sees it who stands in this room."""
        return Delivered(self.message, (self.place,))


def packed(value: object) -> bytes:
    """A value as a line of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def head(message: Message, wish: BroadcastWish) -> bytes:
    """What is kept of a message besides its content."""
    return packed(
        [
            message.message_id,
            message.message_type,
            message.sender_client_id,
            message.sender_user,
            message.time_ns,
            list(wish.exclude_clients),
        ]
    )


def targets(wish: BroadcastWish, kept: Sequence[str]) -> bytes:
    """Whom a message is for.

    Args:
        wish: The wish.
        kept: The rooms that keep a history, in the order in which the script is given them.
    """
    return packed([wish.to_all, [*wish.rooms], [*wish.users], [*wish.clients], [*kept]])


def arrival(frame: bytes, own: Mapping[str, Message]) -> Arrival:
    """Reads a frame with a message.

    Args:
        frame: The frame.
        own: Messages of this node by name, which need not be made again.
    """
    first, target_line, head_line, content = frame.split(b"\n", 3)
    to_all, rooms, users, clients, kept = json.loads(target_line)
    message, excluded = _message(head_line, content, own)
    # The line holds the sequence, then epoch:offset for each of the rooms.
    counted = zip(kept, first.decode().split(" ")[1:], strict=False)
    places = {room: _place(room, place) for room, place in counted}
    wish = BroadcastWish(
        message.message_type,
        message.data,
        to_all=to_all,
        rooms=rooms,
        users=users,
        clients=clients,
        exclude_clients=excluded,
        sender_client_id=message.sender_client_id,
    )
    return Arrival(message, wish, places)


def kept(room: str, epoch: str, last: int, entries: Sequence[bytes]) -> list[Kept]:
    """Reads messages of a history.

    Args:
        room: The room.
        epoch: Epoch of its history.
        last: Offset of the last of the messages.
        entries: The messages as the history has them, in order.
    """
    first = last - len(entries) + 1
    found = []
    for index, entry in enumerate(entries):
        top, head_line, content = entry.split(b"\n", 2)
        message, excluded = _message(head_line, content, {})
        place = Position(room, epoch, first + index)
        found.append(Kept(int(top.split(b" ")[1]), message, place, excluded))
    return found


def _place(room: str, text: str) -> Position:
    epoch, _, offset = text.partition(":")
    return Position(room, epoch, int(offset))


def _message(
    head_line: bytes, content: bytes, own: Mapping[str, Message]
) -> tuple[Message, Sequence[str]]:
    message_id, kind, sender_client_id, sender_user, time_ns, excluded = json.loads(head_line)
    message = own.get(message_id)
    if message is None:
        data: dict[str, Any] = json.loads(content)
        message = Message(
            number=0,
            message_id=message_id,
            message_type=kind,
            data=data,
            json=content,
            sender_client_id=sender_client_id,
            sender_user=sender_user,
            time_ns=time_ns,
        )
    return message, excluded

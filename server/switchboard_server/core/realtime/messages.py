"""A message, made once and shared by all who receive it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

OVERHEAD_BYTES = 256
"""What a message costs besides its content, about: its names, its time and its objects."""


class Position(NamedTuple):
    """A place in the history of a room.

    Args:
        room: The room.
        epoch: Names one life of its history; empty: it keeps none.
        offset: Messages that the history has taken so far in this epoch; 0 where it keeps none.
    """

    room: str
    epoch: str = ""
    offset: int = 0


@dataclass(slots=True, eq=False, kw_only=True)
class Message:
    """A message as it was sent. Nobody changes it.

    Args:
        number: Place among all that this process has to say; it grows from one to the next.
        message_id: Its name.
        message_type: What it is, such as "chat".
        data: The content: a JSON object as Python has it.
        json: The same as JSON in UTF-8.
        sender_client_id: Connection in whose name it was sent; may be empty.
        sender_user: User who sent it; may be empty.
        time_ns: When the hub took it, Unix time in nanoseconds.
    """

    number: int
    message_id: str
    message_type: str
    data: dict[str, Any]
    json: bytes
    sender_client_id: str
    sender_user: str
    time_ns: int


class Shared:
    """Something that many connections receive, so that a door encodes it once."""

    __slots__ = ("_rendered",)

    def __init__(self) -> None:
        self._rendered: dict[str, bytes] = {}

    def rendered(self, form: str, encode: Callable[[Self], bytes]) -> bytes:
        """The bytes that a door sends, encoded by the first who asks.

        Args:
            form: Names the door's format; all who use one name must encode alike.
            encode: Makes the bytes.
        """
        known = self._rendered.get(form)
        if known is None:
            known = self._rendered[form] = encode(self)
        return known


class Delivered(Shared):
    """A message as some of its receivers see it, all those who stand in the same of its rooms.

    Args:
        message: The message.
        rooms: The rooms that it came through and the receiver stands in.

    Attributes:
        number: The message's.
        size: Bytes that it costs whom it waits for, about.
        recoverable: Whether it stands in the history of one of the rooms.
    """

    __slots__ = ("message", "number", "recoverable", "rooms", "size")

    def __init__(self, message: Message, rooms: tuple[Position, ...]) -> None:
        super().__init__()
        self.message = message
        self.rooms = rooms
        self.number = message.number
        self.size = len(message.json) + OVERHEAD_BYTES
        self.recoverable = any(place.epoch for place in rooms)

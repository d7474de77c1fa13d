"""Messages between nodes as bytes: dataclasses by msgspec, then bytes that are left as they are.

Several travel in one AMQP message, one after the other: the length of the head and of the body,
four bytes each, the head, the body.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

Bytes = bytes | memoryview
Pieces = list[Bytes]
"""Bytes that are to be joined."""

_LENGTHS = struct.Struct(">II")


def _plain(value: object) -> object:
    """Mappings that nobody may change travel as any other."""
    if isinstance(value, MappingProxyType):
        return dict(value)
    raise NotImplementedError(f"{type(value).__name__} does not travel")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)


class Kind(IntEnum):
    """What a packet is."""

    TELL = 0
    REQUEST = 1
    ANSWER = 2
    ERROR = 3
    MOVED = 4
    """The answer of who does not hold the seat: nothing was done."""


class Head(msgspec.Struct, array_like=True, frozen=True):
    """What a packet says of itself.

    Args:
        kind: What it is.
        name: Type of the message, or of the error.
        number: The sender's number of a request, or the number that is answered.
        message: The message, encoded.
        seat: The seat that a request is for; empty: for the node.
        epoch: Which term of it.
        seconds: How long the sender of a request waits.
    """

    kind: int
    name: str = ""
    number: int = 0
    message: msgspec.Raw = msgspec.Raw(b"\xc0")
    seat: str = ""
    epoch: int = 0
    seconds: float = 0.0


_heads = msgspec.msgpack.Decoder(Head)


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """An answer.

    Args:
        message: What it says.
        body: Bytes that come with it, as they were sent.
    """

    message: T
    body: Bytes = b""


class PacketError(ValueError):
    """A packet is not what a node of this version sends."""


def pack(head: Head, body: Bytes | Sequence[Bytes] = b"") -> Pieces:
    """Makes a packet."""
    encoded = _encoder.encode(head)
    bodies = [body] if isinstance(body, bytes | memoryview) else list(body)
    lengths = _LENGTHS.pack(len(encoded), sum(map(len, bodies)))
    return [lengths, encoded, *(each for each in bodies if each)]


def unpack(data: Bytes) -> Iterator[tuple[Head, memoryview]]:
    """Takes packets apart. Bodies are not copied.

    Raises:
        PacketError: This is no packet. Those before it have been yielded.
    """
    view, start = memoryview(data), 0
    while start < len(view):
        try:
            head_length, body_length = _LENGTHS.unpack_from(view, start)
            middle = start + _LENGTHS.size + head_length
            stop = middle + body_length
            if stop > len(view):
                raise PacketError("a packet is cut off")
            head = _heads.decode(view[start + _LENGTHS.size : middle])
        except (msgspec.MsgspecError, struct.error) as error:
            raise PacketError(str(error)) from error
        yield head, view[middle:stop]
        start = stop


def encode(message: object) -> msgspec.Raw:
    """A dataclass, or None, as it travels."""
    return msgspec.Raw(_encoder.encode(message))


_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def decode(raw: Bytes | msgspec.Raw, kind: type[T]) -> T:
    """A dataclass as it was sent.

    Raises:
        PacketError: It is another.
    """
    try:
        decoder = _decoders.get(kind)
        if decoder is None:
            decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
        made: T = decoder.decode(raw)
        return made
    except msgspec.MsgspecError as error:
        raise PacketError(f"{kind.__name__}: {error}") from error

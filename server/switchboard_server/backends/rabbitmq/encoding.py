"""Messages as frames and back, with no more work than each needs.

What is the same in many messages is encoded once, and what nobody asks for is not decoded.
"""

from collections.abc import Iterator
from typing import Any

from aiormq import spec
from pamqp.frame import marshal, unmarshal

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
"""Kinds of frames."""
HEAD_BYTES = 7
"""Kind, channel (2) and size (4), before the payload of a frame; behind it stands one byte."""
_END = b"\xce"
_ID_BYTES = 8
_CONTENT = b"\0\x3c\0\0"
"""Begins the payload of a header: class `basic`, weight 0. The size of the body follows, then the
properties: two bytes of flags, which say which there are, and those in the order of the flags."""
_FLAGS = HEAD_BYTES + len(_CONTENT) + 8

Properties = spec.Basic.Properties

OFFSET = "x-stream-offset"
"""Header of a message from a stream that says where it stands, and argument of a consumer that says
where to begin."""
_ONLY_OFFSET = (len(OFFSET) + 10).to_bytes(4, "big") + bytes([len(OFFSET)]) + OFFSET.encode() + b"l"
"""Begins the headers of a message that has no other, mostly; eight bytes of the offset follow."""


class Envelope:
    """The properties of many messages, encoded once.

    Args:
        properties: Of them the id, if there is any, is that of all; otherwise each message gets its
            own.

    Attributes:
        name: The id that all messages have; empty: each gets its own.
        size: Length of the frame that holds them, in four bytes.
        before: The properties up to the id that is a message's own, or up to their end.
        after: What comes behind that.
    """

    __slots__ = ("after", "before", "name", "size")

    def __init__(self, properties: Properties) -> None:
        name = self.name = properties.message_id or ""
        encoded = []
        for digit in "01":
            properties.message_id = name or digit * _ID_BYTES
            encoded.append(bytes(properties.marshal()))
        first, second = encoded
        self.size = (len(_CONTENT) + 8 + len(first)).to_bytes(4, "big")
        if name:
            self.before, self.after = first, _END
            return
        at = next(at for at, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
        self.before = first[:at]
        self.after = first[at + _ID_BYTES :] + _END


TRANSIENT = Envelope(Properties(delivery_mode=1))
"""For messages that need not outlast a restart of the broker."""
PERSISTENT = Envelope(Properties(delivery_mode=2))
"""For messages that must."""


class Encoder:
    """Encodes the messages that are published on a channel.

    Args:
        number: The channel's.
        most: Bytes of a body that one frame holds.
    """

    def __init__(self, number: int, most: int) -> None:
        self._number = number
        self._most = most
        self._header = bytes([HEADER]) + number.to_bytes(2, "big")
        self._body = bytes([BODY]) + number.to_bytes(2, "big")
        self._addresses: dict[tuple[str, str, bool], bytes] = {}

    def message(
        self, address: tuple[str, str, bool], envelope: Envelope, tag: int, body: bytes
    ) -> tuple[str, bytes]:
        """The frames of a message.

        Args:
            address: Exchange, routing key, and whether it is to come back if no queue takes it.
            envelope: Its properties.
            tag: Its delivery tag.
            body: Its body.

        Returns:
            Its id, and the frames.
        """
        made = "" if envelope.name else f"{tag:0{_ID_BYTES}x}"[-_ID_BYTES:]
        parts = [
            self._addresses.get(address) or self._address(address),
            self._header,
            envelope.size,
            _CONTENT,
            len(body).to_bytes(8, "big"),
            envelope.before,
            made.encode(),
            envelope.after,
            *self._bodies(body),
        ]
        return made or envelope.name, b"".join(parts)

    def _address(self, address: tuple[str, str, bool]) -> bytes:
        exchange, routing_key, mandatory = address
        method = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        if len(self._addresses) >= 256:  # Routing keys are types of events, of which many may be.
            self._addresses.clear()
        encoded = self._addresses[address] = bytes(marshal(method, self._number))
        return encoded

    def _bodies(self, body: bytes) -> Iterator[bytes]:
        for at in range(0, len(body), self._most):
            part = body if len(body) <= self._most else body[at : at + self._most]
            yield self._body
            yield len(part).to_bytes(4, "big")
            yield part
            yield _END


class Delivery:
    """A message that has come.

    Args:
        tag: Its delivery tag.
        method: The frame of the method that brought it.
        header: The frame of its header.
        body: Its body.

    Attributes:
        tag: Its delivery tag.
        body: Its body.
    """

    __slots__ = ("_header", "_method", "body", "tag")

    def __init__(self, tag: int, method: bytes, header: bytes, body: bytes) -> None:
        self.tag = tag
        self.body = body
        self._method = method
        self._header = header

    @property
    def properties(self) -> Properties:
        """All its properties."""
        header: Any = unmarshal(self._header)[2]
        properties: Properties = header.properties
        return properties

    @property
    def routing_key(self) -> str:
        """By which key it was published."""
        method: Any = unmarshal(self._method)[2]
        return str(method.routing_key or "")

    @property
    def reply_to(self) -> str:
        """That property; empty: it has none."""
        return self._short(0x0200)

    @property
    def type(self) -> str:
        """That property; empty: it has none."""
        return self._short(0x0020)

    @property
    def offset(self) -> int:
        """Where in its stream it stands."""
        header = self._header
        at = self._find(0x2000)
        begins = at + len(_ONLY_OFFSET)
        if header[at:begins] == _ONLY_OFFSET:
            return int.from_bytes(header[begins : begins + 8], "big")
        headers: Any = self.properties.headers or {}
        return int(headers[OFFSET])

    def _short(self, flag: int) -> str:
        """A short string among the properties."""
        header = self._header
        if not int.from_bytes(header[_FLAGS : _FLAGS + 2], "big") & flag:
            return ""
        at = self._find(flag) + 1
        return header[at : at + header[at - 1]].decode(errors="replace")

    def _find(self, flag: int) -> int:
        """Where a property stands, or would if it were there."""
        header = self._header
        at = _FLAGS + 2
        before = int.from_bytes(header[_FLAGS:at], "big") & ~(2 * flag - 1)
        if before & 0x8000:  # content type
            at += 1 + header[at]
        if before & 0x4000:  # content encoding
            at += 1 + header[at]
        if before & 0x2000:  # headers
            at += 4 + int.from_bytes(header[at : at + 4], "big")
        # Delivery mode and priority take one byte each.
        at += (before >> 12 & 1) + (before >> 11 & 1)
        for each in (0x0400, 0x0200, 0x0100, 0x0080):  # correlation id to message id
            if before & each:
                at += 1 + header[at]
        if before & 0x0040:  # timestamp
            at += 8
        return at

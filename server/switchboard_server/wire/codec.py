"""Events as `switchboard.v1.Delivery` bytes, made by joining and not by serializing.

In protobuf's wire format a later occurrence of a field replaces an earlier one, messages are
merged, and repeated fields are appended
(https://protobuf.dev/programming-guides/encoding/#last-one-wins). So an event gets its sequence,
its time, its publisher and its id by appending them to the bytes that its publisher sent; and
deliveries that stand one after the other, each as field 1, are a `SubscribeResponse`.
"""

from collections.abc import Sequence
from functools import lru_cache

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.groups.entries import Entry
from switchboard_server.core.records import Batch, Drafts, assigned_id

_FIELD_1 = b"\x0a"
_SEQUENCE = b"\x78"
_ACK_ID = b"\x12"
_ATTEMPT = b"\x18"
_PUBLISH_TIME = b"\x82\x01"
_PUBLISHER = b"\x8a\x01"
_BLOCK = 4096
"""Sequences of an aligned block differ in the last three hex digits and two varint bytes only."""
_TABLED = 4096
"""Up to this length, what stands before an event is looked up."""

_BYTES = [bytes((number,)) for number in range(0x80)]


def varint(number: int) -> bytes:
    """Encodes a non-negative number as a base 128 varint."""
    if number <= 0x7F:
        return _BYTES[number]
    if number <= 0x3FFF:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number <= 0x1FFFFF:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def tagged(tag: bytes, value: bytes) -> bytes:
    """A length-delimited field."""
    return tag + varint(len(value)) + value


@lru_cache(maxsize=16)  # All events of a transaction have the same.
def timestamp(time_ns: int) -> bytes:
    """A `google.protobuf.Timestamp`, both fields written out so that it replaces another one.

    Args:
        time_ns: Unix time in nanoseconds.
    """
    seconds, nanos = divmod(time_ns, SECOND_NS)
    return b"\x08" + varint(seconds) + b"\x10" + varint(nanos)


_HEX = [b"%03x" % low for low in range(_BLOCK)]
_LOW = [_SEQUENCE + bytes((low & 0x7F | 0x80, low >> 7 | 0x80)) for low in range(1 << 14)]


def _head(length: int) -> bytes:
    """What stands before an event of some length: tag and length of the delivery, then of it."""
    inner = _FIELD_1 + varint(length)
    return _FIELD_1 + varint(len(inner) + length) + inner


@lru_cache(maxsize=64)
def _heads(stamped: int) -> tuple[list[bytes], list[int]]:
    """For each length of a body: what stands before the event, and the length of it all.

    Args:
        stamped: How many bytes the hub appends to the body.
    """
    heads = [_head(length + stamped) for length in range(_TABLED)]
    return heads, [len(head) + length + stamped for length, head in enumerate(heads)]


def _measure(lengths: list[int], stamped: int) -> tuple[list[bytes], list[int]]:
    if max(lengths) < _TABLED:
        heads, sizes = _heads(stamped)
        return list(map(heads.__getitem__, lengths)), list(map(sizes.__getitem__, lengths))
    large = [_head(length + stamped) for length in lengths]
    return large, [
        len(head) + length + stamped for head, length in zip(large, lengths, strict=True)
    ]


_DELIVERY = [_FIELD_1 + varint(length) for length in range(_TABLED)]
_ONE, _TWO = 2 + (1 << 7), 3 + (1 << 14)
"""A frame shorter than this has its length in one byte, or in two."""
_ACK_IDS = [_ACK_ID + varint(length) for length in range(128)]
_ATTEMPTS = [_ATTEMPT + varint(attempt) for attempt in range(128)]


class DeliveryCodec:
    """Encodes events as deliveries of a `SubscribeResponse`; see `core.records.Codec`."""

    log_id = ""
    """The log's id, from which the hub's own event ids are made; set when the log is open."""

    def encode(
        self, drafts: Drafts, first_sequence: int, time_ns: int
    ) -> tuple[list[bytes], list[int]]:
        """See `Codec.encode`."""
        common = tagged(_PUBLISH_TIME, timestamp(time_ns))
        if drafts.publisher:
            common += tagged(_PUBLISHER, drafts.publisher.encode())
        if drafts.ids is not None:
            return self._encode_with_ids(drafts, drafts.ids, first_sequence, common)
        pieces: list[bytes] = []
        sizes: list[int] = []
        done = 0
        while done < len(drafts):
            sequence = first_sequence + done
            part = slice(done, done + _BLOCK - sequence % _BLOCK)
            made, measured = self._encode_block(
                drafts.bodies[part], drafts.lengths[part], sequence, common
            )
            pieces += made
            sizes += measured
            done += len(measured)
        return pieces, sizes

    def lease_all(self, entries: Sequence[Entry]) -> tuple[list[bytes], list[int]]:
        """See `LeaseCodec.lease_all`."""
        pieces: list[bytes] = []
        sizes: list[int] = []
        known: Batch | None = None
        frames = b""
        ends: Sequence[int] = ()
        for entry in entries:
            batch, index = entry.batch, entry.index
            if batch is not known or batch is None:
                if batch is None:
                    raise AssertionError(f"event {entry.sequence} is delivered without its bytes")
                known, frames, ends = batch, batch.frames, batch.ends
            start, end = ends[index - 1] if index else 0, ends[index]
            # What is left behind tag and length is the event as field 1 of a delivery.
            start += (
                2 if end - start < _ONE else 3 if end - start < _TWO else _head_of(frames, start)
            )
            event, given, attempt = frames[start:end], entry.ack_id.encode(), entry.attempts
            counted = _ATTEMPTS[attempt] if attempt < len(_ATTEMPTS) else _ATTEMPT + varint(attempt)
            length = len(event) + 2 + len(given) + len(counted)
            head = _DELIVERY[length] if length < _TABLED else _FIELD_1 + varint(length)
            pieces += (head, event, _ACK_IDS[len(given)], given, counted)
            sizes.append(len(head) + length)
        return pieces, sizes

    def _encode_block(
        self,
        bodies: list[bytes],
        lengths: list[int],
        sequence: int,
        common: bytes,
    ) -> tuple[list[bytes], list[int]]:
        """Encodes events of one aligned block of sequences, to whom the hub gives ids."""
        count = len(bodies)
        given = assigned_id(self.log_id, sequence).encode()
        constant = varint(sequence >> 14) + common + _FIELD_1 + varint(len(given)) + given[:-3]
        heads, measured = _measure(lengths, len(_LOW[0]) + len(constant) + 3)
        part = [b""] * (5 * count)
        part[0::5] = heads
        part[1::5] = bodies
        part[2::5] = _LOW[sequence % len(_LOW) : sequence % len(_LOW) + count]
        part[3::5] = [constant] * count
        part[4::5] = _HEX[sequence % _BLOCK : sequence % _BLOCK + count]
        return part, measured

    def _encode_with_ids(
        self, drafts: Drafts, ids: list[str], first_sequence: int, common: bytes
    ) -> tuple[list[bytes], list[int]]:
        """Encodes events of which some have an id of their publisher's."""
        pieces: list[bytes] = []
        sizes: list[int] = []
        for sequence, body, given in zip(
            range(first_sequence, first_sequence + len(ids)), drafts.bodies, ids, strict=True
        ):
            stamp = _LOW[sequence % len(_LOW)] + varint(sequence >> 14) + common
            if not given:
                stamp += tagged(_FIELD_1, assigned_id(self.log_id, sequence).encode())
            head = _head(len(body) + len(stamp))
            pieces += (head, body, stamp)
            sizes.append(len(head) + len(body) + len(stamp))
        return pieces, sizes


def _head_of(frames: bytes, start: int) -> int:
    """How many bytes the tag and the length of a frame take."""
    at = start + 1
    while frames[at] & 0x80:
        at += 1
    return at + 1 - start


def event_field(frame: bytes) -> bytes:
    """A delivery's event as field 1 of a message, which is how responses that list events hold it.

    Args:
        frame: One encoded delivery, as the codec made it.
    """
    if frame[1] < 0x80:
        return frame[2:]
    start = 2
    while frame[start] & 0x80:
        start += 1
    return frame[start + 1 :]

"""Names of deliveries, which tell without a look-up whether the group ever gave them out."""

from struct import Struct
from zlib import crc32

PACKED = Struct(">QQ")
"""A sequence and a nonce, of which a name has the checksum."""


def make(secret: int, sequence: int, nonce: int) -> str:
    """Names a delivery.

    Args:
        secret: The group's own number, 32 bits.
        sequence: The event's sequence.
        nonce: Names the delivery within the group.
    """
    # Quicker than an f-string, and made for every delivery.
    return "%x-%x-%08x" % (sequence, nonce, crc32(PACKED.pack(sequence, nonce), secret))  # noqa: UP031


def read(secret: int, ack_id: str) -> tuple[int, int] | None:
    """Reads a name.

    The checksum keeps mistakes out, not forgers: whoever may settle for the group may settle all.

    Returns:
        The sequence and the nonce; None where the group never gave out this name.
    """
    parts = ack_id.split("-")
    if len(parts) != 3 or len(ack_id) > 42:
        return None
    try:
        sequence, nonce = int(parts[0], 16), int(parts[1], 16)
    except ValueError:
        return None
    if not (0 <= sequence < 1 << 63 and 0 <= nonce < 1 << 63):
        return None
    return (sequence, nonce) if make(secret, sequence, nonce) == ack_id else None

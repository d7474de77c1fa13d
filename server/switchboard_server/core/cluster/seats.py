"""Which seat a group has."""

from zlib import crc32

SEATS = 4
"""Over so many seats the groups of a cluster are spread.

The same for all its nodes, of whatever version."""


def seat_of(group: str) -> str:
    """The seat of a group."""
    return f"groups.{crc32(group.encode()) % SEATS}"


def all_seats() -> list[str]:
    """The seats of all groups."""
    return [f"groups.{number}" for number in range(SEATS)]

"""Columns of numbers as bytes, the same on every machine."""

from __future__ import annotations  # array[int] is for type checkers only

import sys
from array import array


def to_little(numbers: array[int]) -> bytes:
    """The numbers, one after the other, the lowest byte of each first."""
    if sys.byteorder == "big":
        numbers = array(numbers.typecode, numbers)
        numbers.byteswap()
    return numbers.tobytes()


def from_little(typecode: str, data: bytes) -> array[int]:
    """What `to_little` made.

    Raises:
        ValueError: These are not whole numbers of that size.
    """
    numbers = array(typecode, data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers

"""Pages: how long they may be, and tokens of where one ended.

A token is good only for the query that it was given for.
"""

import base64
import binascii
import hashlib

from switchboard_server.core.errors import InvalidArgumentError, Violation, invalid_field

DEFAULT_PAGE = 100
"""Entries of a page where the query names no number."""
MAX_PAGE = 1000
"""Most entries of a page."""

_DIGEST_BYTES = 8


def check_size(size: int, field: str) -> None:
    """Checks how many entries of something are asked for.

    Args:
        size: How many.
        field: Where that stands in the request.

    Raises:
        InvalidArgumentError: It is more than 1000, or less than none.
    """
    if not 0 <= size <= MAX_PAGE:
        raise invalid_field(field, f"{size} is not within 0 to {MAX_PAGE}")


def page_limit(page_size: int) -> int:
    """How many entries a page holds at most.

    Args:
        page_size: What is asked for, 1 to 1000; 0: 100.

    Raises:
        InvalidArgumentError: It is not allowed.
    """
    check_size(page_size, "page_size")
    return page_size or DEFAULT_PAGE


def make_token(position: bytes, query: object) -> str:
    """Makes a token.

    Args:
        position: Where the page ended.
        query: What was asked for; its `repr` tells queries apart.
    """
    token = _digest(position, query) + position
    return base64.urlsafe_b64encode(token).decode().rstrip("=")


def read_token(token: str, query: object, field: str = "page_token") -> bytes:
    """Reads a token.

    Args:
        token: The token.
        query: What is asked for now.
        field: Where it stands in the request.

    Returns:
        Where the page ended.

    Raises:
        InvalidArgumentError: It was not given for this query.
    """
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    digest, position = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if digest != _digest(position, query):
        problem = (
            "is not one that this hub gave for this query; repeat the query as it was, "
            "or begin without a token"
        )
        raise InvalidArgumentError(
            "INVALID_PAGE_TOKEN", f"{field}: {problem}", violations=[Violation(field, problem)]
        )
    return position


def _digest(position: bytes, query: object) -> bytes:
    asked = repr((position, query)).encode()
    return hashlib.blake2b(asked, digest_size=_DIGEST_BYTES).digest()

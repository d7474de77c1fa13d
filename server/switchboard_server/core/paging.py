"""Page tokens: where a page ended, good only for the query that it was given for."""

import base64
import binascii
import hashlib

from switchboard_server.core.errors import InvalidArgumentError, Violation

_DIGEST_BYTES = 8


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

"""Where Redis is, and a connection there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import RedisError

DEFAULT_PORT = 6379
_OURS = {
    "client_name",
    "decode_responses",
    "encoding",
    "encoding_errors",
    "health_check_interval",
    "max_connections",
    "protocol",
    "retry_on_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_read_size",
    "socket_timeout",
    "timeout",
}
"""What URLs may tell redis's own clients, and is for this backend to say, whatever stands there."""


@dataclass(frozen=True, slots=True)
class Address:
    """One server.

    Args:
        text: Host and port, for people.
        db: Number of its database.
        arguments: What to connect with, password and all.
    """

    text: str
    db: int
    arguments: dict[str, Any]

    def connection(self, client_name: str, timeout: float) -> Connection:
        """Makes a connection, which is not open yet.

        It never tries anything again: what failed may have been done, and whether doing it twice is
        harmless only its caller knows. RESP 2, whose Pub/Sub all versions of Redis have.
        """
        arguments = dict(self.arguments)
        kind: type[Connection] = arguments.pop("connection_class", Connection)
        # How long to wait is not for redis to say: it would send within asyncio.wait_for, which in
        # Python 3.11 swallows a cancellation that comes as it ends
        # (https://github.com/python/cpython/issues/86296), so a session that is to end did not.
        arguments |= {"socket_timeout": None, "socket_connect_timeout": timeout}
        return kind(**arguments, client_name=client_name, protocol=2, socket_keepalive=True)


def parse_addresses(urls: Sequence[str]) -> list[Address]:
    """Reads `redis://` and `rediss://` URLs.

    Args:
        urls: One or more; each may be several with commas between.

    Raises:
        ValueError: One is none; the message has no password in it.
    """
    texts = [part.strip() for url in urls for part in url.split(",") if part.strip()]
    if not texts:
        raise ValueError("no address of Redis is given")
    return [_parsed(text) for text in texts]


def _parsed(text: str) -> Address:
    if not text.startswith(("redis://", "rediss://")):
        raise ValueError("an address of Redis begins with redis:// or rediss://")
    parts = urlsplit(text)
    database = parts.path.strip("/")
    if database and not database.isdecimal():
        raise ValueError("the database in an address of Redis is a number, as in redis://host/0")
    arguments: dict[str, Any] = {k: v for k, v in parse_url(text).items() if k not in _OURS}
    arguments.setdefault("host", "localhost")
    arguments.setdefault("port", DEFAULT_PORT)
    host = arguments["host"]
    shown = f"[{host}]" if ":" in host else host
    address = Address(f"{shown}:{arguments['port']}", arguments.get("db", 0), arguments)
    try:
        address.connection("", 0.0)
    except TypeError as error:
        name = str(error).rpartition("keyword argument ")[2]
        raise ValueError(f"an address of {parts.scheme}:// takes no parameter {name}") from None
    except RedisError as error:
        raise ValueError(f"the address of Redis at {address.text}: {error}") from None
    return address

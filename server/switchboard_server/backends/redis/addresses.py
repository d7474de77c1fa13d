"""Where Redis is, and a connection there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import Connection, parse_url

DEFAULT_PORT = 6379


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
        # How long to wait is for this backend to say, whatever stands in the URL. And not for
        # redis: it would send within asyncio.wait_for, which in Python 3.11 swallows a cancellation
        # that comes as it ends (https://github.com/python/cpython/issues/86296), so that a session
        # that is to end did not.
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
    arguments: dict[str, Any] = dict(parse_url(text))
    arguments.setdefault("host", "localhost")
    arguments.setdefault("port", DEFAULT_PORT)
    host = arguments["host"]
    shown = f"[{host}]" if ":" in host else host
    return Address(f"{shown}:{arguments['port']}", arguments.get("db", 0), arguments)

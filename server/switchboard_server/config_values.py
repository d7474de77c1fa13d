"""What a setting may hold: types of fields that say more than `int` or `str`, with their checks.

A check raises ValueError; what is allowed is said by `Allowed`, or made of the bounds of the type.
"""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.filters import MAX_NAME
from switchboard_server.core.realtime.history import HistoryPolicy

MIB = 1024 * 1024
MAX_SECONDS = 100 * 366 * 24 * 3600
"""A hundred years. More nanoseconds before now than that would not fit into 64 bits everywhere."""
MAX_EXPIRE_MINUTES = MAX_SECONDS // 60
"""What a token may be valid at most, in minutes."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Says in words what a field takes, where its type does not say it all."""

    text: str


def split(text: str) -> list[str]:
    """What stands in a list with commas between."""
    return [each.strip() for each in text.split(",") if each.strip()]


# --- numbers and words ---------------------------------------------------------------------------

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
Age = Annotated[int, Field(ge=0, le=MAX_SECONDS)]
PingSeconds = Annotated[float, Field(ge=1, le=3600, allow_inf_nan=False)]
FrameBytes = Annotated[int, Field(ge=1024, le=16 * 1024 * 1024)]
# gRPC keeps sizes of messages in 32 bits.
MessageBytes = Annotated[int, Field(ge=1024, le=2**31 - 1)]
Algorithm = Literal["HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"]
LogLevel = Literal["debug", "info", "warning", "error"]

# --- hosts, networks and addresses ---------------------------------------------------------------

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\.?")
_DOTTED_NUMBER = re.compile(r"[0-9.]+")
# Scheme, host and port, as browsers send them: https://datatracker.ietf.org/doc/html/rfc6454
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s@?#]+|null")


def _check_host(host: str) -> str:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # 256.0.0.1 has the shape of a name, but whoever wrote it meant an address.
        if not _HOST_NAME.fullmatch(host) or _DOTTED_NUMBER.fullmatch(host):
            raise
    return host


def _check_networks(text: str) -> str:
    for part in text.split(","):
        ipaddress.ip_network(part.strip())
    return text


def split_origins(text: str) -> list[str]:
    """The origins of a list, in lower case."""
    return [each.lower() for each in split(text)]


def _check_origins(text: str) -> str:
    for origin in split_origins(text):
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError
    return text


def _check_urls(urls: SecretStr | None, schemes: Collection[str]) -> SecretStr | None:
    if urls is None:
        return None
    given = split(urls.get_secret_value())
    if not given:
        raise ValueError
    for url in given:
        parts = urlsplit(url)
        # Reading the port fails where it is none.
        if parts.scheme not in schemes or not parts.hostname or parts.port == 0:
            raise ValueError
    return urls


Host = Annotated[str, AfterValidator(_check_host), Allowed("an IP address or a host name")]
Networks = Annotated[
    str,
    AfterValidator(_check_networks),
    Allowed("networks such as 10.0.0.0/8, separated by commas"),
]
Origins = Annotated[
    str,
    AfterValidator(_check_origins),
    Allowed("origins such as https://app.example.com, separated by commas, or *"),
]
RabbitUrls = Annotated[
    SecretStr | None,
    AfterValidator(partial(_check_urls, schemes=("amqp", "amqps"))),
    Allowed("addresses such as amqp://user:password@host:5672/, separated by commas"),
]
RedisUrls = Annotated[
    SecretStr | None,
    AfterValidator(partial(_check_urls, schemes=("redis", "rediss"))),
    Allowed("addresses such as redis://:password@host:6379/0, separated by commas"),
]

# --- names and rules -----------------------------------------------------------------------------

# RabbitMQ takes names of 255 bytes, of which those that are made of this one need some, and keeps
# names that begin with amq. to itself.
_EXCHANGE = re.compile(r"(?!amq\.)[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HISTORY_RULE = re.compile(r"([^=,*\x00-\x1f\x7f-\x9f]*\*?)=([1-9]\d{0,4})/([1-9]\d{0,8})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


def _check_exchange(name: str) -> str:
    if not _EXCHANGE.fullmatch(name):
        raise ValueError
    return name


def _parse_room_history(text: object) -> object:
    """Reads `pattern=messages/time` with commas between."""
    if not isinstance(text, str):
        return text
    rules: dict[str, HistoryPolicy] = {}
    for rule in text.split(","):
        match = _HISTORY_RULE.fullmatch(rule.strip())
        if match is None or not 0 < len(match[1]) <= MAX_NAME or match[1] in rules:
            raise ValueError
        seconds = int(match[3]) * _UNITS[match[4]]
        rules[match[1]] = HistoryPolicy(int(match[2]), seconds * SECOND_NS)
    return rules


ExchangeName = Annotated[
    str,
    AfterValidator(_check_exchange),
    Allowed("up to 128 letters, digits, dots, hyphens and underscores, not beginning with amq."),
]
RoomHistory = Annotated[
    dict[str, HistoryPolicy],
    BeforeValidator(_parse_room_history),
    Allowed("a list such as chat-*=100/5m,lobby=20/1h, with times in s, m, h or d"),
]

"""What names, contents and targets must be like, whichever door they come through."""

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from switchboard_server.core.errors import (
    AbortedError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    invalid_field,
    limit_reached,
    too_large,
)
from switchboard_server.core.filters import MAX_NAME
from switchboard_server.core.principal import Principal
from switchboard_server.core.realtime.wishes import BroadcastWish, ConnectWish, DisconnectWish

MAX_ROOMS = 128
"""Most rooms that a connection stands in."""
MAX_TARGETS = 10_000
"""Most entries of the lists of targets, together."""
MAX_DEPTH = 32
"""How deep a content may nest. An object is three messages of protobuf, which ends at a hundred."""
MAX_REASON_BYTES = 123
"""Longest reason of a Disconnect: RFC 6455, section 5.5, leaves so much in a close frame."""
RESERVED_TYPES = ("ack", "event", "presence")
"""What the bridge says for itself."""

DOTS = (".", "..")
"""What no connection is called: browsers take them out of a path, even where they are encoded."""

# Control characters, and surrogates, which are no text: no UTF-8 can hold them.
_UNNAMEABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LARGE_NUMBER = re.compile(rb"\d{309}")
_LARGEST = int(sys.float_info.max)


def check_name(field: str, value: str, *, required: bool = True) -> None:
    """Checks the name of a connection, a user or a room.

    Args:
        field: Where it stands in the request.
        value: The name.
        required: Whether it must be there.

    Raises:
        InvalidArgumentError: It is not allowed.
    """
    if not value:
        if required:
            raise invalid_field(field, "is required", reason="FIELD_MISSING")
        return
    if len(value) > MAX_NAME:
        raise too_large(field, len(value), MAX_NAME, "characters")
    if "*" in value or _UNNAMEABLE.search(value):
        raise invalid_field(
            field, f"{value[:40]!r} has a '*' or a control character; leave them out"
        )


def check_client_id(value: str) -> None:
    """Checks the name that a connection gives itself; empty: it leaves that to the hub.

    Raises:
        InvalidArgumentError: It is not allowed.
    """
    check_name("client_id", value, required=False)
    if value in DOTS:
        raise invalid_field(
            "client_id", f"{value!r} stands for a folder in addresses; take another name"
        )


def check_user(field: str, value: str) -> None:
    """Checks the name that a user goes by, which may be any text.

    Raises:
        InvalidArgumentError: It is too long, or no text.
    """
    if len(value) > MAX_NAME:
        raise too_large(field, len(value), MAX_NAME, "characters")
    if _UNNAMEABLE.search(value):
        raise invalid_field(field, f"{value[:40]!r} has a control character; leave it out")


def check_broadcast(wish: BroadcastWish) -> None:
    """Checks everything of a message but its content.

    Raises:
        InvalidArgumentError: Something is not allowed.
    """
    kind = wish.message_type
    if not kind:
        raise invalid_field("message_type", "is required, such as 'chat'", reason="FIELD_MISSING")
    if len(kind) > MAX_NAME:
        raise too_large("message_type", len(kind), MAX_NAME, "characters")
    if _UNNAMEABLE.search(kind):
        raise invalid_field("message_type", f"{kind[:40]!r} has a control character; leave it out")
    if kind in RESERVED_TYPES:
        raise invalid_field("message_type", f"{kind!r} is a word of the bridge's; take another")
    if not (wish.to_all or wish.rooms or wish.users or wish.clients):
        raise invalid_field(
            "all",
            "nobody is named to send to; set all, rooms, users or clients",
            reason="FIELD_MISSING",
        )
    check_count(
        "rooms", [wish.rooms, wish.users, wish.clients, wish.exclude_clients], "targets in all"
    )
    for index, room in enumerate(wish.rooms):
        check_name(f"rooms[{index}]", room)


def check_disconnect(wish: DisconnectWish) -> None:
    """Checks a wish to close connections.

    Raises:
        InvalidArgumentError: Something is not allowed.
    """
    if not (wish.clients or wish.users):
        raise invalid_field(
            "clients", "nobody is named; set clients or users", reason="FIELD_MISSING"
        )
    check_count("clients", [wish.clients, wish.users], "entries in all")
    if _UNNAMEABLE.search(wish.reason):
        raise invalid_field("reason", "has a control character; leave it out")
    size = len(wish.reason.encode())
    if size > MAX_REASON_BYTES:
        raise too_large("reason", size, MAX_REASON_BYTES, "bytes")


def check_count(field: str, lists: Sequence[Sequence[str]], what: str) -> None:
    """Checks how many entries some lists have together.

    Raises:
        InvalidArgumentError: They have too many.
    """
    count = sum(map(len, lists))
    if count > MAX_TARGETS:
        raise too_large(field, count, MAX_TARGETS, what)


def another_users(client_id: str) -> PermissionDeniedError:
    """The error for a name that another user's connection has."""
    return PermissionDeniedError(
        "PERMISSION_DENIED",
        f"{client_id!r} is the name of another user's connection; take another",
        metadata={"permission": "rooms.join", "resource": client_id},
    )


def not_found(client_id: str) -> NotFoundError:
    """The error for a connection that is not there."""
    return NotFoundError("CONNECTION_NOT_FOUND", f"there is no connection named {client_id!r}")


def closed_by_somebody(wish: DisconnectWish) -> AbortedError:
    """The error for a connection that somebody has closed, which says whether to come back."""
    advice = "connect again" if wish.reconnect else "do not connect again by yourself"
    return AbortedError(
        "CONNECTION_CLOSED",
        f"somebody closed the connection: {wish.reason or 'no reason given'}; {advice}",
        metadata={"reason": wish.reason, "reconnect": "true" if wish.reconnect else "false"},
    )


def too_many_rooms() -> ResourceExhaustedError:
    """The error for a connection that stands in as many rooms as it may."""
    problem = (
        f"a connection stands in at most {MAX_ROOMS} rooms; leave one, or open another connection"
    )
    return limit_reached(problem, MAX_ROOMS)


def user_of(wish: ConnectWish, principal: Principal) -> str:
    """Whose a connection is to be.

    Raises:
        InvalidArgumentError: The name is not allowed.
        PermissionDeniedError: It is not the caller's.
    """
    check_user("user", wish.user)
    if wish.user and principal.subject and wish.user != principal.subject:
        raise PermissionDeniedError(
            "PERMISSION_DENIED",
            f"the token is {principal.subject!r}'s, so the connection cannot be {wish.user!r}'s",
            metadata={"permission": "rooms.join", "resource": wish.user},
        )
    return wish.user or principal.subject


def check_targets(wish: BroadcastWish, principal: Principal) -> None:
    """Checks that a caller may send to all that it names.

    Raises:
        PermissionDeniedError: It may not.
    """
    principal.require("messaging.broadcast")
    for room in wish.rooms:
        principal.require("messaging.broadcast", room)
    if wish.to_all or wish.users or wish.clients:
        # A scope names rooms, so it permits nothing else.
        principal.require("messaging.broadcast", "*")


def content(data: dict[str, Any], limit: int) -> bytes:
    """Checks the content of a message.

    Args:
        data: A JSON object, as `json.loads` returns it.
        limit: Most bytes of it as JSON.

    Returns:
        It as JSON in UTF-8.

    Raises:
        InvalidArgumentError: It is too large, nests too deep, or holds what JSON or protobuf's
            Struct cannot: infinity, NaN, numbers beyond a double, text that is none.
    """
    try:
        encoded = json.dumps(
            data, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()
    except RecursionError:
        raise _too_deep() from None
    except UnicodeEncodeError:
        raise invalid_field("data", "has text that is not Unicode: a surrogate alone") from None
    except ValueError:
        raise invalid_field("data", "has a number that is infinite or none") from None
    if len(encoded) > limit:
        raise too_large("data", len(encoded), limit, "bytes as JSON")
    # Looking at each value takes far longer than making the JSON, and these two tell when there
    # is nothing to be found.
    if encoded.count(b"{") + encoded.count(b"[") > MAX_DEPTH or _LARGE_NUMBER.search(encoded):
        _check_values(data, MAX_DEPTH)
    return encoded


def _check_values(value: object, depth: int) -> None:
    if isinstance(value, int):
        if not -_LARGEST <= value <= _LARGEST:
            raise invalid_field("data", "has a number that no double can hold; send it as text")
    elif isinstance(value, dict | list):
        if not depth:
            raise _too_deep()
        for each in value.values() if isinstance(value, dict) else value:
            _check_values(each, depth - 1)


def _too_deep() -> InvalidArgumentError:
    return invalid_field("data", f"nests deeper than {MAX_DEPTH} objects and lists")

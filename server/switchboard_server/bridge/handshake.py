"""What the request that opens a WebSocket says: its name, the token, the page it comes from."""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import pairwise
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from websockets.datastructures import Headers

from switchboard_server.core.errors import invalid_field

SUBPROTOCOL = "bearer"
"""Subprotocol after which a browser names its token, since it can set no other header."""

_PATH = "/ws"
_SCHEME = "bearer "
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class Opening:
    """What a client asks for.

    Args:
        client_id: Name of the connection; empty: the hub is to make one.
        user: Whose it is; empty: the token says.
        token: Its token; None: it sent none.
    """

    client_id: str
    user: str
    token: str | None


def is_websocket_path(path: str) -> bool:
    """Whether WebSockets are served under a path."""
    return path == _PATH or path.startswith(_PATH + "/")


def read(target: str, headers: Headers) -> Opening:
    """Reads the request.

    Args:
        target: Its target, path and query.
        headers: Its headers.

    Raises:
        InvalidArgumentError: Path or query are not UTF-8, or the path has more parts.
        ValueError: The target is no URL.
    """
    url = urlsplit(target)
    name = url.path[len(_PATH) + 1 :]
    if "/" in name:
        raise invalid_field("client_id", "is one part of the path; write '/' in it as %2F")
    try:
        client_id = unquote(name, errors="strict")
        query = parse_qs(url.query, errors="strict", max_num_fields=16)
    except UnicodeDecodeError:
        raise invalid_field("client_id", "is percent-encoded UTF-8") from None
    given = {each: values[0] for each, values in query.items()}
    token = _in_subprotocols(headers) or _in_authorization(headers) or given.get("token")
    return Opening(client_id, given.get("user", ""), token)


def origin_allowed(headers: Headers, allowed: Collection[str], *, any_host: bool = True) -> bool:
    """Whether a page may open a WebSocket here, so that none acts for whoever looks at it.

    A program sends no origin, and may.

    Args:
        headers: The request's headers.
        allowed: Origins besides the host itself, such as "https://app.example.com"; "*": all.
        any_host: Whether the host itself may have any name; else only one that `host_allowed`
            knows.
    """
    origins, hosts = headers.get_all("Origin"), headers.get_all("Host")
    if not origins or "*" in allowed:
        return True
    origin = origins[0].lower()
    if len(origins) != 1 or len(hosts) != 1:
        return False
    if origin in allowed:
        return True
    return _same_host(origin, hosts[0]) and (any_host or host_allowed(headers, allowed))


def listed_origin(headers: Headers, allowed: Collection[str]) -> str | None:
    """The origin of the page that asks, where it is one of those that are listed.

    Args:
        headers: The request's headers.
        allowed: The list; "*": all.
    """
    origins = headers.get_all("Origin")
    if len(origins) != 1:
        return None
    return origins[0] if "*" in allowed or origins[0].lower() in allowed else None


def host_allowed(headers: Headers, allowed: Collection[str]) -> bool:
    """Whether a request calls the hub by a name that no stranger can have pointed at it.

    A page can have its own name resolve to the hub's address (DNS rebinding), and is of the same
    host then as far as its browser knows. It cannot do so with an address, nor with "localhost".

    Args:
        headers: The request's headers. One without a host comes from a program.
        allowed: Origins whose hosts are the hub's names as well; "*": any.
    """
    hosts = headers.get_all("Host")
    if not hosts or "*" in allowed:
        return True
    if len(hosts) != 1:
        return False
    try:
        name = urlsplit(f"//{hosts[0].lower()}").hostname
    except ValueError:
        return False
    if name is None:
        return False
    if name == "localhost" or _is_address(name):
        return True
    return any(_same_host(origin, hosts[0]) for origin in allowed)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _same_host(origin: str, host: str) -> bool:
    """Whether a page of an origin comes from a host."""
    try:
        page = urlsplit(origin)
        return _address(page) == _address(urlsplit(f"{page.scheme}://{host.lower()}"))
    except ValueError:
        return False


def _address(url: SplitResult) -> tuple[str, int]:
    """Host and port.

    Raises:
        ValueError: One is missing.
    """
    port = url.port or _DEFAULT_PORTS.get(url.scheme)
    if not url.hostname or port is None:
        raise ValueError("neither host nor port")
    return url.hostname, port


def _in_subprotocols(headers: Headers) -> str | None:
    """The token after "bearer" in the list of subprotocols."""
    listed = ",".join(headers.get_all("Sec-WebSocket-Protocol")).split(",")
    offered = [each.strip() for each in listed]
    for name, following in pairwise(offered):
        if name == SUBPROTOCOL:
            return following or None
    return None


def _in_authorization(headers: Headers) -> str | None:
    for value in headers.get_all("Authorization"):
        if value[: len(_SCHEME)].lower() == _SCHEME:
            return value[len(_SCHEME) :].strip()
    return None

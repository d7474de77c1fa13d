"""Where a health check goes: read from a registration once, so that checks only go there."""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from switchboard_server.core.errors import InvalidArgumentError, invalid_field, too_large
from switchboard_server.core.registry.model import Probe, ProbeKind, Registration, join_address

MAX_URL = 2048
"""Longest URL, in characters."""
DEFAULT_PORTS = {"http": 80, "https": 443}
"""The ports that a URL of these schemes need not name."""

_NAME = re.compile(r"(?=.{1,253}\.?$)(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_DOTTED_NUMBER = re.compile(r"[0-9.]+")
# What a URL may hold by RFC 3986: no space and no control character, by which one could write
# into the request.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[!-~]+")
_PATH = re.compile(r"/[!-~]*")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a check goes.

    Args:
        kind: How to check.
        host: A name or an IP address.
        port: The port.
        tls: Whether to encrypt.
        path: For HTTP, what to get, with the query.
        service: For gRPC, the name of the service to ask for.
    """

    kind: ProbeKind
    host: str
    port: int
    tls: bool = False
    path: str = ""
    service: str = ""

    @property
    def address(self) -> str:
        """As "host:port"."""
        return join_address(self.host, self.port)


def host_problem(host: str) -> str | None:
    """What is wrong with a host; None: nothing."""
    try:
        ip_address(host)
    except ValueError:
        # 256.0.0.1 and 127.1 have the shape of names, but resolvers take them for addresses.
        if not _NAME.fullmatch(host) or _DOTTED_NUMBER.fullmatch(host):
            return f"{host[:80]!r} is neither a host name nor an IP address without brackets"
    return None


@dataclass(frozen=True, slots=True)
class Location:
    """The parts of a URL that matter here.

    Args:
        scheme: In lower case.
        host: A name or an IP address without brackets.
        port: The port; 0: the URL names none, and its scheme has no default.
        path: Path and query.
    """

    scheme: str
    host: str
    port: int
    path: str


def parse_url(field: str, url: str) -> Location:
    """Reads a URL.

    Args:
        field: Where it stands in the request, for the error.
        url: The URL.

    Raises:
        InvalidArgumentError: It is not one with a scheme and a host.
    """
    if len(url) > MAX_URL:
        raise too_large(field, len(url), MAX_URL, "characters")
    try:
        parts = urlsplit(url) if _URL.fullmatch(url) else None
        port = parts.port if parts is not None else None
    except ValueError:
        parts, port = None, None
    if parts is None or not parts.hostname or (problem := host_problem(parts.hostname)):
        text = problem if parts is not None and parts.hostname else f"{url[:80]!r} is no URL"
        raise invalid_field(field, f"{text}; write it as scheme://host:port/path")
    if "@" in parts.netloc:
        raise invalid_field(field, "holds a user name; leave it out, callers can read it")
    query = f"?{parts.query}" if parts.query else ""
    scheme = parts.scheme.lower()
    return Location(
        scheme,
        parts.hostname,
        port or DEFAULT_PORTS.get(scheme, 0),
        (parts.path or "/") + query,
    )


def target_of(registration: Registration) -> Target | None:
    """Where the check of a registration goes; None: its lease alone decides.

    Args:
        registration: With host and port filled in.

    Raises:
        InvalidArgumentError: The check names no possible place.
    """
    probe = registration.check.probe
    if probe is None:
        return None
    if probe.kind is ProbeKind.HTTP:
        return _http_target(registration, probe)
    host, port = registration.host, registration.port
    if probe.where:
        host, port = _parse_address(f"health_check.{probe.kind.value}.address", probe.where)
    return Target(probe.kind, host, port, tls=probe.tls, service=probe.service)


def _http_target(registration: Registration, probe: Probe) -> Target:
    field = "health_check.http.url"
    where = probe.where or "/health"
    if not where.startswith("/"):
        location = parse_url(field, where)
        if location.scheme not in DEFAULT_PORTS:
            raise invalid_field(field, f"{location.scheme!r} is neither http nor https")
        return Target(
            ProbeKind.HTTP, location.host, location.port, location.scheme == "https", location.path
        )
    if len(where) > MAX_URL or not _PATH.fullmatch(where):
        raise invalid_field(
            field, f"must be at most {MAX_URL} characters, without spaces and control characters"
        )
    tls = registration.url.lower().startswith("https://")
    return Target(ProbeKind.HTTP, registration.host, registration.port, tls, where.split("#")[0])


def _parse_address(field: str, address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if (
        not colon
        or not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535)
        or host_problem(host)
        or bracketed is not _is_ipv6(host)
    ):
        raise _bad_address(field, address)
    return host, int(port)


def _is_ipv6(host: str) -> bool:
    try:
        return isinstance(ip_address(host), IPv6Address)
    except ValueError:
        return False


def _bad_address(field: str, address: str) -> InvalidArgumentError:
    return invalid_field(
        field, f"{address[:80]!r} is not of the form host:port, an IPv6 address in brackets"
    )

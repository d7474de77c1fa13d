"""What a registration must be like to be taken, and what it means where it says nothing."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import invalid_field, too_large
from switchboard_server.core.filters import MAX_NAME
from switchboard_server.core.registry.model import (
    DEFAULT_LEASE_NS,
    HealthCheck,
    Probe,
    ProbeKind,
    Registration,
)
from switchboard_server.core.registry.semver import MAX_VERSION, parse_version
from switchboard_server.core.registry.targets import host_problem, parse_url, target_of

MAX_METADATA = 64
"""Most metadata of an instance."""
MAX_METADATA_KEY = 128
"""Longest metadata key, in characters."""
MAX_METADATA_VALUE = 512
"""Longest metadata value, in characters."""
MAX_WEIGHT = 10_000
"""Largest weight."""
MAX_THRESHOLD = 100
"""Most checks in a row that may be asked for."""
MAX_REASON = 1024
"""Longest reason of a status, in characters."""
LEASE_BOUNDS_NS = (SECOND_NS, 24 * 3600 * SECOND_NS)
"""Shortest and longest lease, in nanoseconds."""
INTERVAL_BOUNDS_NS = (SECOND_NS, 3600 * SECOND_NS)
"""Shortest and longest time between checks, in nanoseconds."""
MIN_TIMEOUT_NS = SECOND_NS // 10
"""Shortest timeout of a check, in nanoseconds."""
DEFAULT_TIMEOUT_NS = 2 * SECOND_NS
"""Timeout of a check, where the interval is not shorter."""
HEALTHY_THRESHOLD = 1
"""How many checks must pass, unless told otherwise."""
UNHEALTHY_THRESHOLD = 3
"""How many checks must fail, unless told otherwise."""


def normalise(registration: Registration, interval_ns: int) -> Registration:
    """Checks a registration, and fills in what it leaves open.

    Args:
        registration: As it came.
        interval_ns: Time between checks where it names none, in nanoseconds.

    Raises:
        InvalidArgumentError: It is not allowed; the field is named as within the instance.
    """
    check_service_name("service_name", registration.service)
    _check_text("instance_id", registration.id, forbidden="/")
    _check_text("zone", registration.zone)
    located = _locate(registration)
    if registration.version and parse_version(registration.version) is None:
        raise invalid_field(
            "version",
            f"{registration.version[:40]!r} is no SemVer 2.0.0 version of at most {MAX_VERSION} "
            "characters, such as '1.4.2'",
        )
    if registration.weight > MAX_WEIGHT:
        raise invalid_field("weight", f"must be 1 to {MAX_WEIGHT}")
    check_metadata("metadata", registration.metadata)
    lease_ns = registration.lease_ns or DEFAULT_LEASE_NS
    _check_duration("lease_ttl", lease_ns, *LEASE_BOUNDS_NS)
    done = replace(
        located,
        id=registration.id or located.address,
        weight=registration.weight or 1,
        metadata=MappingProxyType(dict(registration.metadata)),
        check=_normal_check(registration.check, interval_ns),
        lease_ns=lease_ns,
    )
    target_of(done)
    return done


def check_service_name(field: str, name: str) -> None:
    """Checks the name of a service.

    Raises:
        InvalidArgumentError: It is not allowed.
    """
    if not name:
        raise invalid_field(field, "is required", reason="FIELD_MISSING")
    _check_text(field, name, forbidden="*/")


def check_metadata(field: str, metadata: Mapping[str, str]) -> None:
    """Checks metadata.

    Raises:
        InvalidArgumentError: There are too many, or they are too long.
    """
    if len(metadata) > MAX_METADATA:
        raise too_large(field, len(metadata), MAX_METADATA, "entries")
    for key, value in metadata.items():
        if not 0 < len(key) <= MAX_METADATA_KEY:
            raise invalid_field(
                field, f"the key {key[:40]!r} must have 1 to {MAX_METADATA_KEY} characters"
            )
        if len(value) > MAX_METADATA_VALUE:
            raise invalid_field(
                field,
                f"the value of {key!r} has {len(value)} characters, "
                f"at most {MAX_METADATA_VALUE} are allowed",
            )


def _check_text(field: str, value: str, forbidden: str = "") -> None:
    if len(value) > MAX_NAME:
        raise too_large(field, len(value), MAX_NAME, "characters")
    if not value.isprintable() or any(each in value for each in forbidden):
        listed = "".join(f"a '{each}', " for each in forbidden)
        raise invalid_field(
            field,
            f"{value[:40]!r} has {listed}or a character that does not print; leave them out"
            if listed
            else f"{value[:40]!r} has a character that does not print; leave it out",
        )


def _check_duration(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        text = f"must be {least / SECOND_NS:g} to {most / SECOND_NS:g} seconds"
        raise invalid_field(field, text)


def _locate(registration: Registration) -> Registration:
    """Fills in host and port."""
    host, port = registration.host, registration.port
    if host and (problem := host_problem(host)):
        raise invalid_field("host", problem)
    if port > 65535:
        raise invalid_field("port", "must be 1 to 65535")
    if registration.url:
        location = parse_url("service_url", registration.url)
        if host and host.lower() != location.host:
            raise invalid_field("host", f"is not that of service_url, {location.host!r}")
        if port and location.port and port != location.port:
            raise invalid_field("port", f"is not that of service_url, {location.port}")
        if not (port or location.port):
            raise invalid_field(
                "service_url", f"must name a port, since {location.scheme!r} has no default"
            )
        return replace(registration, host=host or location.host, port=port or location.port)
    for field, value in (("host", host), ("port", port)):
        if not value:
            raise invalid_field(
                field, "is required where service_url is empty", reason="FIELD_MISSING"
            )
    return registration


def _normal_check(check: HealthCheck, default_interval_ns: int) -> HealthCheck:
    interval = check.interval_ns or default_interval_ns
    _check_duration("health_check.interval", interval, *INTERVAL_BOUNDS_NS)
    timeout = check.timeout_ns or min(DEFAULT_TIMEOUT_NS, interval)
    _check_duration("health_check.timeout", timeout, MIN_TIMEOUT_NS, interval)
    for field in ("healthy_threshold", "unhealthy_threshold"):
        if getattr(check, field) > MAX_THRESHOLD:
            raise invalid_field(f"health_check.{field}", f"must be 1 to {MAX_THRESHOLD}")
    if check.probe is not None:
        _check_probe(check.probe)
    return HealthCheck(
        check.probe,
        interval,
        timeout,
        check.healthy_threshold or HEALTHY_THRESHOLD,
        check.unhealthy_threshold or UNHEALTHY_THRESHOLD,
    )


def _check_probe(probe: Probe) -> None:
    if probe.kind is ProbeKind.GRPC:
        _check_text("health_check.grpc.service", probe.service)

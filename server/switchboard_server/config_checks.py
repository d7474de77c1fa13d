"""What must hold between settings that are each valid by themselves."""

import importlib.util
import ipaddress
from collections.abc import Callable, Collection, Iterator

from switchboard_server.config_sections import Settings
from switchboard_server.security.errors import CredentialsError

Finding = tuple[str, str]
"""The name of a setting that is to blame, and what is wrong with it and what is allowed."""


def check_settings(settings: Settings, skip: Collection[str] = ()) -> Iterator[Finding]:
    """Finds settings that do not fit together, and files that cannot be used.

    Args:
        settings: The settings.
        skip: Names of settings that were found bad before and have their default here; what depends
            on one of them is not checked.

    Yields:
        What was found.
    """
    for names, check in _CHECKS:
        if not names.intersection(skip):
            yield from check(settings)


def is_loopback(host: str) -> bool:
    """Whether an address or host name of `HOST` cannot be reached from other machines."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _check_ports(settings: Settings) -> Iterator[Finding]:
    server = settings.server
    if server.port and server.port == server.grpc_port:
        yield "GRPC_PORT", "must be another port than PORT"


def _check_host(settings: Settings) -> Iterator[Finding]:
    if not settings.auth.configured and not is_loopback(settings.server.host):
        yield (
            "HOST",
            "is reachable from other machines, and nobody would need a token. Set JWT_SECRET_KEY "
            "to at least 32 random bytes, or JWT_ALGORITHM and JWT_PUBLIC_KEY_FILE or JWT_JWKS; or "
            "set HOST to a loopback address: 127.0.0.1, ::1 or localhost",
        )


def _check_keys(settings: Settings) -> Iterator[Finding]:
    auth = settings.auth
    try:
        auth.load_keys()
    except CredentialsError as error:
        names = {
            "secret": "JWT_SECRET_KEY",
            "public_key_file": "JWT_PUBLIC_KEY_FILE",
            "private_key_file": "JWT_PRIVATE_KEY_FILE",
            "jwks": "JWT_JWKS",
        }
        yield from ((names[parameter], text) for parameter, text in error.problems)
    if not auth.configured:
        # Whoever sets them believes that tokens are checked.
        for name, value in (("JWT_AUDIENCE", auth.audience), ("JWT_ISSUER", auth.issuer)):
            if value is not None:
                yield (
                    name,
                    "needs keys to check tokens with: JWT_SECRET_KEY, JWT_PUBLIC_KEY_FILE or "
                    "JWT_JWKS",
                )


def _check_tls(settings: Settings) -> Iterator[Finding]:
    tls = settings.tls
    names = {
        "cert_file": "SWITCHBOARD_TLS_CERT_FILE",
        "key_file": "SWITCHBOARD_TLS_KEY_FILE",
        "client_ca_file": "SWITCHBOARD_TLS_CLIENT_CA_FILE",
    }
    given = [name for name in names if getattr(tls, name) is not None]
    missing = [name for name in ("cert_file", "key_file") if name not in given]
    if given and missing:
        needing = " and ".join(names[name] for name in given)
        yield from ((names[name], f"is not set, and {needing} needs it") for name in missing)
        return
    try:
        tls.load()
    except CredentialsError as error:
        yield from ((names[parameter], text) for parameter, text in error.problems)


def _check_sizes(settings: Settings) -> Iterator[Finding]:
    event, message = settings.limits.max_event_bytes, settings.limits.max_message_bytes
    if event > message:
        text = f"must be at most SWITCHBOARD_MAX_MESSAGE_BYTES, which is {message}"
        yield "SWITCHBOARD_MAX_EVENT_BYTES", text
    if event > settings.storage.max_pending_bytes:
        text = f"must be at least SWITCHBOARD_MAX_EVENT_BYTES, which is {event}"
        yield "SWITCHBOARD_MAX_PENDING_BYTES", text


def _check_memory(settings: Settings) -> Iterator[Finding]:
    kept, remembered = settings.storage.retention_seconds, settings.limits.idempotency_seconds
    # After a restart ids are read from the log.
    if 0 < kept < remembered:
        yield (
            "SWITCHBOARD_RETENTION_SECONDS",
            f"must be 0, or at least SWITCHBOARD_IDEMPOTENCY_SECONDS, which is {remembered}: "
            "ids are remembered over a restart as long as their events are kept",
        )


def _check_cluster(settings: Settings) -> Iterator[Finding]:
    if settings.storage.backend != "cluster":
        return
    cluster = settings.cluster
    for name, url, example in (
        ("RABBITMQ_URL", cluster.rabbitmq_url, "amqp://guest:guest@localhost:5672/"),
        ("REDIS_URL", cluster.redis_url, "redis://localhost:6379/0"),
    ):
        if url is None:
            yield name, f"is needed with SWITCHBOARD_BACKEND=cluster, such as {example}"
    if any(importlib.util.find_spec(driver) is None for driver in ("aio_pika", "redis")):
        yield (
            "SWITCHBOARD_BACKEND",
            "needs the extras rabbitmq and redis: "
            "pip install 'switchboard-mesh[server,rabbitmq,redis]'",
        )


def _check_outbox(settings: Settings) -> Iterator[Finding]:
    realtime = settings.realtime
    if realtime.max_message_bytes > realtime.outbox_bytes:
        text = f"must be at most SWITCHBOARD_OUTBOX_BYTES, which is {realtime.outbox_bytes}"
        yield "SWITCHBOARD_MAX_BROADCAST_BYTES", text


def _installed(package: str, module: str) -> bool:
    # Others bring a package of the same name, so a module of it has to be looked for.
    return (
        importlib.util.find_spec(package) is not None
        and importlib.util.find_spec(f"{package}.{module}") is not None
    )


def _check_xds(settings: Settings) -> Iterator[Finding]:
    if settings.server.xds and not _installed("envoy", "service"):
        yield (
            "SWITCHBOARD_XDS",
            "needs the extra xds: pip install 'switchboard-mesh[server,xds]'",
        )


_CHECKS: tuple[tuple[frozenset[str], Callable[[Settings], Iterator[Finding]]], ...] = (
    (frozenset({"PORT", "GRPC_PORT"}), _check_ports),
    (frozenset({"HOST"}), _check_host),
    (frozenset({"JWT_ALGORITHM"}), _check_keys),
    (frozenset(), _check_tls),
    (frozenset({"SWITCHBOARD_XDS"}), _check_xds),
    (
        frozenset(
            {
                "SWITCHBOARD_MAX_EVENT_BYTES",
                "SWITCHBOARD_MAX_MESSAGE_BYTES",
                "SWITCHBOARD_MAX_PENDING_BYTES",
            }
        ),
        _check_sizes,
    ),
    (
        frozenset({"SWITCHBOARD_RETENTION_SECONDS", "SWITCHBOARD_IDEMPOTENCY_SECONDS"}),
        _check_memory,
    ),
    (frozenset({"SWITCHBOARD_MAX_BROADCAST_BYTES", "SWITCHBOARD_OUTBOX_BYTES"}), _check_outbox),
    (frozenset({"SWITCHBOARD_BACKEND", "RABBITMQ_URL", "REDIS_URL"}), _check_cluster),
)

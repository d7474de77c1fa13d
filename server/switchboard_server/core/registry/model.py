"""What the registry knows of an instance, and how it tells of changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import NamedTuple

from switchboard_server.core.clock import SECOND_NS

DEFAULT_LEASE_NS = 30 * SECOND_NS
"""How long a registration outlives its last sign of life, unless it says otherwise."""


class Status(IntEnum):
    """Whether an instance serves; numbered as in the proto."""

    STARTING = 1
    SERVING = 2
    DRAINING = 3
    NOT_SERVING = 4
    UNHEALTHY = 5


class RemovalCause(IntEnum):
    """Why an instance is not there any more; numbered as in the proto."""

    DEREGISTERED = 1
    LEASE_EXPIRED = 2
    UNHEALTHY = 3
    STATUS = 4


class Key(NamedTuple):
    """Names an instance."""

    service: str
    id: str

    def __str__(self) -> str:
        return f"{self.service}/{self.id}"


class Moment(NamedTuple):
    """A point in time.

    Args:
        seconds: By a monotonic clock: everything that decides goes by it.
        wall_ns: By the wall clock, Unix nanoseconds: for people to read.
    """

    seconds: float
    wall_ns: int


class ProbeKind(Enum):
    """How an instance is checked."""

    HTTP = "http"
    GRPC = "grpc"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class Probe:
    """A check as its registration asks for it.

    Args:
        kind: How.
        where: For HTTP a URL or a path, else "host:port"; empty: as the proto says.
        service: For gRPC, the name of the service to ask for.
        tls: For gRPC, whether to use TLS.
    """

    kind: ProbeKind
    where: str = ""
    service: str = ""
    tls: bool = False


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How the hub finds out whether an instance serves. 0 stands for the default.

    Args:
        probe: What is tried; None: nothing, the lease alone says whether it lives.
        interval_ns: From one check to the next, in nanoseconds.
        timeout_ns: How long a check may take, in nanoseconds.
        healthy_threshold: How many must pass in a row.
        unhealthy_threshold: How many must fail in a row.
    """

    probe: Probe | None = None
    interval_ns: int = 0
    timeout_ns: int = 0
    healthy_threshold: int = 0
    unhealthy_threshold: int = 0


@dataclass(frozen=True, slots=True)
class Registration:
    """An instance as it registers; see `ServiceInstance` in the proto. 0 and "" mean absent."""

    service: str
    id: str = ""
    url: str = ""
    host: str = ""
    port: int = 0
    version: str = ""
    zone: str = ""
    weight: int = 0
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    check: HealthCheck = HealthCheck()
    lease_ns: int = 0

    @property
    def key(self) -> Key:
        """Names the instance."""
        return Key(self.service, self.id)

    @property
    def address(self) -> str:
        """Where it serves, as "host:port"."""
        return join_address(self.host, self.port)


@dataclass(slots=True, eq=False)
class Instance:
    """An instance as it stood at a revision. Never changed once it is made.

    Args:
        spec: What it registered, with defaults filled in.
        status: Whether it serves.
        status_reason: What is behind that, for people.
        status_time_ns: When the status last changed, Unix nanoseconds.
        register_time_ns: When it first registered, Unix nanoseconds.
        registrant: Subject of the token that registered it.
        revision: Revision of the registry at which it came to be like this.
    """

    spec: Registration
    status: Status
    status_reason: str
    status_time_ns: int
    register_time_ns: int
    registrant: str
    revision: int
    encoded: bytes | None = field(default=None, repr=False)
    """What the wire made of it, kept there for the next time."""

    @property
    def key(self) -> Key:
        """Names the instance."""
        return self.spec.key


class Vital(NamedTuple):
    """What changes about an instance without a revision.

    Args:
        load: What it last reported; None: it never did.
        unconfirmed: Its status is from before a restart, or its eviction is withheld.
        lease_expire_ns: When the lease ends, Unix nanoseconds; None: it is held, or there is none.
    """

    load: float | None = None
    unconfirmed: bool = False
    lease_expire_ns: int | None = None


@dataclass(slots=True, eq=False)
class Change:
    """What happened to one instance. Never changed once it is made.

    Args:
        revision: The registry's revision with it.
        instance: As it is now; of one that was removed, as it was last.
        vital: The rest of it, at that moment.
        previous: The status before; None: it was not there.
        cause: Why it was removed; None: it is there.
        at: When, in seconds of the monotonic clock.
        quiet: Nothing has happened to the instance: a cluster only wrote down again what it knew.
    """

    revision: int
    instance: Instance
    vital: Vital
    previous: Status | None
    cause: RemovalCause | None
    at: float
    quiet: bool = False
    encoded: dict[RemovalCause | None, bytes] = field(default_factory=dict, repr=False)
    """What the wire made of it, by the cause that is shown."""

    @property
    def key(self) -> Key:
        """Names the instance."""
        return self.instance.spec.key

    @property
    def serves(self) -> bool:
        """Whether the instance is there and serves."""
        return self.cause is None and self.instance.status is Status.SERVING

    def shown(self, *, all_statuses: bool) -> RemovalCause | None:
        """The cause of removal that a watcher is told, if any.

        Args:
            all_statuses: Whether the watcher knows instances of every status; one that does not
                sees an instance go when it stops serving.
        """
        if all_statuses or self.cause is not None or self.serves:
            return self.cause
        return RemovalCause.STATUS

    def concerns(self, *, all_statuses: bool) -> bool:
        """Whether a watcher needs to hear of it; see `shown`."""
        return all_statuses or self.serves or self.previous is Status.SERVING


def join_address(host: str, port: int) -> str:
    """A host and a port as "host:port", an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

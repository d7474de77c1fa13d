"""Instances as Redis keeps them, and what its channel says of them; see `registry_scripts`."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from switchboard_server.backends.registrations import from_content, to_content
from switchboard_server.core.registry.entries import REGISTERED, UNCHECKED, Declared, Verdict
from switchboard_server.core.registry.model import (
    Instance,
    Key,
    Registration,
    RemovalCause,
    Status,
)
from switchboard_server.core.registry.sharing import Record, SharedChange
from switchboard_server.core.registry.targets import target_of

MS_NS = 1_000_000
"""Nanoseconds of a millisecond."""

Row = Sequence[str]
"""An instance as an array of texts."""


@dataclass(frozen=True, slots=True)
class Dial:
    """How the registry's clock stands.

    Args:
        offset_ms: Redis's Unix time less the registry's.
        ahead: Redis's Unix time less the monotonic clock here, in seconds.
    """

    offset_ms: int = 0
    ahead: float = 0.0

    def wall_ns(self, registry_ms: str) -> int:
        """A moment of the registry's clock as Unix nanoseconds."""
        return (int(registry_ms) + self.offset_ms) * MS_NS

    def age(self, wall_ms: str, now: float) -> float:
        """How long ago it was a moment of Redis's clock, in seconds."""
        return max(0.0, now + self.ahead - int(wall_ms) / 1000)


def write_key(key: Key) -> str:
    """The name of an instance's place."""
    return f"{key.service}/{key.id}"


def read_key(text: str) -> Key:
    """The instance of a place."""
    service, _, instance = text.partition("/")
    return Key(service, instance)


def write_spec(spec: Registration) -> bytes:
    """A registration; equal ones give equal bytes."""
    content = {"service": spec.service, "id": spec.id, **to_content(spec)}
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


def write_check(spec: Registration) -> str:
    """What is checked how, so that another check is known as such; empty: nothing is."""
    target = target_of(spec)
    return "" if target is None else repr((spec.check, target))


def first_verdict(spec: Registration) -> Verdict:
    """What the check says before it has run."""
    if target_of(spec) is None:
        return Verdict(Status.SERVING, REGISTERED)
    return Verdict(Status.STARTING, UNCHECKED)


def write_row(record: Record) -> list[str]:
    """An instance as an array of texts, to be put back; times that run are left to the script."""
    instance, declared = record.instance, record.declared
    return [
        write_spec(instance.spec).decode(),
        instance.spec.address,
        instance.registrant,
        str(int(instance.status)),
        instance.status_reason,
        str(instance.status_time_ns),
        str(instance.register_time_ns),
        str(instance.revision),
        "" if declared is None else str(int(declared.status)),
        "" if declared is None else declared.reason,
        str(int(record.checked.status)),
        record.checked.reason,
        "1" if record.leased else "0",
        str(instance.spec.lease_ns // MS_NS),
        record.holder,
        write_check(instance.spec),
        str(record.birth),
        "",
        "",
        "1" if record.unconfirmed else "",
        "",
        "",
    ]


def read_row(row: Row, dial: Dial) -> Record:
    """An instance from its array."""
    spec = _read_spec(row[0])
    instance = Instance(
        spec, Status(int(row[3])), row[4], int(row[5]), int(row[6]), row[2], int(row[7])
    )
    return Record(
        instance=instance,
        declared=Declared(Status(int(row[8])), row[9]) if row[8] else None,
        checked=Verdict(Status(int(row[10])), row[11]),
        leased=row[12] == "1",
        holder=row[14],
        birth=int(row[16]),
        lease_expire_ns=dial.wall_ns(row[17]),
        unhealthy_until_ns=dial.wall_ns(row[18]) if row[18] else None,
        unconfirmed=row[19] != "",
        stamp=int(row[20]),
    )


def read_change(message: Sequence[str], row: Row, dial: Dial, now: float) -> SharedChange:
    """A change from what the channel says.

    Args:
        message: "changed", stamp, revision, when, previous status, cause, quiet.
        row: What follows: the instance.
        dial: How the registry's clock stands.
        now: Monotonic seconds.
    """
    return SharedChange(
        revision=int(message[2]),
        record=read_row(row, dial),
        previous=Status(int(message[4])) if message[4] else None,
        cause=RemovalCause(int(message[5])) if message[5] else None,
        quiet=message[6] != "",
        age=dial.age(message[3], now),
    )


def _read_spec(text: str) -> Registration:
    content = orjson.loads(text)
    return from_content(content["service"], content["id"], content)

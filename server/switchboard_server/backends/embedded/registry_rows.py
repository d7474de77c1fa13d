"""Registered instances as text, for the registry's file."""

import json
import zlib
from types import MappingProxyType
from typing import Any

from switchboard_server.core.registry.entries import Declared
from switchboard_server.core.registry.model import (
    HealthCheck,
    Instance,
    Probe,
    ProbeKind,
    Registration,
    Status,
)
from switchboard_server.core.registry.ports import StoredInstance

Row = tuple[str, str, int, str]
"""Service, id, CRC-32 of the content, content."""


def to_row(stored: StoredInstance) -> Row:
    """What is kept of an instance."""
    instance, spec = stored.instance, stored.instance.spec
    check = spec.check
    content: dict[str, Any] = {
        "url": spec.url,
        "host": spec.host,
        "port": spec.port,
        "version": spec.version,
        "zone": spec.zone,
        "weight": spec.weight,
        "metadata": dict(spec.metadata),
        "lease": spec.lease_ns,
        "interval": check.interval_ns,
        "timeout": check.timeout_ns,
        "thresholds": [check.healthy_threshold, check.unhealthy_threshold],
        "status": int(instance.status),
        "reason": instance.status_reason,
        "since": instance.status_time_ns,
        "registered": instance.register_time_ns,
        "registrant": instance.registrant,
        "revision": instance.revision,
        "leased": stored.leased,
    }
    if check.probe is not None:
        probe = check.probe
        content["probe"] = [probe.kind.value, probe.where, probe.service, probe.tls]
    if stored.declared is not None:
        content["declared"] = [int(stored.declared.status), stored.declared.reason]
    text = json.dumps(content, separators=(",", ":"))
    return spec.service, spec.id, _checksum(spec.service, spec.id, text), text


def from_row(row: Row) -> StoredInstance | None:
    """The instance of a row; None: it cannot be read back as it was written."""
    service, instance_id, checksum, text = row
    if checksum != _checksum(service, instance_id, text):
        return None
    content = json.loads(text)
    probe = content.get("probe")
    spec = Registration(
        service=service,
        id=instance_id,
        url=content["url"],
        host=content["host"],
        port=content["port"],
        version=content["version"],
        zone=content["zone"],
        weight=content["weight"],
        metadata=MappingProxyType(content["metadata"]),
        check=HealthCheck(
            None if probe is None else Probe(ProbeKind(probe[0]), *probe[1:]),
            content["interval"],
            content["timeout"],
            *content["thresholds"],
        ),
        lease_ns=content["lease"],
    )
    instance = Instance(
        spec,
        Status(content["status"]),
        content["reason"],
        content["since"],
        content["registered"],
        content["registrant"],
        content["revision"],
    )
    declared = content.get("declared")
    return StoredInstance(
        instance,
        None if declared is None else Declared(Status(declared[0]), declared[1]),
        content["leased"],
    )


def _checksum(service: str, instance_id: str, text: str) -> int:
    return zlib.crc32(f"{service}/{instance_id} {text}".encode(errors="replace"))

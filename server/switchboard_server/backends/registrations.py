"""Registrations as JSON can hold them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from switchboard_server.core.registry.model import HealthCheck, Probe, ProbeKind, Registration


def to_content(spec: Registration) -> dict[str, Any]:
    """What a registration says, but whose it is."""
    check, probe = spec.check, spec.check.probe
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
    }
    if probe is not None:
        content["probe"] = [probe.kind.value, probe.where, probe.service, probe.tls]
    return content


def from_content(service: str, instance_id: str, content: Mapping[str, Any]) -> Registration:
    """The registration of an instance.

    Args:
        service: Its service.
        instance_id: Its id.
        content: What `to_content` made, and maybe more.
    """
    probe = content.get("probe")
    return Registration(
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

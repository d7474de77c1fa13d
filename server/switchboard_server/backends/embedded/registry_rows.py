"""Registered instances as text, for the registry's file."""

import json
import zlib

from switchboard_server.backends.registrations import from_content, to_content
from switchboard_server.core.registry.entries import Declared
from switchboard_server.core.registry.model import Instance, Status
from switchboard_server.core.registry.ports import StoredInstance

Row = tuple[str, str, int, str]
"""Service, id, CRC-32 of the content, content."""


def to_row(stored: StoredInstance) -> Row:
    """What is kept of an instance."""
    instance, spec = stored.instance, stored.instance.spec
    content = {
        **to_content(spec),
        "status": int(instance.status),
        "reason": instance.status_reason,
        "since": instance.status_time_ns,
        "registered": instance.register_time_ns,
        "registrant": instance.registrant,
        "revision": instance.revision,
        "leased": stored.leased,
    }
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
    instance = Instance(
        from_content(service, instance_id, content),
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

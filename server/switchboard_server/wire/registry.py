"""Registrations and instances: `switchboard.v1` messages to and from the core's terms.

What an instance is at a revision is encoded once and kept with it; what changes all the time is
appended (see `wire.codec` on joining), so that an answer costs a few joins and no serializing.
"""

import struct
from types import MappingProxyType

from switchboard.v1 import registry_service_pb2, service_instance_pb2, watch_pb2
from switchboard_server.core.errors import invalid_field
from switchboard_server.core.registry.discovery import Discovered, Selection
from switchboard_server.core.registry.entries import Entry
from switchboard_server.core.registry.model import (
    Change,
    HealthCheck,
    Instance,
    Probe,
    ProbeKind,
    Registration,
    RemovalCause,
    Vital,
)
from switchboard_server.core.registry.overview import ServicesPage
from switchboard_server.core.registry.picking import Policy
from switchboard_server.core.registry.watching import (
    Compacted,
    Delta,
    Heartbeat,
    Item,
    Resumed,
    SnapshotBegin,
    SnapshotPart,
)
from switchboard_server.wire.codec import tagged, timestamp, varint
from switchboard_server.wire.decode import decode_duration

MAX_RESPONSE_BYTES = 1024 * 1024
"""A response of Watch takes no further change once it holds this many bytes."""
MAX_DISCOVER_BYTES = 3 * 1024 * 1024
"""An answer of Discover takes no further instance once it holds this many bytes."""

_INSTANCE_1 = b"\x0a"
_UNCONFIRMED = b"\x78\x01"
_LOAD = b"\x81\x01"
_LEASE_EXPIRE = b"\x92\x01"
_PUT = b"\x08\x01"
_REMOVE = b"\x08\x02"
_CHANGES = b"\x0a"
_INSTANCE_2 = b"\x12"
_DOUBLE = struct.Struct("<d")


def decode_instance(given: service_instance_pb2.ServiceInstance) -> Registration:
    """A registration as the core has it.

    Args:
        given: As it came; what the hub sets is ignored.

    Raises:
        InvalidArgumentError: A duration is not allowed; the field is named as within the instance.
    """
    return Registration(
        service=given.service_name,
        id=given.instance_id,
        url=given.service_url,
        host=given.host,
        port=given.port,
        version=given.version,
        zone=given.zone,
        weight=given.weight,
        metadata=MappingProxyType(dict(given.metadata)),
        check=_decode_check(given.health_check),
        lease_ns=_decode_positive(given, "lease_ttl", "lease_ttl"),
    )


def decode_selection(request: registry_service_pb2.DiscoverRequest) -> Selection:
    """What a caller of Discover wants.

    Raises:
        InvalidArgumentError: The policy is unknown.
    """
    try:
        policy = Policy(request.policy or Policy.ROUND_ROBIN)
    except ValueError:
        raise invalid_field("policy", f"{request.policy} is unknown; see DiscoverPolicy") from None
    return Selection(
        request.service_name,
        policy,
        request.hash_key,
        request.prefer_zone,
        request.max_instances,
        dict(request.metadata) if request.metadata else _NO_METADATA,
        request.version_range,
    )


_NO_METADATA: MappingProxyType[str, str] = MappingProxyType({})


def instance_message(instance: Instance) -> service_instance_pb2.ServiceInstance:
    """An instance as it stood at its revision."""
    spec = instance.spec
    message = service_instance_pb2.ServiceInstance(
        service_name=spec.service,
        instance_id=spec.id,
        service_url=spec.url,
        host=spec.host,
        port=spec.port,
        version=spec.version,
        zone=spec.zone,
        weight=spec.weight,
        metadata=spec.metadata,
        status=int(instance.status),  # type: ignore[arg-type]
        status_reason=instance.status_reason,
        registrant=instance.registrant,
        revision=instance.revision,
    )
    _encode_check(spec.check, message.health_check)
    message.lease_ttl.FromNanoseconds(spec.lease_ns)
    message.status_time.FromNanoseconds(instance.status_time_ns)
    message.register_time.FromNanoseconds(instance.register_time_ns)
    return message


def instance_bytes(instance: Instance, vital: Vital) -> bytes:
    """A `ServiceInstance`, its constant part encoded only the first time."""
    if instance.encoded is None:
        instance.encoded = instance_message(instance).SerializeToString()
    encoded = instance.encoded
    if vital.unconfirmed:
        encoded += _UNCONFIRMED
    if vital.load is not None:
        encoded += _LOAD + _DOUBLE.pack(vital.load)
    if vital.lease_expire_ns is not None:
        encoded += tagged(_LEASE_EXPIRE, timestamp(max(0, vital.lease_expire_ns)))
    return encoded


def entry_field(entry: Entry) -> bytes:
    """An instance as it is now, as field 1 of a message, which is how most responses hold it."""
    instance, vital, known = entry.instance, entry.vital, entry.encoded
    if known is not None and known[0] is instance and known[1] == vital:
        return known[2]
    encoded = tagged(_INSTANCE_1, instance_bytes(instance, vital))
    entry.encoded = instance, vital, encoded
    return encoded


def registered(entry: Entry, *, created: bool) -> bytes:
    """A `RegisterResponse`, or with nothing created a `SetStatusResponse`."""
    return entry_field(entry) + (b"\x10\x01" if created else b"")


def discovered(found: Discovered) -> bytes:
    """A `DiscoverResponse`."""
    pieces: list[bytes] = []
    size = 0
    for entry in found.entries:
        piece = entry_field(entry)
        size += len(piece)
        if pieces and size > MAX_DISCOVER_BYTES:
            break
        pieces.append(piece)
    pieces += (b"\x10", varint(found.candidates), b"\x18", varint(found.revision))
    return b"".join(pieces)


def services_page(
    page: ServicesPage, preservation: tuple[int, int, int]
) -> registry_service_pb2.ListServicesResponse:
    """A `ListServicesResponse`.

    Args:
        page: The page.
        preservation: See `Registry.preservation`.
    """
    response = registry_service_pb2.ListServicesResponse(
        next_page_token=page.next_page_token, revision=page.revision
    )
    for summary in page.services:
        service = response.services.add(
            service_name=summary.name, versions=summary.versions, zones=summary.zones
        )
        for status, count in summary.counts.items():
            service.status_counts.add(status=int(status), count=count)
        for entry in summary.entries:
            instance = instance_bytes(entry.instance, entry.vital)
            service.instances.add().MergeFromString(instance)
    since, withheld, total = preservation
    told = response.self_preservation
    told.active, told.withheld, told.registered = bool(since), withheld, total
    if since:
        told.since.FromNanoseconds(since)
    return response


def watch_responses(item: Item) -> list[bytes]:
    """The responses that tell a watcher something.

    Args:
        item: What is to be told, by a watcher.

    Returns:
        One `WatchResponse`, or several where one would be too large.
    """
    if isinstance(item, SnapshotPart):
        parts = [_put(instance_bytes(each.instance, each.vital)) for each in item.entries]
        return [b"".join(chunk) for chunk in _chunks(parts)]
    response = watch_pb2.WatchResponse()
    if isinstance(item, SnapshotBegin):
        response.snapshot_begin.SetInParent()
    elif isinstance(item, Resumed):
        response.resumed.revision = item.revision
    elif isinstance(item, Compacted):
        response.compacted.SetInParent()
        response.compacted.oldest_revision = item.oldest
    elif isinstance(item, Heartbeat):
        response.heartbeat.revision = item.revision
    elif not isinstance(item, Delta):
        response.snapshot_end.SetInParent()
        response.snapshot_end.revision = item.revision
    return [response.SerializeToString()]


def delta_responses(item: Delta, *, all_statuses: bool) -> list[bytes]:
    """The responses that tell a watcher of changes; see `watch_responses`.

    Args:
        item: The changes.
        all_statuses: Whether the watcher knows instances of every status.
    """
    frames = [change_bytes(each, all_statuses=all_statuses) for each in item.changes]
    responses = []
    done = 0
    for chunk in _chunks(frames):
        done += len(chunk)
        # What stands in later responses is not known yet.
        last = done == len(frames)
        revision = item.revision if last else item.changes[done - 1].revision
        responses.append(b"".join([*chunk, b"\x10", varint(revision)]))
    return responses


def change_bytes(change: Change, *, all_statuses: bool) -> bytes:
    """An `InstanceChange` as `changes` of a response, encoded once for all who are told."""
    cause = change.shown(all_statuses=all_statuses)
    encoded = change.encoded.get(cause)
    if encoded is None:
        instance = instance_bytes(change.instance, change.vital)
        encoded = change.encoded[cause] = (
            _put(instance) if cause is None else _removed(instance, cause)
        )
    return encoded


def _put(instance: bytes) -> bytes:
    return tagged(_CHANGES, _PUT + tagged(_INSTANCE_2, instance))


def _removed(instance: bytes, cause: RemovalCause) -> bytes:
    return tagged(_CHANGES, _REMOVE + tagged(_INSTANCE_2, instance) + b"\x18" + varint(cause))


def _chunks(frames: list[bytes]) -> list[list[bytes]]:
    chunks: list[list[bytes]] = []
    size = MAX_RESPONSE_BYTES
    for frame in frames:
        if size >= MAX_RESPONSE_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(frame)
        size += len(frame)
    return chunks


def _decode_positive(
    message: service_instance_pb2.ServiceInstance | service_instance_pb2.HealthCheck,
    name: str,
    path: str,
) -> int:
    """Nanoseconds of a duration that must not be zero; 0: it is absent."""
    if not message.HasField(name):  # type: ignore[arg-type]
        return 0
    value = decode_duration(getattr(message, name), path)
    if not value:
        raise invalid_field(path, "is zero; make it positive, or leave it out for the default")
    return value


def _decode_check(given: service_instance_pb2.HealthCheck) -> HealthCheck:
    chosen = given.WhichOneof("probe")
    probe: Probe | None = None
    if chosen == "http":
        probe = Probe(ProbeKind.HTTP, given.http.url)
    elif chosen == "grpc":
        probe = Probe(ProbeKind.GRPC, given.grpc.address, given.grpc.service, given.grpc.tls)
    elif chosen == "tcp":
        probe = Probe(ProbeKind.TCP, given.tcp.address)
    return HealthCheck(
        probe,
        _decode_positive(given, "interval", "health_check.interval"),
        _decode_positive(given, "timeout", "health_check.timeout"),
        given.healthy_threshold,
        given.unhealthy_threshold,
    )


def _encode_check(check: HealthCheck, message: service_instance_pb2.HealthCheck) -> None:
    probe = check.probe
    if probe is None:
        message.heartbeat.SetInParent()
        # Nothing is checked, so there is no interval to tell.
        return
    if probe.kind is ProbeKind.HTTP:
        message.http.url = probe.where
        message.http.SetInParent()
    elif probe.kind is ProbeKind.GRPC:
        message.grpc.address, message.grpc.service = probe.where, probe.service
        message.grpc.tls = probe.tls
        message.grpc.SetInParent()
    else:
        message.tcp.address = probe.where
        message.tcp.SetInParent()
    message.interval.FromNanoseconds(check.interval_ns)
    message.timeout.FromNanoseconds(check.timeout_ns)
    message.healthy_threshold = check.healthy_threshold
    message.unhealthy_threshold = check.unhealthy_threshold

"""Changes of the registry as events."""

from collections.abc import Mapping, Sequence

from google.protobuf import struct_pb2

from switchboard.v1 import event_pb2
from switchboard_server.core.filters import Route
from switchboard_server.core.records import Drafts, Extra
from switchboard_server.core.registry.model import Change
from switchboard_server.core.validation import HUB_SOURCE, NORMAL_PRIORITY

TYPE = "system_event"
"""`type` of the hub's own events."""

_ROUTE = Route(TYPE, HUB_SOURCE, "", NORMAL_PRIORITY)


def registry_events(changes: Sequence[Change]) -> Drafts:
    """An event for each change, in order.

    An event's id tells its revision, so that what is published once more after a failure is known.

    Args:
        changes: At least one.
    """
    ids, bodies, extras = [], [], {}
    for index, change in enumerate(changes):
        attributes = _attributes(change)
        event = event_pb2.Event(
            id=f"registry-{change.revision}",
            type=TYPE,
            source_service=HUB_SOURCE,
            attributes=attributes,
            content_type="application/json",
            data=_data(change, attributes),
        )
        ids.append(event.id)
        bodies.append(event.SerializeToString())
        extras[index] = Extra(attributes)
    return Drafts(bodies, _ROUTE, ids=ids, extras=extras)


def _attributes(change: Change) -> dict[str, str]:
    """What a subscriber can filter by."""
    key = change.key
    change_name = "registered" if change.previous is None else "changed"
    attributes = {
        "event": f"registry.instance.{change_name if change.cause is None else 'removed'}",
        "service_name": key.service,
        "instance_id": key.id,
        "status": change.instance.status.name.lower(),
    }
    if change.cause is not None:
        attributes["removal_cause"] = change.cause.name.lower()
    return attributes


def _data(change: Change, attributes: Mapping[str, str]) -> struct_pb2.Struct:
    instance, spec = change.instance, change.instance.spec
    data = struct_pb2.Struct()
    data.update(attributes)
    data.update(
        {
            "status_reason": instance.status_reason,
            "address": spec.address,
            "service_url": spec.url,
            "version": spec.version,
            "zone": spec.zone,
            "revision": change.revision,
        }
    )
    if change.previous is not None:
        data["previous_status"] = change.previous.name.lower()
    return data

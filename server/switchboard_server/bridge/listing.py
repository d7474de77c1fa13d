"""The frame `list`: rpcs that show what there is."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from switchboard.v1 import (
    event_service_pb2,
    group_service_pb2,
    realtime_service_pb2,
    registry_service_pb2,
)
from switchboard_server.bridge.client import Client
from switchboard_server.bridge.frames import Frame
from switchboard_server.core.errors import invalid_field
from switchboard_server.core.registry.overview import ServicesQuery
from switchboard_server.wire import (
    encode,
    group_messages,
    realtime_decode,
    realtime_encode,
    registry,
)
from switchboard_server.wire.event_requests import decode_list_events
from switchboard_server.wire.json_form import from_json, to_full_json, to_json
from switchboard_server.wire.permissions import permission_of

_AT_ONCE = 64
"""Entries that are turned into JSON before others get a turn of the loop."""


async def show(client: Client, frame: Frame) -> dict[str, Any]:
    """`list`: what `what` names, asked for by the other fields."""
    data = dict(frame.data)
    what = data.pop("what", None)
    lister = _LISTERS.get(what) if isinstance(what, str) else None
    if lister is None:
        raise invalid_field("what", f"must be one of {', '.join(_LISTERS)}")
    permission, read = lister
    client.principal.require(permission)
    return await _gradually(await read(client, data))


async def _gradually(response: Message) -> dict[str, Any]:
    """A page as JSON, made with turns of the loop in between."""
    lists = [(field, value) for field, value in response.ListFields() if field.is_repeated]
    entries = {field.name: list(value) for field, value in lists}
    for field, _ in lists:
        response.ClearField(field.name)
    shown = to_full_json(response)
    for name, values in entries.items():
        for number, each in enumerate(values):
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            shown[name].append(to_json(each))
    return shown


async def _rooms(client: Client, data: dict[str, Any]) -> Message:
    request = from_json(data, realtime_service_pb2.ListRoomsRequest)
    query = realtime_decode.decode_list_rooms(request)
    return realtime_encode.list_rooms_response(
        await client.hub.realtime.list_rooms(query, client.principal)
    )


async def _room(client: Client, data: dict[str, Any]) -> Message:
    request = from_json(data, realtime_service_pb2.GetRoomRequest)
    query = realtime_decode.decode_get_room(request)
    return realtime_encode.get_room_response(
        await client.hub.realtime.get_room(query, client.principal)
    )


async def _connections(client: Client, data: dict[str, Any]) -> Message:
    request = from_json(data, realtime_service_pb2.ListConnectionsRequest)
    query = realtime_decode.decode_list_connections(request)
    return realtime_encode.list_connections_response(
        await client.hub.realtime.list_connections(query, client.principal)
    )


async def _events(client: Client, data: dict[str, Any]) -> Message:
    query = decode_list_events(from_json(data, event_service_pb2.ListEventsRequest))
    found = await client.hub.events.list_events(query, client.principal)
    return event_service_pb2.ListEventsResponse.FromString(encode.page(found))


async def _groups(client: Client, data: dict[str, Any]) -> Message:
    request = from_json(data, group_service_pb2.ListGroupsRequest)
    reports, token = await client.hub.groups.page(
        request.name_prefix,
        request.page_size,
        request.page_token,
        client.principal,
    )
    return group_service_pb2.ListGroupsResponse(
        groups=map(group_messages.group, reports), next_page_token=token
    )


async def _services(client: Client, data: dict[str, Any]) -> Message:
    request = from_json(data, registry_service_pb2.ListServicesRequest)
    directory = client.hub.registry
    page = directory.list_services(
        ServicesQuery(
            request.name_prefix,
            request.include_instances,
            request.page_size,
            request.page_token,
        ),
        lambda entry: len(registry.entry_field(entry)),
        client.principal,
    )
    return registry.services_page(page, directory.preservation())


_EVENTS = event_service_pb2.DESCRIPTOR.services_by_name["EventService"].methods_by_name
_GROUPS = group_service_pb2.DESCRIPTOR.services_by_name["GroupService"].methods_by_name
_REALTIME = realtime_service_pb2.DESCRIPTOR.services_by_name["RealtimeService"].methods_by_name
_REGISTRY = registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"].methods_by_name
_LISTERS: Mapping[str, tuple[str, Callable[[Client, dict[str, Any]], Awaitable[Message]]]] = {
    "rooms": (permission_of(_REALTIME["ListRooms"]), _rooms),
    "room": (permission_of(_REALTIME["GetRoom"]), _room),
    "connections": (permission_of(_REALTIME["ListConnections"]), _connections),
    "events": (permission_of(_EVENTS["ListEvents"]), _events),
    "groups": (permission_of(_GROUPS["ListGroups"]), _groups),
    "services": (permission_of(_REGISTRY["ListServices"]), _services),
}

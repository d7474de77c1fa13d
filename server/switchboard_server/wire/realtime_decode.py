"""Requests of RealtimeService as the core wants them."""

from typing import Any

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from switchboard.v1 import connect_pb2, realtime_pb2, realtime_service_pb2
from switchboard_server.core.errors import invalid_field
from switchboard_server.core.realtime.messages import Position
from switchboard_server.core.realtime.wishes import (
    BroadcastWish,
    ConnectionsQuery,
    ConnectWish,
    DisconnectWish,
    PresenceQuery,
    RoomJoin,
    RoomQuery,
    RoomsQuery,
    Transport,
)

_TRANSPORTS = {
    realtime_pb2.TRANSPORT_UNSPECIFIED: None,
    realtime_pb2.TRANSPORT_WEBSOCKET: Transport.WEBSOCKET,
    realtime_pb2.TRANSPORT_GRPC: Transport.GRPC,
}
_EXACT = 2.0**53
"""Whole numbers up to this are whole to JSON's readers too."""


def decode_struct(struct: Struct) -> dict[str, Any]:
    """A Struct as a JSON object; whole numbers become integers."""
    return {name: _value(value) for name, value in struct.fields.items()}


def _value(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        number = value.number_value
        return int(number) if -_EXACT <= number <= _EXACT and number.is_integer() else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return decode_struct(value.struct_value)
    return _values(value.list_value) if kind == "list_value" else None


def _values(values: ListValue) -> list[Any]:
    return [_value(each) for each in values.values]


def decode_position(position: realtime_pb2.RoomPosition) -> Position:
    """A place in a room's history."""
    return Position(position.room, position.epoch, position.offset)


def decode_join(join: connect_pb2.RoomJoin) -> RoomJoin:
    """A wish to stand in a room."""
    after = decode_position(join.recover_after) if join.HasField("recover_after") else None
    return RoomJoin(join.room, after, join.presence_notices)


def decode_connect(
    request: connect_pb2.ConnectRequest, transport: Transport, peer: str
) -> ConnectWish:
    """A wish to be connected.

    Args:
        request: The request.
        transport: How the client is connected.
        peer: Its network address.
    """
    rooms = tuple(map(decode_join, request.rooms))
    return ConnectWish(transport, peer, request.client_id, request.user, rooms)


def decode_broadcast(request: realtime_service_pb2.BroadcastRequest) -> BroadcastWish:
    """A message and whom it is for."""
    return BroadcastWish(
        request.message_type,
        decode_struct(request.data),
        to_all=request.all,
        rooms=tuple(request.rooms),
        users=tuple(request.users),
        clients=tuple(request.clients),
        exclude_clients=tuple(request.exclude_clients),
        sender_client_id=request.sender_client_id,
    )


def decode_disconnect(request: realtime_service_pb2.DisconnectRequest) -> DisconnectWish:
    """Which connections to close."""
    return DisconnectWish(
        tuple(request.clients), tuple(request.users), request.reconnect, request.reason
    )


def decode_list_rooms(request: realtime_service_pb2.ListRoomsRequest) -> RoomsQuery:
    """Which rooms to list."""
    return RoomsQuery(request.name_prefix, request.page_size, request.page_token)


def decode_get_room(request: realtime_service_pb2.GetRoomRequest) -> RoomQuery:
    """What to show of a room."""
    return RoomQuery(
        request.room,
        request.member_page_size,
        request.member_page_token,
        request.history_limit,
        decode_position(request.history_after) if request.HasField("history_after") else None,
    )


def decode_presence(request: realtime_service_pb2.GetPresenceRequest) -> PresenceQuery:
    """Which users to tell about."""
    return PresenceQuery(tuple(request.users), request.room, request.page_size, request.page_token)


def decode_list_connections(
    request: realtime_service_pb2.ListConnectionsRequest,
) -> ConnectionsQuery:
    """Which connections to list.

    Raises:
        InvalidArgumentError: The transport is unknown.
    """
    if request.transport not in _TRANSPORTS:
        raise invalid_field("transport", f"{request.transport} is unknown; see Transport")
    return ConnectionsQuery(
        request.client_id_prefix,
        request.user,
        request.room,
        _TRANSPORTS[request.transport],
        request.page_size,
        request.page_token,
    )

"""Frames that stand for rpcs of RealtimeService, and those about the connection itself."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

from switchboard.v1 import connect_pb2, realtime_service_pb2
from switchboard_server.bridge import messages
from switchboard_server.bridge.client import Client
from switchboard_server.bridge.frames import Frame
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import (
    InvalidArgumentError,
    PermissionDeniedError,
    invalid_field,
)
from switchboard_server.core.realtime.wishes import BroadcastWish, RoomJoin
from switchboard_server.wire.decode import without_prefix
from switchboard_server.wire.json_form import from_json, to_full_json
from switchboard_server.wire.realtime_decode import decode_broadcast, decode_join, decode_presence
from switchboard_server.wire.realtime_encode import presence_response

_UNSENDABLE = frozenset({"ack", "event", "error", "system"})


async def join(client: Client, frame: Frame) -> dict[str, Any]:
    """`join`: as JoinRoom, for this connection."""
    wish = decode_join(from_json(frame.data, connect_pb2.RoomJoin))
    try:
        result = await client.hub.realtime.join_room(
            client.member.client_id, wish, client.principal
        )
    except InvalidArgumentError as error:
        raise without_prefix(error, "join") from None
    return {**messages.joined(result.joined), "already_joined": result.already_joined}


async def leave(client: Client, frame: Frame) -> dict[str, Any]:
    """`leave`: as LeaveRoom, for this connection."""
    request = from_json(frame.data, realtime_service_pb2.LeaveRoomRequest)
    left = await client.hub.realtime.leave_room(
        client.member.client_id, request.room, client.principal
    )
    return {"left": left}


async def presence(client: Client, frame: Frame) -> dict[str, Any]:
    """`presence`: as GetPresence."""
    query = decode_presence(from_json(frame.data, realtime_service_pb2.GetPresenceRequest))
    page = await client.hub.realtime.get_presence(query, client.principal)
    return to_full_json(presence_response(page))


async def send(client: Client, frame: Frame) -> dict[str, Any]:
    """Any other type: as Broadcast, in the name of this connection."""
    if frame.type in _UNSENDABLE:
        raise invalid_field("type", f"{frame.type!r} is a word of the hub's; send another")
    wish = await _named(client, frame) if frame.to is not None else await _to_room(client, frame)
    done = await client.hub.realtime.broadcast(wish, client.principal)
    return {
        "message_id": done.message_id,
        "connections": done.connections,
        "positions": list(map(messages.position, done.positions)),
    }


async def _named(client: Client, frame: Frame) -> BroadcastWish:
    """A message to whom the frame names."""
    to = from_json(frame.to or {}, realtime_service_pb2.BroadcastRequest)
    if to.message_type or to.HasField("data") or to.sender_client_id:
        raise invalid_field("to", "has all, rooms, users, clients and exclude_clients only")
    return replace(
        decode_broadcast(to),
        message_type=frame.type,
        data=frame.data,
        sender_client_id=client.member.client_id,
    )


async def _to_room(client: Client, frame: Frame) -> BroadcastWish:
    """A message to the room that its content names, where the sender stands from then on."""
    room = frame.data.get("room")
    if not isinstance(room, str) or not room:
        raise invalid_field(
            "data.room",
            "is required: the room to send to; or name receivers by 'to' beside 'data'",
            reason="FIELD_MISSING",
        )
    member, realtime = client.member, client.hub.realtime
    wish = BroadcastWish(frame.type, frame.data, rooms=[room], sender_client_id=member.client_id)
    if room not in member.rooms:
        # Who may not send this is not to stand there because of having tried.
        realtime.check(wish, client.principal)
        # Some may send to a room and not listen in it.
        with suppress(PermissionDeniedError):
            await realtime.join_room(member.client_id, RoomJoin(room), client.principal)
    return wish


async def heartbeat(client: Client, frame: Frame) -> None:
    """`heartbeat`: answered by another one."""
    client.write(messages.heartbeat(frame.id))


async def refresh(client: Client, frame: Frame) -> dict[str, Any]:
    """`refresh`: a new token for the rest of the connection."""
    token = frame.data.get("token")
    if not isinstance(token, str) or not token:
        raise invalid_field("token", "is required: the new token", reason="FIELD_MISSING")
    principal = client.renew(token)
    if principal.expires_at is None:
        return {}
    return {"expire_time": messages.time_text(int(principal.expires_at * SECOND_NS))}

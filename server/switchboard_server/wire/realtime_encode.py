"""What the core says about connections and rooms, as messages of the API.

Functions whose names end in `_response` make what an rpc answers; a door sends it as bytes, or as
protobuf's JSON.
"""

from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from switchboard.v1 import connect_pb2, realtime_pb2, realtime_service_pb2
from switchboard_server.core.realtime.items import (
    Dropped,
    Item,
    Joined,
    Left,
    Member,
    PresenceNotice,
    Started,
)
from switchboard_server.core.realtime.messages import Delivered, Position
from switchboard_server.core.realtime.views import (
    Broadcast,
    ConnectionsPage,
    ConnectionView,
    JoinResult,
    PresencePage,
    RoomDetails,
    RoomsPage,
    RoomView,
    UserView,
)
from switchboard_server.core.realtime.wishes import Transport
from switchboard_server.wire.codec import tagged

_MESSAGES = b"\x0a"
_TRANSPORTS = {
    Transport.WEBSOCKET: realtime_pb2.TRANSPORT_WEBSOCKET,
    Transport.GRPC: realtime_pb2.TRANSPORT_GRPC,
}


def encode_time(time_ns: int) -> Timestamp:
    """Unix nanoseconds as a timestamp."""
    time = Timestamp()
    time.FromNanoseconds(time_ns)
    return time


def encode_position(position: Position) -> realtime_pb2.RoomPosition:
    """A place in a room's history."""
    return realtime_pb2.RoomPosition(
        room=position.room, epoch=position.epoch, offset=position.offset
    )


def encode_message(delivered: Delivered) -> realtime_pb2.RealtimeMessage:
    """A message as its receiver sees it."""
    message = delivered.message
    encoded = realtime_pb2.RealtimeMessage(
        message_id=message.message_id,
        message_type=message.message_type,
        rooms=map(encode_position, delivered.rooms),
        sender_client_id=message.sender_client_id,
        sender_user=message.sender_user,
        send_time=encode_time(message.time_ns),
    )
    encoded.data.SetInParent()
    encoded.data.update(message.data)
    return encoded


def encode_joined(joined: Joined) -> connect_pb2.RoomJoined:
    """A connection stands in a room."""
    return connect_pb2.RoomJoined(
        room=joined.position.room,
        position=encode_position(joined.position),
        recovered=joined.recovered,
        replayed=joined.replayed,
        connections=joined.connections,
        users=joined.users,
    )


def encode_member(member: Member) -> realtime_pb2.RoomMember:
    """A connection that stands in a room."""
    return realtime_pb2.RoomMember(
        client_id=member.client_id, user=member.user, join_time=encode_time(member.join_time_ns)
    )


def encode_notice(notice: PresenceNotice) -> connect_pb2.PresenceNotice:
    """Others joined or left a room."""
    return connect_pb2.PresenceNotice(
        room=notice.room,
        joined=map(encode_member, notice.joined),
        left=map(encode_member, notice.left),
        connections=notice.connections,
        users=notice.users,
    )


def connect_responses(items: Sequence[Item]) -> list[bytes]:
    """What a connection is told, as `ConnectResponse`s: messages that follow each other are one."""
    responses: list[bytes] = []
    messages: list[bytes] = []
    for item in items:
        if isinstance(item, Delivered):
            messages.append(item.rendered("connect", _message_field))
            continue
        if messages:
            responses.append(b"".join(messages))
            messages = []
        if isinstance(item, PresenceNotice):
            responses.append(item.rendered("connect", _notice_response))
        else:
            responses.append(_word(item))
    if messages:
        responses.append(b"".join(messages))
    return responses


def heartbeat_response(time_ns: int) -> bytes:
    """The `ConnectResponse` that says that the stream lives."""
    beat = connect_pb2.ConnectionHeartbeat(send_time=encode_time(time_ns))
    return connect_pb2.ConnectResponse(heartbeat=beat).SerializeToString()


def _message_field(delivered: Delivered) -> bytes:
    return tagged(_MESSAGES, encode_message(delivered).SerializeToString())


def _notice_response(notice: PresenceNotice) -> bytes:
    return connect_pb2.ConnectResponse(presence=encode_notice(notice)).SerializeToString()


def _word(item: Started | Joined | Left | Dropped) -> bytes:
    response = connect_pb2.ConnectResponse()
    if isinstance(item, Started):
        started = response.started
        started.SetInParent()
        started.client_id, started.user, started.node = item.client_id, item.user, item.node
    elif isinstance(item, Joined):
        response.joined.CopyFrom(encode_joined(item))
    elif isinstance(item, Left):
        response.left.room, response.left.removed = item.room, item.removed
    else:
        response.dropped.count = item.count
    return response.SerializeToString()


def broadcast_response(outcome: Broadcast) -> realtime_service_pb2.BroadcastResponse:
    """What became of a message."""
    return realtime_service_pb2.BroadcastResponse(
        message_id=outcome.message_id,
        connections=outcome.connections,
        positions=map(encode_position, outcome.positions),
    )


def join_room_response(result: JoinResult) -> realtime_service_pb2.JoinRoomResponse:
    """How a connection stands in a room now."""
    return realtime_service_pb2.JoinRoomResponse(
        joined=encode_joined(result.joined), already_joined=result.already_joined
    )


def encode_room(room: RoomView) -> realtime_pb2.Room:
    """A room."""
    encoded = realtime_pb2.Room(
        name=room.name,
        connections=room.connections,
        users=room.users,
        history_size=room.history_size,
        position=encode_position(room.position),
        history_length=room.history_length,
        create_time=encode_time(room.create_time_ns),
    )
    if room.history_size:
        encoded.history_ttl.FromNanoseconds(room.history_ttl_ns)
    return encoded


def list_rooms_response(page: RoomsPage) -> realtime_service_pb2.ListRoomsResponse:
    """Some rooms."""
    return realtime_service_pb2.ListRoomsResponse(
        rooms=map(encode_room, page.rooms), next_page_token=page.next_page_token
    )


def get_room_response(details: RoomDetails) -> realtime_service_pb2.GetRoomResponse:
    """A room with what was asked of it."""
    return realtime_service_pb2.GetRoomResponse(
        room=encode_room(details.room),
        members=map(encode_member, details.members),
        next_member_page_token=details.next_member_page_token,
        history=map(encode_message, details.history),
        history_contiguous=details.history_contiguous,
    )


def presence_response(page: PresencePage) -> realtime_service_pb2.GetPresenceResponse:
    """Some users."""
    return realtime_service_pb2.GetPresenceResponse(
        presences=map(_user, page.presences), next_page_token=page.next_page_token
    )


def _user(user: UserView) -> realtime_pb2.UserPresence:
    online = user.connections > 0
    return realtime_pb2.UserPresence(
        user=user.user,
        online=online,
        connections=user.connections,
        online_since=encode_time(user.online_since_ns) if online else None,
    )


def list_connections_response(
    page: ConnectionsPage,
) -> realtime_service_pb2.ListConnectionsResponse:
    """Some connections."""
    return realtime_service_pb2.ListConnectionsResponse(
        connections=map(_connection, page.connections),
        total=page.total,
        next_page_token=page.next_page_token,
    )


def _connection(connection: ConnectionView) -> realtime_pb2.Connection:
    return realtime_pb2.Connection(
        client_id=connection.client_id,
        user=connection.user,
        transport=_TRANSPORTS[connection.transport],
        peer=connection.peer,
        node=connection.node,
        connect_time=encode_time(connection.connect_time_ns),
        rooms=connection.rooms,
        pending_messages=connection.pending_messages,
        dropped_messages=connection.dropped_messages,
    )

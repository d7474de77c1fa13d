"""`switchboard.v1.RealtimeService`: decodes, asks the hub, encodes."""

import asyncio
import time
from typing import NoReturn

from switchboard.v1 import connect_pb2, realtime_service_pb2
from switchboard_server.core.clock import wall_clock
from switchboard_server.core.errors import SwitchboardError, invalid_field
from switchboard_server.core.heartbeats import check_heartbeat
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.hub import CLIENT_GONE, RealtimeHub
from switchboard_server.core.realtime.wishes import Transport
from switchboard_server.rpc.endpoints import Context, address_of, caller
from switchboard_server.rpc.errors import ABORT_SECONDS
from switchboard_server.wire import realtime_decode as decode
from switchboard_server.wire import realtime_encode as encode
from switchboard_server.wire.decode import decode_heartbeat, parse

MAX_RESPONSE_BYTES = 256 * 1024
"""A response of Connect takes no further message once it holds this many bytes."""
TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105 - a reason
"""The reason that is counted for a connection whose token has expired."""


class RealtimeServicer:
    """Serves RealtimeService.

    Args:
        hub: Does the work.
    """

    def __init__(self, hub: RealtimeHub) -> None:
        self._hub = hub

    async def Broadcast(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(realtime_service_pb2.BroadcastRequest, raw)
        outcome = await self._hub.broadcast(decode.decode_broadcast(request), caller.get())
        return encode.broadcast_response(outcome).SerializeToString()

    async def Connect(self, raw: bytes, context: Context) -> None:
        """See the proto."""
        request = parse(connect_pb2.ConnectRequest, raw)
        heartbeat = decode_heartbeat(request)
        check_heartbeat(heartbeat)
        wish = decode.decode_connect(request, Transport.GRPC, address_of(context.peer()))
        stream = _Stream(context, heartbeat)
        connection = await self._hub.connect(wish, caller.get(), stream.wake)
        try:
            await stream.run(connection)
        finally:
            expires_at = connection.principal.expires_at
            expired = expires_at is not None and expires_at <= time.time()
            self._hub.close(connection, TOKEN_EXPIRED if expired else CLIENT_GONE)

    async def JoinRoom(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(realtime_service_pb2.JoinRoomRequest, raw)
        if not request.HasField("join"):
            raise invalid_field("join", "is required", reason="FIELD_MISSING")
        result = await self._hub.join_room(
            request.client_id, decode.decode_join(request.join), caller.get()
        )
        return encode.join_room_response(result).SerializeToString()

    async def LeaveRoom(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(realtime_service_pb2.LeaveRoomRequest, raw)
        left = await self._hub.leave_room(request.client_id, request.room, caller.get())
        return realtime_service_pb2.LeaveRoomResponse(left=left).SerializeToString()

    async def ListRooms(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(realtime_service_pb2.ListRoomsRequest, raw)
        page = await self._hub.list_rooms(decode.decode_list_rooms(request), caller.get())
        return encode.list_rooms_response(page).SerializeToString()

    async def GetRoom(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(realtime_service_pb2.GetRoomRequest, raw)
        details = await self._hub.get_room(decode.decode_get_room(request), caller.get())
        return encode.get_room_response(details).SerializeToString()

    async def GetPresence(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(realtime_service_pb2.GetPresenceRequest, raw)
        page = await self._hub.get_presence(decode.decode_presence(request), caller.get())
        return encode.presence_response(page).SerializeToString()

    async def ListConnections(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(realtime_service_pb2.ListConnectionsRequest, raw)
        query = decode.decode_list_connections(request)
        page = await self._hub.list_connections(query, caller.get())
        return encode.list_connections_response(page).SerializeToString()

    async def Disconnect(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(realtime_service_pb2.DisconnectRequest, raw)
        closed = await self._hub.disconnect(decode.decode_disconnect(request), caller.get())
        return realtime_service_pb2.DisconnectResponse(disconnected=closed).SerializeToString()


class _Stream:
    """One stream of Connect: writes what its connection has to be told.

    Args:
        context: Takes the responses.
        heartbeat: Seconds of silence after which to say that the stream lives.
    """

    def __init__(self, context: Context, heartbeat: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = context
        self._heartbeat = heartbeat
        self._woken = asyncio.Event()
        self._limit = asyncio.timeout(None)
        self._connection: Connection | None = None

    def wake(self) -> None:
        """Has `run` look for more; see `Connection`."""
        self._woken.set()
        connection = self._connection
        if connection is not None and connection.ended is not None and self._limit.when() is None:
            # A client that does not read keeps a write waiting, maybe for ever.
            self._limit.reschedule(self._loop.time() + ABORT_SECONDS)

    async def run(self, connection: Connection) -> NoReturn:
        """Writes until the connection ends.

        Raises:
            SwitchboardError: Why the hub has ended it.
        """
        self._connection = connection
        try:
            async with self._limit:
                raise await self._write(connection)
        except TimeoutError:
            if connection.ended is None:
                raise
            raise connection.ended from None

    async def _write(self, connection: Connection) -> SwitchboardError:
        """Writes until the connection has ended and nothing waits, and returns why it has."""
        while True:
            self._woken.clear()
            responses = encode.connect_responses(connection.take(MAX_RESPONSE_BYTES))
            for response in responses:
                await self._context.write(response)
            if responses:
                continue
            if connection.ended is not None:
                return connection.ended
            try:
                async with asyncio.timeout(self._heartbeat):
                    await self._woken.wait()
            except TimeoutError:
                await self._context.write(encode.heartbeat_response(wall_clock()))

"""A realtime client over gRPC, as tests want it: every wait has an end."""

from typing import Any, Self

import grpc

from switchboard.v1.connect_pb2 import ConnectRequest, ConnectResponse, RoomJoin
from switchboard.v1.realtime_pb2 import RealtimeMessage
from switchboard.v1.realtime_service_pb2 import BroadcastRequest, BroadcastResponse
from switchboard.v1.realtime_service_pb2_grpc import RealtimeServiceStub
from tests.integration.client import Client


class Realtime:
    """Calls RealtimeService over a client's channel, with its token."""

    def __init__(self, client: Client) -> None:
        self.stub = RealtimeServiceStub(client.channel)
        self.options = client.options

    async def call(self, method: str, request: Any) -> Any:
        """Calls an rpc with one response."""
        return await getattr(self.stub, method)(request, **self.options)

    async def send(self, text: str, **targets: Any) -> BroadcastResponse:
        """Sends a chat message that holds a text."""
        request = BroadcastRequest(message_type="chat", **targets)
        request.data.update({"text": text})
        return await self.stub.Broadcast(request, **self.options)

    def connect(self, client_id: str = "", *rooms: str | RoomJoin, **request: Any) -> "Connected":
        """Opens a connection; entering it waits until it stands in its rooms."""
        joins = [RoomJoin(room=room) if isinstance(room, str) else room for room in rooms]
        wish = ConnectRequest(client_id=client_id, rooms=joins, **request)
        return Connected(self.stub.Connect(wish, **self.options), len(joins))


class Connected:
    """An open connection.

    Attributes:
        started: What it was told first.
        joined: What it was told of the rooms that it asked for.
    """

    def __init__(
        self, call: grpc.aio.UnaryStreamCall[ConnectRequest, ConnectResponse], rooms: int
    ) -> None:
        self.call = call
        self.joined: list[Any] = []
        self._rooms = rooms
        self._messages: list[RealtimeMessage] = []

    async def next(self) -> ConnectResponse:
        """The next response."""
        assert not self._messages
        response = await self.call.read()
        assert isinstance(response, ConnectResponse), "the hub ended the stream"
        return response

    async def messages(self, count: int) -> list[RealtimeMessage]:
        """The next messages, between which no other word may come."""
        while len(self._messages) < count:
            response = await self.call.read()
            assert isinstance(response, ConnectResponse), "the hub ended the stream"
            assert response.WhichOneof("control") is None, response
            self._messages += response.messages
        found, self._messages = self._messages[:count], self._messages[count:]
        return found

    async def texts(self, count: int) -> list[str]:
        """The texts of the next messages."""
        return [str(message.data["text"]) for message in await self.messages(count)]

    async def __aenter__(self) -> Self:
        first = await self.next()
        assert first.HasField("started"), first
        self.started = first.started
        for _ in range(self._rooms):
            response = await self.next()
            assert response.HasField("joined"), response
            self.joined.append(response.joined)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()

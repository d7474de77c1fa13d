"""A client of a hub in another process, as tests want it: every wait has an end."""

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from switchboard.v1.event_pb2 import Event, Filter
from switchboard.v1.event_service_pb2 import (
    ListEventsRequest,
    ListEventsResponse,
    PublishBatchRequest,
    PublishRequest,
    PublishResponse,
    PublishResult,
    PublishStreamRequest,
    PublishStreamResponse,
)
from switchboard.v1.event_service_pb2_grpc import EventServiceStub
from switchboard.v1.subscription_pb2 import SubscribeRequest, SubscribeResponse

DEADLINE = 30.0
"""Seconds after which a call of a test fails, however busy the machine is."""

Stream = grpc.aio.StreamStreamCall[PublishStreamRequest, PublishStreamResponse]
"""An open PublishStream."""


def an_event(kind: str = "order.created", source: str = "shop", **fields: Any) -> Event:
    """An event that the hub takes."""
    return Event(type=kind, source_service=source, **fields)


def numbered(kind: str, count: int, start: int = 0) -> list[Event]:
    """Events that tell by their text which they are."""
    return [an_event(kind, text=str(number)) for number in range(start, start + count)]


def texts(events: Iterable[Event]) -> list[str]:
    """What `numbered` wrote into some events."""
    return [event.text for event in events]


def as_sent(event: Event) -> Event:
    """An event without what the hub sets."""
    copy = Event()
    copy.CopyFrom(event)
    for name in ("id", "sequence", "publish_time", "publisher"):
        copy.ClearField(name)
    return copy


@dataclass(frozen=True)
class Failure:
    """What a client can tell of a failed call."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Any = None
    fields: Sequence[str] = ()


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    """Reads the status of a call with its details, which must agree with it."""
    code, message = error.code(), error.details() or ""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            status = status_pb2.Status.FromString(value)
            assert (status.code, status.message) == (code.value[0], message)
            info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            for detail in status.details:
                assert detail.Unpack(info) or detail.Unpack(request)
            assert info.domain == "switchboard.v1"
            assert all(each.description for each in request.field_violations)
            fields = [each.field for each in request.field_violations]
            if info.reason == "TOO_LARGE":
                assert int(info.metadata["actual"]) > int(info.metadata["limit"])
            return Failure(code, message, info.reason, dict(info.metadata), fields)
    return Failure(code, message)


async def failing(call: Awaitable[object]) -> Failure:
    """Awaits a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return failure_of(caught.value)


class Subscriber:
    """An open subscription; entering it waits for `started`.

    Attributes:
        position: Where `started` said that it begins.
    """

    def __init__(self, call: grpc.aio.UnaryStreamCall[Any, SubscribeResponse]) -> None:
        self.call = call
        self.position = -1

    async def next(self) -> SubscribeResponse:
        """The next response."""
        response = await self.call.read()
        assert isinstance(response, SubscribeResponse), "the hub ended the stream"
        return response

    async def events(self, count: int) -> list[Event]:
        """The next events, which must come without a word in between and be no more than these."""
        events: list[Event] = []
        while len(events) < count:
            response = await self.next()
            assert response.deliveries, response
            events += [delivery.event for delivery in response.deliveries]
        assert len(events) == count
        return events

    async def until_caught_up(self) -> list[Event]:
        """All events up to `caught_up`, which must stand at the last of them or after it."""
        events: list[Event] = []
        while not (response := await self.next()).HasField("caught_up"):
            assert response.deliveries, response
            events += [delivery.event for delivery in response.deliveries]
        assert response.caught_up.position >= (events[-1].sequence if events else self.position)
        return events

    async def __aenter__(self) -> Self:
        first = await self.next()
        assert first.HasField("started"), first
        assert not first.deliveries
        self.position = first.started.position
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()


class Client:
    """Calls EventService.

    Args:
        channel: The connection, which is closed with the client.
        token: Sent with every call; None: no token.
    """

    def __init__(self, channel: grpc.aio.Channel, token: str | None = None) -> None:
        self.channel = channel
        self.stub = EventServiceStub(channel)
        self.options: dict[str, Any] = {"timeout": DEADLINE}
        if token is not None:
            self.options["metadata"] = (("authorization", f"Bearer {token}"),)

    async def publish(self, event: Event) -> PublishResponse:
        """Publishes one event."""
        return await self.stub.Publish(PublishRequest(event=event), **self.options)

    async def publish_batch(self, events: Iterable[Event]) -> list[PublishResult]:
        """Publishes events with one call."""
        request = PublishBatchRequest(events=events)
        return list((await self.stub.PublishBatch(request, **self.options)).results)

    def publish_stream(self) -> Stream:
        """Opens a PublishStream, to write to and to read from."""
        return self.stub.PublishStream(**self.options)

    def subscribe(self, kinds: str | Iterable[str] = (), **request: Any) -> Subscriber:
        """Opens a subscription.

        Args:
            kinds: The types wanted.
            **request: Other fields of the request; `filter` goes before `kinds`.
        """
        types = [kinds] if isinstance(kinds, str) else list(kinds)
        request.setdefault("filter", Filter(types=types))
        return Subscriber(self.stub.Subscribe(SubscribeRequest(**request), **self.options))

    async def list_events(
        self, kinds: str | Iterable[str] = (), **request: Any
    ) -> ListEventsResponse:
        """Asks for a page; the arguments are those of `subscribe`."""
        types = [kinds] if isinstance(kinds, str) else list(kinds)
        request.setdefault("filter", Filter(types=types))
        return await self.stub.ListEvents(ListEventsRequest(**request), **self.options)

    async def raw(self, method: str, request: bytes | Message) -> bytes:
        """Sends bytes to an rpc with one request and one response.

        Args:
            method: Such as "EventService/Publish", or with a package and a leading slash.
            request: The bytes, or a message.
        """
        path = method if method.startswith("/") else f"/switchboard.v1.{method}"
        content = request if isinstance(request, bytes) else request.SerializeToString()
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(path)
        return await call(content, **self.options)

    def raw_stream(self, method: str) -> grpc.aio.StreamStreamCall[bytes, bytes]:
        """Opens an rpc with streams of requests and responses, to write bytes to and to read."""
        call: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self.channel.stream_stream(
            f"/switchboard.v1.{method}"
        )
        return call(**self.options)

    def raw_responses(self, method: str, request: bytes) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
        """Sends bytes to an rpc with a stream of responses."""
        call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self.channel.unary_stream(
            f"/switchboard.v1.{method}"
        )
        return call(request, **self.options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

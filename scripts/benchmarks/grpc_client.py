"""What the gRPC clients of the benchmarks share."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from scripts.benchmarks.load import PAYLOADS, CheckError, Expected
from switchboard.v1.event_service_pb2 import PublishStreamResponse
from switchboard.v1.subscription_pb2 import START_AT_EARLIEST, SubscribeRequest, SubscribeResponse

EVENTS = "/switchboard.v1.EventService/"
"""Path of EventService."""

_OPTIONS = (
    # A connection of its own for every channel.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
)
_REQUEST_ID = 0x10  # Tag of PublishStreamRequest.request_id: field 2, a varint.


def connect(port: int) -> grpc.aio.Channel:
    """Makes a channel with a connection of its own."""
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS)


class Publisher:
    """A PublishStream with a bounded number of unanswered requests.

    Args:
        channel: The connection.
        window: Most requests that are unanswered at a time.
    """

    def __init__(self, channel: grpc.aio.Channel, window: int) -> None:
        # The responses' bytes are parsed where they are read, and requests are bytes already.
        self._call: Any = channel.stream_stream(f"{EVENTS}PublishStream")(wait_for_ready=True)
        self._room = asyncio.Semaphore(window)
        self._window = window
        self._sent = 0
        self._answered = 0
        self._next_sequence: int | None = None
        self._reader = asyncio.create_task(self._read())

    async def send(self, request: bytes) -> None:
        """Sends an encoded request without its `request_id`, once there is room."""
        await self._enter()
        self._sent += 1
        # Protobuf takes a message's fields in any order, so one can be added behind the others.
        await self._call.write(request + bytes([_REQUEST_ID]) + _varint(self._sent))

    async def drain(self) -> None:
        """Waits until all is answered."""
        for _ in range(self._window):
            await self._enter()
        for _ in range(self._window):
            self._room.release()

    async def close(self) -> None:
        """Ends the stream."""
        await self._call.done_writing()
        await self._reader

    async def _enter(self) -> None:
        if self._room.locked():
            waiting = asyncio.ensure_future(self._room.acquire())
            await asyncio.wait([waiting, self._reader], return_when=asyncio.FIRST_COMPLETED)
            if self._reader.done():
                waiting.cancel()
                self._reader.result()
                raise CheckError("the hub ended the PublishStream")
        else:
            await self._room.acquire()

    async def _read(self) -> None:
        while (raw := await self._call.read()) is not grpc.aio.EOF:
            for ack in PublishStreamResponse.FromString(raw).acks:
                self._answered += 1
                if ack.request_id != self._answered or ack.exceptions:
                    raise CheckError(f"request {self._answered} was not simply accepted: {ack}")
                for run in ack.sequences:
                    if self._next_sequence not in (None, run.first):
                        raise CheckError(f"sequence {run.first} instead of {self._next_sequence}")
                    self._next_sequence = run.first + run.count
                self._room.release()


class Subscriber:
    """A subscription that checks every event that it is sent.

    Args:
        channel: The connection.
        request: What is subscribed to.
        payloads: What it has to receive, over and over.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        request: SubscribeRequest,
        payloads: Iterable[bytes] = PAYLOADS,
    ) -> None:
        self._payloads = payloads
        self._call: Any = channel.unary_stream(
            f"{EVENTS}Subscribe",
            request_serializer=SubscribeRequest.SerializeToString,
            response_deserializer=SubscribeResponse.FromString,
        )(request, wait_for_ready=True)

    async def started(self) -> None:
        """Waits until the subscription stands; to be called first."""
        response = await self._call.read()
        if not response.HasField("started"):
            raise CheckError("the first response is not `started`")
        self._expected = Expected(response.started.position + 1, self._payloads)

    async def receive(self, count: int) -> None:
        """Waits until so many events have been received in all.

        Raises:
            CheckError: They are not the expected ones.
        """
        while self._expected.received < count:
            response = await self._call.read()
            if response is grpc.aio.EOF:
                raise CheckError("the hub ended the subscription")
            events = [delivery.event for delivery in response.deliveries]
            self._expected.take(
                [event.binary for event in events], [event.sequence for event in events]
            )
        if self._expected.received > count:
            raise CheckError(f"{self._expected.received} events instead of {count}")


@asynccontextmanager
async def subscribers(
    port: int, requests: Iterable[SubscribeRequest]
) -> AsyncIterator[list[Subscriber]]:
    """Opens subscriptions, each on a connection of its own, and waits until all of them stand."""
    channels = []
    try:
        opened = []
        for request in requests:
            channels.append(connect(port))
            opened.append(Subscriber(channels[-1], request))
        await asyncio.gather(*(each.started() for each in opened))
        yield opened
    finally:
        for channel in channels:
            await channel.close()


async def check_log(port: int, count: int, payloads: Iterable[bytes] = PAYLOADS) -> None:
    """Reads the log from its beginning.

    Args:
        port: The hub's.
        count: How many events it has to hold.
        payloads: Their payloads, in order; they repeat where there are more events.

    Raises:
        CheckError: It holds others.
    """
    async with connect(port) as channel:
        subscriber = Subscriber(channel, SubscribeRequest(start_at=START_AT_EARLIEST), payloads)
        await subscriber.started()
        await subscriber.receive(count)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)

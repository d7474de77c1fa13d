"""What the fault and load tests share: numbered events, what was answered of them, and checks."""

import asyncio
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
from google.rpc import error_details_pb2, status_pb2

from switchboard.v1 import event_pb2, event_service_pb2, subscription_pb2
from switchboard.v1.event_service_pb2_grpc import EventServiceStub
from tests.support.hub import HubProcess

if TYPE_CHECKING:
    from switchboard.v1.event_service_pb2_grpc import EventServiceAsyncStub

    SubscribeCall = grpc.aio.UnaryStreamCall[
        subscription_pb2.SubscribeRequest, subscription_pb2.SubscribeResponse
    ]
    PublishCall = grpc.aio.StreamStreamCall[
        event_service_pb2.PublishStreamRequest, event_service_pb2.PublishStreamResponse
    ]

TYPE = "load.numbered"
"""Type of the numbered events."""
PATIENCE = 60.0
"""Seconds after which something that must happen has not, however busy the machine is."""
PAGE_SIZE = 1000
"""Events of a page of history."""
T = TypeVar("T")
_DEFECTS = (
    "Traceback",
    "was never retrieved",
    "was never awaited",
    "Unhandled exception",
    "incident",
)


def stub(channel: grpc.aio.Channel) -> "EventServiceAsyncStub":
    """EventService on a channel."""
    return EventServiceStub(channel)


def numbered(source: str, number: int, size: int = 64, keys: int = 0) -> event_pb2.Event:
    """An event whose id is its number, with a text of a size in bytes that tells it from others.

    Args:
        source: Its source service.
        number: Its number.
        size: Bytes of its text.
        keys: How many ordering keys there are; 0: it has none.
    """
    return event_pb2.Event(
        id=str(number),
        type=TYPE,
        source_service=source,
        ordering_key=f"key-{number % keys}" if keys else "",
        text=f"{source}/{number}/".ljust(size, "."),
    )


def assert_clean(text: str) -> None:
    """Checks that a hub's output tells of no defect."""
    found = [line for line in text.splitlines() if any(word in line for word in _DEFECTS)]
    assert not found, text


@contextmanager
def started(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[HubProcess]:
    """A hub that is killed in the end where it still runs, and that must not show a defect."""
    hub = HubProcess(folder, settings)
    try:
        with hub:
            yield hub
    finally:
        if hub.process.stdout is not None:
            hub.process.stdout.close()
    assert_clean(hub.text)


@contextmanager
def running(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[HubProcess]:
    """A hub that has to stop in the end when it is asked to, with exit code 0."""
    with started(folder, settings) as hub:
        yield hub
        assert hub.terminate() == 0, hub.text


def refused_start(settings: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """Starts a hub that cannot start, on free ports where nothing else is said.

    Returns:
        Its exit code, and what it printed.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SWITCHBOARD_", "JWT_"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "switchboard_server"],
        env={**inherited, "GRPC_PORT": "0", "PORT": "0", **settings},
        cwd=folder,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert_clean(done.stdout)
    return done.returncode, done.stdout


async def get(hub: HubProcess, path: str) -> tuple[int, str]:
    """Asks the hub's HTTP port; the status and the body."""

    def ask() -> tuple[int, str]:
        try:
            address = f"http://127.0.0.1:{hub.port}{path}"
            with urllib.request.urlopen(address, timeout=PATIENCE) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


async def metrics(hub: HubProcess) -> dict[str, float]:
    """The hub's metrics, by name with labels."""
    status, body = await get(hub, "/metrics")
    assert status == 200
    rows = (line.rpartition(" ") for line in body.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in rows}


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Asks, each time anew, until the answer is yes; every asking is a round trip to the hub."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not await condition():
                pass
    except TimeoutError:
        raise AssertionError(f"waited in vain: {what}") from None


def reason_of(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str]]:
    """Reason and metadata of a failed call's ErrorInfo; empty where it has none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info.reason, dict(info.metadata)
    return "", {}


class Publisher:
    """Publishes events 0, 1, 2 … of one source through a pipelined stream.

    After a stream has ended, the next one begins with the first event that was not answered, under
    the same id.

    Args:
        source: The events' source.
        batch: Events of a request.
        window: Requests that may be unanswered.
        size: Bytes of an event's text.
        keys: How many ordering keys the events have; 0: none.
        pace: Awaited before each request; None: as fast as it goes.
        answered: Called after each answer with the number of events that it is for.
    """

    def __init__(
        self,
        source: str,
        *,
        batch: int = 16,
        window: int = 32,
        size: int = 64,
        keys: int = 0,
        pace: Callable[[], Awaitable[None]] | None = None,
        answered: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.source = source
        self.sequences: list[int] = []
        self.sent = 0
        self.duplicates = 0
        self._batch, self._window, self._size, self._keys = batch, window, size, keys
        self._pace = pace
        self._answered = answered

    async def run(self, channel: grpc.aio.Channel, total: int | None = None) -> None:
        """Publishes until the stream breaks, or until the event before number `total` is answered.

        Raises:
            AioRpcError: The stream broke.
        """
        call = stub(channel).PublishStream()
        room = asyncio.Semaphore(self._window)
        writer = asyncio.create_task(self._write(call, room, total))
        try:
            async for response in call:
                for ack in response.acks:
                    self._take(ack)
                    room.release()
        finally:
            writer.cancel()
            await asyncio.wait([writer])
            call.cancel()

    async def _write(
        self,
        call: "PublishCall",
        room: asyncio.Semaphore,
        total: int | None,
    ) -> None:
        number = len(self.sequences)
        try:
            while total is None or number < total:
                await room.acquire()
                if self._pace is not None:
                    await self._pace()
                end = min(number + self._batch, total or number + self._batch)
                request = event_service_pb2.PublishStreamRequest(
                    events=[
                        numbered(self.source, each, self._size, self._keys)
                        for each in range(number, end)
                    ],
                    request_id=number,
                )
                self.sent = max(self.sent, end)
                await call.write(request)
                number = end
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # The stream has ended; the reader tells why.

    def _take(self, ack: event_service_pb2.PublishAck) -> None:
        """Notes the sequences of one request's events."""
        assert ack.request_id == len(self.sequences), "answers come in the order of the requests"
        first = len(self.sequences)
        known = {each.index: each.result for each in ack.exceptions}
        fresh = (
            sequence
            for each in ack.sequences
            for sequence in range(each.first, each.first + each.count)
        )
        count = len(known) + sum(each.count for each in ack.sequences)
        for index in range(count):
            if index in known:
                assert known[index].duplicate, known[index]
                self.duplicates += 1
                self.sequences.append(known[index].sequence)
            else:
                self.sequences.append(next(fresh))
        self._answered(len(self.sequences) - first)


async def list_events(channel: grpc.aio.Channel) -> list[event_pb2.Event]:
    """All of the history, oldest first, by ListEvents."""
    events: list[event_pb2.Event] = []
    token = ""
    while True:
        page = await stub(channel).ListEvents(
            event_service_pb2.ListEventsRequest(
                order=event_service_pb2.LIST_ORDER_OLDEST_FIRST,
                page_size=PAGE_SIZE,
                page_token=token,
            )
        )
        events += page.events
        token = page.next_page_token
        if not token:
            return events


def from_earliest() -> subscription_pb2.SubscribeRequest:
    """Asks for everything that is retained, and what follows."""
    return subscription_pb2.SubscribeRequest(start_at=subscription_pb2.START_AT_EARLIEST)


async def read(call: "grpc.aio.UnaryStreamCall[Any, T] | grpc.aio.StreamStreamCall[Any, T]") -> T:
    """The next response of a stream, which must not be at its end."""
    response = await call.read()
    assert response is not grpc.aio.EOF
    return cast("T", response)


async def deliveries(call: "SubscribeCall") -> AsyncIterator[event_pb2.Event]:
    """The events of a stream that goes on, and in which a gap would be a loss."""
    while True:
        response = await read(call)
        assert not response.HasField("gap"), response
        for delivery in response.deliveries:
            yield delivery.event


async def subscribe(
    channel: grpc.aio.Channel, request: subscription_pb2.SubscribeRequest | None = None
) -> "SubscribeCall":
    """Opens a subscription, by default from the earliest event, and waits until it stands."""
    call = stub(channel).Subscribe(request or from_earliest())
    response = await read(call)
    assert response.HasField("started"), response
    return call


async def subscribe_to_end(channel: grpc.aio.Channel) -> list[event_pb2.Event]:
    """All of the history, which is not empty, by Subscribe from its beginning to its end."""
    events: list[event_pb2.Event] = []
    call = await subscribe(channel)
    while not (response := await read(call)).HasField("caught_up"):
        assert not response.HasField("gap"), response
        events += (delivery.event for delivery in response.deliveries)
    call.cancel()
    return events


def check_log(events: Sequence[event_pb2.Event], publishers: Iterable[Publisher]) -> None:
    """Checks what the log holds against what its publishers were told.

    Every answered event is in it, under the sequence of the answer; each source's events are in the
    order of their numbers, each once; and nothing is in it that was not sent.

    Args:
        events: All that the log holds, in its order.
        publishers: All that published to it.
    """
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    by_source: dict[str, list[event_pb2.Event]] = defaultdict(list)
    for event in events:
        by_source[event.source_service].append(event)
    for publisher in publishers:
        found = by_source.pop(publisher.source, [])
        numbers = [int(event.id) for event in found]
        assert numbers == list(range(len(numbers))), f"{publisher.source}: not each once in order"
        assert len(publisher.sequences) <= len(numbers) <= publisher.sent, (
            f"{publisher.source}: {len(publisher.sequences)} answered, {len(numbers)} in the log, "
            f"{publisher.sent} sent"
        )
        answered = [event.sequence for event in found[: len(publisher.sequences)]]
        assert answered == publisher.sequences, f"{publisher.source}: not where the answers said"
        for number, event in enumerate(found):
            assert event.text.startswith(f"{publisher.source}/{number}/"), event
    assert not by_source, f"nobody published {sorted(by_source)}"

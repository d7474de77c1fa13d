"""The order that a PublishStream keeps when something fails."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from switchboard.v1.event_pb2 import Event
from switchboard.v1.event_service_pb2 import PublishStreamRequest, PublishStreamResponse
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.events import EventHub
from switchboard_server.core.ports import Appended
from switchboard_server.core.principal import ANONYMOUS
from switchboard_server.rpc.endpoints import Context
from switchboard_server.rpc.publish_stream import PublishPipeline
from tests.support.events import some
from tests.support.logs import ScriptedLog
from tests.support.loop import turns

FULL = UnavailableError("LOG_UNAVAILABLE", "the disk is full")


class Stream:
    """A PublishStream into a log that answers when the test says so."""

    def __init__(self) -> None:
        self.log = ScriptedLog()
        self.hub = EventHub(self.log)
        self.requests: asyncio.Queue[bytes] = asyncio.Queue()
        self.answered: list[int] = []
        pipeline = PublishPipeline(self.hub, ANONYMOUS, self._received(), cast("Context", self))
        self.run = asyncio.create_task(pipeline.run())

    async def _received(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0)  # Each comes in a turn of its own, as gRPC hands them over.
            yield await self.requests.get()

    async def write(self, raw: bytes) -> None:
        """Takes what is answered; see `grpc.aio.ServicerContext`."""
        self.answered += [ack.request_id for ack in PublishStreamResponse.FromString(raw).acks]

    async def send(self, *names: str) -> None:
        """Sends requests of one event each, and lets them come as far as they come."""
        for name in names:
            event = Event(id=name, type="order.created", source_service="shop")
            request = PublishStreamRequest(events=[event], request_id=int(name))
            self.requests.put_nowait(request.SerializeToString())
        await turns()

    @property
    def appended(self) -> list[str]:
        """The ids of what came to the log."""
        return [name for drafts, _ in self.log.appends for name in drafts.ids or ()]


async def test_nothing_comes_to_the_log_behind_what_it_did_not_take() -> None:
    stream = Stream()
    await stream.send("1", "2", "3")
    assert stream.appended == ["1", "2", "3"]
    lane = stream.log.lanes[-1]
    assert lane is not None
    lane.fail(FULL)
    stream.log.appends[1][1].set_exception(FULL)
    await stream.send("4")
    assert stream.appended == ["1", "2", "3"]
    assert not stream.run.done()
    stream.log.appends[0][1].set_result(Appended(1, 1))
    with pytest.raises(UnavailableError, match="the disk is full"):
        await stream.run
    assert stream.answered == [1]


async def test_nothing_overtakes_a_request_that_waits_for_events_of_another_call() -> None:
    stream = Stream()
    other = asyncio.create_task(stream.hub.publish(some("x", ids=["2"])))
    await turns()
    await stream.send("1", "2", "3", "4")
    assert stream.appended == ["2", "1"]
    stream.log.appends[0][1].set_exception(FULL)
    await turns()
    assert stream.appended == ["2", "1", "2"]
    for _, future in stream.log.appends[1:]:
        future.set_result(Appended(1, 1))
    await turns()
    assert stream.appended == ["2", "1", "2", "3", "4"]
    assert other.exception() is FULL
    stream.run.cancel()
    await asyncio.wait([stream.run])

"""A group with a long backlog: what it costs, and what overtakes it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc

from switchboard.v1 import event_pb2, event_service_pb2, group_service_pb2, subscription_pb2
from switchboard.v1.group_pb2 import Group
from switchboard.v1.group_service_pb2_grpc import GroupServiceStub
from tests.e2e.load import read, stub, subscribe

if TYPE_CHECKING:
    from switchboard.v1.group_service_pb2_grpc import GroupServiceAsyncStub

MIB = 1024 * 1024
SETTINGS = {"SWITCHBOARD_TAIL_BYTES": str(4 * MIB)}
"""So little of the log is in memory that a backlog which stays there would show."""
GROUP = "backlog"
TYPE = "backlog.event"
CREDIT = 16
BATCH = 2000
_WINDOW = 8


async def publish(channel: grpc.aio.Channel, count: int) -> None:
    """Publishes so many small events, a multiple of `BATCH`, whose ids the hub makes."""
    event = event_pb2.Event(type=TYPE, source_service="backlog", text="." * 40)
    request = event_service_pb2.PublishStreamRequest(events=[event] * BATCH)
    call = stub(channel).PublishStream()
    room = asyncio.Semaphore(_WINDOW)

    async def write() -> None:
        for _ in range(count // BATCH):
            await room.acquire()
            await call.write(request)
        await call.done_writing()

    writing = asyncio.create_task(write())
    answered = 0
    async for response in call:
        for ack in response.acks:
            assert not ack.exceptions, ack
            answered += sum(each.count for each in ack.sequences)
            room.release()
    await writing
    assert answered == count


async def progress(channel: grpc.aio.Channel) -> Group:
    """The group."""
    groups: GroupServiceAsyncStub = GroupServiceStub(channel)
    return (await groups.GetGroup(group_service_pb2.GetGroupRequest(group=GROUP))).group


class Reader:
    """A member that takes one delivery after the other, as slowly as it is asked to."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._waiting: list[subscription_pb2.Delivery] = []

    @asynccontextmanager
    async def joined(self) -> AsyncIterator["Reader"]:
        """Joins the group, and makes it where there is none."""
        self._call = await subscribe(
            self._channel,
            subscription_pb2.SubscribeRequest(
                group=GROUP, filter=event_pb2.Filter(types=[TYPE]), max_in_flight=CREDIT
            ),
        )
        try:
            yield self
        finally:
            self._call.cancel()

    async def take(self) -> subscription_pb2.Delivery:
        """The next delivery."""
        while not self._waiting:
            self._waiting += (await read(self._call)).deliveries
        return self._waiting.pop(0)

    async def settle(self, delivery: subscription_pb2.Delivery) -> None:
        """Acknowledges a delivery."""
        request = event_service_pb2.AcknowledgeRequest(group=GROUP, ack_ids=[delivery.ack_id])
        (result,) = (await stub(self._channel).Acknowledge(request)).results
        assert result.outcome == event_service_pb2.SETTLE_OUTCOME_OK

    async def overtaken(self) -> tuple[int, float]:
        """Publishes a critical event, and takes deliveries until it comes.

        Returns:
            How many others came after there was room for it, and the seconds from its publishing
            to its coming.
        """
        held = [await self.take() for _ in range(CREDIT)]
        urgent = event_pb2.Event(
            type=TYPE, source_service="backlog", priority=event_pb2.PRIORITY_CRITICAL
        )
        began = time.monotonic()
        await stub(self._channel).Publish(event_service_pb2.PublishRequest(event=urgent))
        await self.settle(held[0])
        others = 0
        while (delivery := await self.take()).event.priority != event_pb2.PRIORITY_CRITICAL:
            others += 1
            await self.settle(delivery)
        passed = time.monotonic() - began
        for each in (*held[1:], delivery):
            await self.settle(each)
        return others, passed

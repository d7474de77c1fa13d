"""Workers that are members of a consumer group of the hub; see `scripts.benchmarks.worker`."""

import asyncio
import re
import time
from typing import Any

import grpc

from scripts.benchmarks.grpc_client import EVENTS, connect
from scripts.benchmarks.load import CYCLE, PAYLOADS, TYPE, CheckError
from scripts.benchmarks.worker import Link
from switchboard.v1.event_pb2 import Filter
from switchboard.v1.event_service_pb2 import AcknowledgeRequest
from switchboard.v1.group_service_pb2 import GetGroupRequest, GetGroupResponse
from switchboard.v1.subscription_pb2 import SubscribeRequest, SubscribeResponse

GROUP = "bench"
PART = 4000
"""Sequences that a worker reports at once."""

_MOST_ACK_IDS = 10_000
_LOOK_SECONDS = 0.05
# Delivery.ack_id as it lies in a response; no payload has a byte that begins it. It is field 2, as
# AcknowledgeRequest.ack_ids is, so what is found is written as it stands.
_ACK_ID = re.compile(rb"\x12.[0-9a-f]+-[0-9a-f]+-[0-9a-f]{8}(?=\x18)", re.DOTALL)
_HEAD = AcknowledgeRequest(group=GROUP).SerializeToString()
_OK = b"\x10\x01"
"""SettleResult.outcome where it is OK; no id holds these bytes."""


class _Member:
    """A member that does nothing but acknowledge, all that has gathered in one call.

    What it received is kept as it came, and looked at when the time is taken.
    """

    def __init__(self, port: int, credit: int) -> None:
        self._channel = connect(port)
        self._acknowledge: Any = self._channel.unary_unary(f"{EVENTS}Acknowledge")
        request = SubscribeRequest(
            group=GROUP, filter=Filter(types=[TYPE]), max_in_flight=credit
        ).SerializeToString()
        subscribe: Any = self._channel.unary_stream(f"{EVENTS}Subscribe")
        self._stream: Any = subscribe(request)
        self._waiting: list[bytes] = []
        self._more = asyncio.Event()
        self._received: list[bytes] = []
        self._settled = 0
        self._idle = asyncio.Event()
        self.ended = 0.0

    async def started(self) -> None:
        """Waits until it has joined."""
        if not SubscribeResponse.FromString(await self._stream.read()).HasField("started"):
            raise CheckError("the first response is not `started`")

    async def read(self) -> None:
        """Receives until it is cancelled."""
        while (raw := await self._stream.read()) is not grpc.aio.EOF:
            self._received.append(raw)
            self._waiting += _ACK_ID.findall(raw)
            self._more.set()
            self._idle.clear()
        raise CheckError("the hub ended the subscription")

    async def settle(self) -> None:
        """Acknowledges until it is cancelled."""
        while True:
            await self._more.wait()
            names, self._waiting = self._waiting[:_MOST_ACK_IDS], self._waiting[_MOST_ACK_IDS:]
            if not self._waiting:
                self._more.clear()
            answer = await self._acknowledge(_HEAD + b"".join(names))
            if answer.count(_OK) != len(names):
                raise CheckError("an acknowledgement was not taken")
            self._settled += len(names)
            self.ended = time.monotonic()
            if not self._waiting:
                self._idle.set()

    async def idle(self) -> None:
        """Waits until all that has come is settled, and that is answered."""
        await self._idle.wait()

    async def close(self) -> list[int]:
        """Leaves; the sequences of what it has settled."""
        self._stream.cancel()
        await self._channel.close()
        found = []
        for raw in self._received:
            for delivery in SubscribeResponse.FromString(raw).deliveries:
                event = delivery.event
                if delivery.attempt != 1:
                    raise CheckError(f"event {event.sequence} came again")
                if event.binary != PAYLOADS[(event.sequence - 1) % CYCLE]:
                    raise CheckError(f"event {event.sequence} is another than the one sent")
                found.append(event.sequence)
        if len(found) != self._settled:
            raise CheckError(f"{len(found)} events received, and {self._settled} settled")
        return found


async def work(link: Link, port: int, members: int, credit: int) -> None:
    """Works for the group until told to stop, and reports what was settled and when."""
    opened = [_Member(port, credit) for _ in range(members)]
    await asyncio.gather(*(each.started() for each in opened))
    link.report("ready")
    tasks = [asyncio.create_task(each.read()) for each in opened]
    tasks += [asyncio.create_task(each.settle()) for each in opened]
    stop = asyncio.create_task(link.go())
    await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()
    await asyncio.gather(*(each.idle() for each in opened))
    for task in tasks:
        task.cancel()
    ended = max(each.ended for each in opened)
    report_settled(link, [number for each in opened for number in await each.close()], ended)


def report_settled(link: Link, sequences: list[int], ended: float) -> None:
    """Reports what a worker has settled, in parts, for a line has a limit.

    Args:
        link: The program that measures.
        sequences: What it has settled.
        ended: When the last was, by the monotonic clock.
    """
    parts = [sequences[start : start + PART] for start in range(0, len(sequences), PART)]
    link.report("settled", parts=len(parts), ended=ended)
    for part in parts:
        link.report("part", sequences=part)


async def watch(link: Link, port: int, events: int) -> None:
    """Waits until the group has settled so many events."""
    async with connect(port) as channel:
        get: Any = channel.unary_unary("/switchboard.v1.GroupService/GetGroup")
        request = GetGroupRequest(group=GROUP).SerializeToString()
        while True:
            progress = GetGroupResponse.FromString(await get(request)).group.progress
            if progress.position == events:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        if progress.dead_letters:
            raise CheckError(f"{progress.dead_letters} events became dead letters")
        link.report("done")

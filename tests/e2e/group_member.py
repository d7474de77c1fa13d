"""A member of a consumer group in a process of its own: `python -m tests.e2e.group_member`.

Upon SIGUSR1 it settles nothing more of what comes on its stream, so that it can be killed while it
holds something.

It writes down what happens, a line at a time and before it goes on, so that what it has seen is
known though it is killed with -9: the system keeps what was written. A line that is cut off at its
end was being written then, so what it tells of had no consequence yet.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration

from switchboard.v1 import event_service_pb2, subscription_pb2
from switchboard.v1.event_service_pb2_grpc import EventServiceStub

if TYPE_CHECKING:
    from switchboard.v1.event_service_pb2_grpc import EventServiceAsyncStub

_DEADLINE = Duration(seconds=120)
"""Nothing is to come back for slowness here."""
_ATTEMPTS = 100
"""Nor to be given up, however often those that hold it are killed."""
_RECONNECT_SECONDS = 0.05
_MOST_ACK_IDS = 500


class Diary:
    """What a member has seen: lines of a letter, the time in nanoseconds, and what it is about.

    - `s`: a stream stands.
    - `d`: deliveries came on it, each as sequence, attempt and ordering key.
    - `a`: these sequences are about to be acknowledged.
    - `k`: these were acknowledged, by an answer.
    - `h`: nothing more is acknowledged of what comes on this stream.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, letter: str, words: Iterable[str] = ()) -> None:
        """Writes a line."""
        line = f"{' '.join((letter, str(time.monotonic_ns()), *words))}\n"
        os.write(self._file, line.encode())


class Settler:
    """Acknowledges what has been taken in: whatever gathers during one call goes into the next."""

    def __init__(self, stub: "EventServiceAsyncStub", group: str, diary: Diary) -> None:
        self._stub = stub
        self._group = group
        self._diary = diary
        self._waiting: dict[str, str] = {}
        self._more = asyncio.Event()
        self._holding = False

    def hold(self) -> None:
        """Acknowledges nothing any more."""
        self._holding = True
        self._diary.note("h")

    def add(self, deliveries: Iterable[subscription_pb2.Delivery]) -> None:
        """Has deliveries acknowledged soon."""
        self._waiting |= {each.ack_id: str(each.event.sequence) for each in deliveries}
        if not self._holding:
            self._more.set()

    async def run(self) -> NoReturn:
        """Acknowledges until it is cancelled, or the hub is gone."""
        while True:
            await self._more.wait()
            if self._holding:
                self._more.clear()
                continue
            names = list(self._waiting)[:_MOST_ACK_IDS]
            sequences = [self._waiting.pop(name) for name in names]
            if not self._waiting:
                self._more.clear()
            self._diary.note("a", sequences)
            answer = await self._stub.Acknowledge(
                event_service_pb2.AcknowledgeRequest(group=self._group, ack_ids=names)
            )
            self._diary.note(
                "k",
                [
                    sequence
                    for sequence, result in zip(sequences, answer.results, strict=True)
                    if result.outcome == event_service_pb2.SETTLE_OUTCOME_OK
                ],
            )


async def _read(
    stub: "EventServiceAsyncStub",
    request: subscription_pb2.SubscribeRequest,
    settler: Settler,
    diary: Diary,
) -> None:
    async for response in stub.Subscribe(request):
        if response.HasField("started"):
            diary.note("s")
        if response.deliveries:
            diary.note(
                "d",
                [
                    f"{each.event.sequence}/{each.attempt}/{each.event.ordering_key}"
                    for each in response.deliveries
                ],
            )
            settler.add(response.deliveries)


async def _work(address: str, request: subscription_pb2.SubscribeRequest, diary: Diary) -> None:
    """Works for the group until the hub is gone."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: EventServiceAsyncStub = EventServiceStub(channel)
        settler = Settler(stub, request.group, diary)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, settler.hold)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(settler.run())
            tasks.create_task(_read(stub, request, settler, diary))


def _away(error: BaseException) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNAVAILABLE


def _address(place: Path) -> str:
    return place.read_text(encoding="ascii")


async def main(place: Path, group: str, mode: str, path: str) -> None:
    """Works for a group until it is killed.

    Args:
        place: File that holds the hub's address, which changes when the hub is restarted.
        group: The group's name.
        mode: Its mode, as the proto names it.
        path: File to write down what happens.
    """
    diary = Diary(path)
    request = subscription_pb2.SubscribeRequest(
        group=group,
        mode=subscription_pb2.DeliveryMode.Value(mode),
        ack_deadline=_DEADLINE,
        retry_policy=subscription_pb2.RetryPolicy(max_attempts=_ATTEMPTS),
        start_at=subscription_pb2.START_AT_EARLIEST,
    )
    while True:
        try:
            await _work(_address(place), request, diary)
        except* grpc.aio.AioRpcError as errors:
            if errors.split(_away)[1] is not None:
                raise
            # Nothing tells when the hub is back.
            await asyncio.sleep(_RECONNECT_SECONDS)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))

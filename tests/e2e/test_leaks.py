"""Thousands of streams that come and go: nothing is left of them."""

import asyncio
from pathlib import Path

import grpc

from switchboard.v1 import event_service_pb2
from tests.e2e.load import (
    Publisher,
    from_earliest,
    metrics,
    numbered,
    read,
    running,
    stub,
    subscribe,
    until,
)
from tests.support.hub import HubProcess

CHANNELS = 4
AT_ONCE = 100
WARM_UP = 1000
STREAMS = 4000
GROWTH = 4 * 1024
"""Bytes for each stream by which the hub may grow, for the allocator's noise. A stream that is open
takes 23 KiB and more."""
# Small, so that what fills by and by as it should is not taken for a leak.
SETTINGS = {"SWITCHBOARD_TAIL_BYTES": "65536", "SWITCHBOARD_IDEMPOTENCY_MAX_KEYS": "1000"}


def request(number: int, each: int) -> event_service_pb2.PublishStreamRequest:
    return event_service_pb2.PublishStreamRequest(events=[numbered(f"stream-{number}", each)])


async def come_and_go(channel: grpc.aio.Channel, number: int) -> None:
    """Opens a stream and leaves it in one of the ways in which clients do."""
    match number % 5:
        case 0:  # as soon as it stands
            (await subscribe(channel)).cancel()
        case 1:  # before the hub has answered
            stub(channel).Subscribe(from_earliest()).cancel()
        case 2:  # with publishes on their way
            call = stub(channel).PublishStream()
            for each in range(3):
                await call.write(request(number, each))
            call.cancel()
        case 3:  # after the first answer
            call = stub(channel).PublishStream()
            await call.write(request(number, 0))
            assert (await read(call)).acks
            call.cancel()
        case _:  # in the proper way
            await Publisher(f"proper-{number}", batch=2).run(channel, 4)


async def leave_streams(channels: list[grpc.aio.Channel], count: int) -> None:
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(
            *(
                come_and_go(channels[number % CHANNELS], number)
                for number in range(start, start + AT_ONCE)
            )
        )


async def gone(hub: HubProcess) -> None:
    """Waits until the hub has no stream open."""

    async def none_open() -> bool:
        found = await metrics(hub)
        streams = [
            value
            for name, value in found.items()
            if name.startswith("switchboard_rpc_streams_open")
        ]
        return not any(streams) and not found["switchboard_subscribers"]

    await until(none_open, "no stream is open")


async def test_streams_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    # That the hub complains of nothing is checked when it has ended.
    with running(tmp_path, SETTINGS) as hub:
        channels = [hub.channel() for _ in range(CHANNELS)]
        await leave_streams(channels, WARM_UP)
        await gone(hub)
        before = hub.memory()
        await leave_streams(channels, STREAMS)
        await gone(hub)
        assert hub.memory() - before < GROWTH * STREAMS
        assert (await metrics(hub))["switchboard_slow_readers"] == 0
        await asyncio.gather(*(channel.close() for channel in channels))

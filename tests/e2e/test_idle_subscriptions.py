"""Ten thousand idle subscriptions with filters of their own: an event costs what it matches."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from google.protobuf.duration_pb2 import Duration

from switchboard.v1 import event_pb2, event_service_pb2, subscription_pb2
from tests.e2e.load import PATIENCE, Publisher, metrics, running, stub, subscribe
from tests.support.hub import HubProcess

if TYPE_CHECKING:
    from tests.e2e.load import SubscribeCall

CHANNELS = 10
SUBSCRIPTIONS = 10_000
OPENED_AT_ONCE = 500
EVENTS = 20_000
SILENCE = Duration(seconds=3600)
"""No heartbeats, which are a cost of time and not of events."""


def filter_of(number: int) -> event_pb2.Filter:
    """A filter like no other, of one of the kinds that the hub tells apart when it routes."""
    name = f"idle.{number}"
    return (
        event_pb2.Filter(types=[name]),
        event_pb2.Filter(types=[f"{name}.*"]),
        event_pb2.Filter(source_services=[name]),
        event_pb2.Filter(target_services=[name], min_priority=event_pb2.PRIORITY_HIGH),
        event_pb2.Filter(attributes={"name": name}),
    )[number % 5]


def event_for(number: int) -> event_pb2.Event:
    """An event that the filter of this number matches, and no other."""
    event = event_pb2.Event(type="other", source_service="other", text=str(number))
    name = f"idle.{number}"
    match number % 5:
        case 0:
            event.type = name
        case 1:
            event.type = f"{name}.more"
        case 2:
            event.source_service = name
        case 3:
            event.target_service = name
            event.priority = event_pb2.PRIORITY_CRITICAL
        case _:
            event.attributes["name"] = name
    return event


async def cost(hub: HubProcess, channel: grpc.aio.Channel, name: str) -> float:
    """Processor seconds that the hub takes for a fixed number of events that nobody wants."""
    before = hub.cpu_seconds()
    await Publisher(name).run(channel, EVENTS)
    return hub.cpu_seconds() - before


async def open_idle(channels: list[grpc.aio.Channel]) -> list["SubscribeCall"]:
    """Opens all subscriptions, so many at a time."""
    calls: list[SubscribeCall] = []
    for start in range(0, SUBSCRIPTIONS, OPENED_AT_ONCE):
        calls += await asyncio.gather(
            *(
                subscribe(
                    channels[number % CHANNELS],
                    subscription_pb2.SubscribeRequest(
                        filter=filter_of(number), heartbeat_interval=SILENCE
                    ),
                )
                for number in range(start, start + OPENED_AT_ONCE)
            )
        )
    return calls


async def test_ten_thousand_idle_subscriptions_cost_a_publish_nothing_and_miss_nothing(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as hub:
        channels = [hub.channel() for _ in range(CHANNELS)]
        async with asyncio.timeout(PATIENCE), hub.channel() as publishing:
            await cost(hub, publishing, "warm-up")
            alone = await cost(hub, publishing, "alone")
            calls = await open_idle(channels)
            assert (await metrics(hub))["switchboard_subscribers"] == SUBSCRIPTIONS
            crowded = await cost(hub, publishing, "crowded")
            # To look at every filter for every event would take minutes; this is for noise.
            assert crowded < 3 * alone + 1.0, f"{alone:.2f} s alone, {crowded:.2f} s crowded"

            chosen = [*range(0, SUBSCRIPTIONS, 997), SUBSCRIPTIONS - 1]
            assert {number % 5 for number in chosen} == set(range(5))
            for _ in range(2):
                await stub(publishing).PublishBatch(
                    event_service_pb2.PublishBatchRequest(events=map(event_for, chosen))
                )
            for number in chosen:
                texts: list[str] = []
                while len(texts) < 2:
                    response = await calls[number].read()
                    texts += (each.event.text for each in response.deliveries)
                assert texts == [str(number)] * 2
            delivered = (await metrics(hub))["switchboard_events_delivered_total"]
            assert delivered == 2 * len(chosen), "somebody got an event of another"
        await asyncio.gather(*(channel.close() for channel in channels))

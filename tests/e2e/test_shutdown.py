"""SIGTERM and SIGINT: health first, streams told why, what was answered kept, an end in time."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from switchboard.v1 import event_service_pb2, subscription_pb2
from tests.e2e.load import (
    PATIENCE,
    Publisher,
    check_log,
    list_events,
    metrics,
    numbered,
    read,
    reason_of,
    running,
    started,
    stub,
    subscribe,
    until,
)
from tests.support.hub import HubProcess

if TYPE_CHECKING:
    from tests.e2e.load import SubscribeCall

T = TypeVar("T")
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
STOPPING = "switchboard: stopping"
LONG = "3600"
"""Seconds to drain that no test waits for."""


async def exit_code(hub: HubProcess) -> int:
    """Waits until the hub has ended."""
    return await asyncio.to_thread(hub.process.wait, PATIENCE)


async def ended(
    call: "grpc.aio.UnaryStreamCall[Any, T]", take: Callable[[T], None]
) -> grpc.aio.AioRpcError:
    """Reads a stream until it fails, as it has to."""
    try:
        while True:
            take(await read(call))
    except grpc.aio.AioRpcError as error:
        return error


class Calls:
    """Everything that can be open when a hub is asked to stop."""

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub
        self.loaded = asyncio.Event()
        self.told: list[str] = []
        self.alone: list[int] = []
        self.publishers = [Publisher(f"stream-{each}", answered=self._answered) for each in (0, 1)]

    def _answered(self, _count: int) -> None:
        if all(len(each.sequences) > 500 for each in self.publishers):
            self.loaded.set()

    async def publish_streams(self, channel: grpc.aio.Channel) -> None:
        async def one(publisher: Publisher) -> None:
            with pytest.raises(grpc.aio.AioRpcError):
                await publisher.run(channel)

        await asyncio.gather(*map(one, self.publishers))

    async def publish_alone(self, channel: grpc.aio.Channel) -> grpc.aio.AioRpcError:
        """Publishes one by one until it is refused."""
        while True:
            event = numbered("alone", len(self.alone))
            try:
                response = await stub(channel).Publish(
                    event_service_pb2.PublishRequest(event=event)
                )
            except grpc.aio.AioRpcError as error:
                return error
            self.alone.append(response.sequence)

    async def watch(self, channel: grpc.aio.Channel) -> None:
        """Notes when health changes, and that its stream ends."""
        request = health_pb2.HealthCheckRequest()
        call = health_pb2_grpc.HealthStub(channel).Watch(request)
        name = health_pb2.HealthCheckResponse.ServingStatus.Name
        error = await ended(call, lambda response: self.told.append(name(response.status)))
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
        assert reason_of(error) == ("SHUTTING_DOWN", {})

    async def follow(
        self, channel: grpc.aio.Channel, ready: asyncio.Event
    ) -> tuple[grpc.aio.AioRpcError, int]:
        """Subscribes from the beginning: how that ended, and the last sequence that came."""
        sequences: list[int] = []

        def take(response: subscription_pb2.SubscribeResponse) -> None:
            sequences.extend(each.event.sequence for each in response.deliveries)

        call = await subscribe(channel)
        ready.set()
        error = await ended(call, take)
        self.told.append("subscription ended")
        assert sequences == [*range(1, len(sequences) + 1)]
        return error, len(sequences)


@SIGNALS
async def test_what_is_open_is_told_in_order_and_what_was_answered_is_kept(
    tmp_path: Path, number: signal.Signals
) -> None:
    with started(tmp_path, {"SWITCHBOARD_SHUTDOWN_SECONDS": LONG}) as hub:
        calls = Calls(hub)
        async with (
            hub.channel() as following,
            hub.channel() as streaming,
            hub.channel() as single,
            asyncio.TaskGroup() as group,
        ):
            ready = [asyncio.Event() for _ in range(3)]
            # On one connection, so that what the hub sent first comes first.
            watching = group.create_task(calls.watch(following))
            followers = [group.create_task(calls.follow(following, each)) for each in ready]
            await asyncio.gather(*(each.wait() for each in ready))
            group.create_task(calls.publish_streams(streaming))
            alone = group.create_task(calls.publish_alone(single))
            await asyncio.wait_for(calls.loaded.wait(), PATIENCE)
            hub.process.send_signal(number)
            # Nothing holds up the drain, so it does not last for as long as it might.
            assert await exit_code(hub) == 0
            await watching
            for follower in followers:
                error, last = await follower
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error
                reason, facts = reason_of(error)
                assert reason == "SHUTTING_DOWN"
                assert facts == {"position": str(last)}
            refused = await alone
        assert refused.code() is grpc.StatusCode.UNAVAILABLE, refused
        assert reason_of(refused) in (("SHUTTING_DOWN", {}), ("", {}))
        assert calls.told[:2] == ["SERVING", "NOT_SERVING"]

    with running(tmp_path) as again:
        async with again.channel() as channel:
            events = await list_events(channel)
            kept = [event for event in events if event.source_service == "alone"]
            assert [event.sequence for event in kept[: len(calls.alone)]] == calls.alone
            single_publisher = Publisher("alone")
            single_publisher.sequences = calls.alone
            single_publisher.sent = len(calls.alone) + 1
            check_log(events, [*calls.publishers, single_publisher])


async def test_a_publish_stream_is_answered_for_what_was_taken_and_told_why_it_ends(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as hub:
        async with hub.channel() as channel:
            call = stub(channel).PublishStream()
            request = event_service_pb2.PublishStreamRequest(events=[numbered("idle", 0)])
            await call.write(request)
            assert (await read(call)).acks
            hub.process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call.read()
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
            assert reason_of(error.value) == ("SHUTTING_DOWN", {})


async def stall(hub: HubProcess, channel: grpc.aio.Channel) -> "SubscribeCall":
    """Opens a subscription that reads nothing, and publishes until the hub waits for it."""
    call = await subscribe(channel)
    publisher = Publisher("load", size=10_000)
    sent = -1

    async def blocked() -> bool:
        nonlocal sent
        before = sent
        await publisher.run(channel, len(publisher.sequences) + 400)
        sent = int((await metrics(hub))["switchboard_events_delivered_total"])
        return sent == before

    await until(blocked, "the subscription is stopped by flow control")
    return call


@SIGNALS
async def test_a_subscriber_that_never_reads_does_not_keep_the_hub(
    tmp_path: Path, number: signal.Signals
) -> None:
    with started(tmp_path, {"SWITCHBOARD_SHUTDOWN_SECONDS": "1"}) as hub:
        async with hub.channel() as channel:
            call = await stall(hub, channel)
            hub.process.send_signal(number)
            assert await exit_code(hub) == 0
            call.cancel()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_skips_the_drain(tmp_path: Path, second: signal.Signals) -> None:
    with started(tmp_path, {"SWITCHBOARD_SHUTDOWN_SECONDS": LONG}) as hub:
        async with hub.channel() as channel:
            call = await stall(hub, channel)
            hub.process.send_signal(signal.SIGTERM)

            async def draining() -> bool:
                await asyncio.sleep(0)
                return STOPPING in hub.text

            await until(draining, "the drain begins")
            assert hub.process.poll() is None
            hub.process.send_signal(second)
            assert await exit_code(hub) == 0
            call.cancel()


@pytest.mark.parametrize("module", ["pydantic", "grpc"])
def test_an_interrupt_while_it_is_being_loaded_ends_it_without_a_word(
    module: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "switchboard_server"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as hub:
        assert hub.stderr is not None
        # Python tells what it has imported as it goes.
        while not hub.stderr.readline().rstrip().rpartition("|")[2].strip().startswith(module):
            assert hub.poll() is None
        hub.send_signal(signal.SIGINT)
        said = [line for line in hub.stderr if not line.startswith("import time:")]
    assert hub.returncode == -signal.SIGINT
    assert said == []

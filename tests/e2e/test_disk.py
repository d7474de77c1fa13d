"""A disk that cannot be written to: publishes fail, reads go on, and all is well when it can."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from switchboard.v1 import event_service_pb2
from switchboard_server.backends.embedded.log import PROBE_SECONDS
from tests.e2e.disks import (
    Disk,
    FaultyExt4,
    FullDisk,
    LimitedFiles,
    Tmpfs,
    faulty_ext4,
    mounted_tmpfs,
)
from tests.e2e.load import (
    PATIENCE,
    Publisher,
    check_log,
    get,
    list_events,
    numbered,
    read,
    reason_of,
    refused_start,
    running,
    started,
    stub,
    subscribe,
    subscribe_to_end,
)
from tests.support.hub import HubProcess

if TYPE_CHECKING:
    HealthCall = grpc.aio.UnaryStreamCall[
        health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
    ]

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
MIB = 1024 * 1024
SERVICE = "switchboard.v1.EventService"
EVENTS = 300
PIPELINED = 20
"""Requests that fit into a stream's HTTP/2 window, 64 KiB, so that writing them never waits."""


@pytest.fixture(params=["full disk", "limited files"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "data"
    if request.param == "limited files":
        yield LimitedFiles(folder)
        return
    with mounted_tmpfs(folder, "16m"):
        yield FullDisk(folder)


def watch(channel: grpc.aio.Channel, service: str) -> "HealthCall":
    request = health_pb2.HealthCheckRequest(service=service)
    call: HealthCall = health_pb2_grpc.HealthStub(channel).Watch(request)
    return call


async def assert_refused(hub: HubProcess, channel: grpc.aio.Channel) -> None:
    """Publishes by each rpc, and is told each time that the log takes nothing."""
    api, event = stub(channel), numbered("refused", 0, 2000)
    with pytest.raises(grpc.aio.AioRpcError) as alone:
        await api.Publish(event_service_pb2.PublishRequest(event=event))
    with pytest.raises(grpc.aio.AioRpcError) as batch:
        await api.PublishBatch(event_service_pb2.PublishBatchRequest(events=[event]))
    # Those on their way behind the first one that fails have to fail as quietly. The hub is stopped
    # until all are, since grpc.aio cannot tell why a stream ended that it was writing to.
    call = api.PublishStream()
    hub.process.send_signal(signal.SIGSTOP)
    for number in range(PIPELINED):
        request = event_service_pb2.PublishStreamRequest(events=[event], request_id=number)
        await call.write(request)
    hub.process.send_signal(signal.SIGCONT)
    with pytest.raises(grpc.aio.AioRpcError) as stream:
        await call.read()
    for error in (alone.value, batch.value, stream.value):
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
        assert reason_of(error)[0] == "LOG_UNAVAILABLE"
        assert "make room on its disk" in (error.details() or "")


async def assert_readable(channel: grpc.aio.Channel, publisher: Publisher) -> None:
    listed = await list_events(channel)
    check_log(listed, [publisher])
    assert await subscribe_to_end(channel) == listed


async def see(call: "HealthCall", status: int) -> None:
    """Reads what a Watch stream says next, which is this."""
    async with asyncio.timeout(PATIENCE):
        response = await read(call)
    assert response.status == status


async def test_a_disk_that_takes_nothing_stops_publishes_only_and_until_it_takes_something(
    disk: Disk,
) -> None:
    publisher = Publisher("kept")
    with running(disk.folder) as hub:
        async with hub.channel() as channel:
            watches = [watch(channel, ""), watch(channel, SERVICE)]
            for call in watches:
                await see(call, SERVING)
            await publisher.run(channel, EVENTS)
            live = await subscribe(channel)

            disk.fail(hub)
            await assert_refused(hub, channel)
            for call in watches:
                await see(call, NOT_SERVING)
            assert (await get(hub, "/readyz"))[0] == 503
            assert (await get(hub, "/livez"))[0] == 200
            status, overview = await get(hub, "/health")
            assert status == 503
            assert "make room on its disk" in overview
            await assert_readable(channel, publisher)
            await assert_refused(hub, channel)
            await assert_readable(channel, publisher)

            disk.heal(hub)
            for call in watches:
                await see(call, SERVING)
            assert (await get(hub, "/readyz"))[0] == 200
            await publisher.run(channel, 2 * EVENTS)
            await assert_readable(channel, publisher)
            sequences: list[int] = []
            while len(sequences) < 2 * EVENTS:
                sequences += (each.event.sequence for each in (await read(live)).deliveries)
            assert sequences == publisher.sequences
            live.cancel()
            for call in watches:
                call.cancel()
    with running(disk.folder) as hub:
        async with hub.channel() as channel:
            await assert_readable(channel, publisher)


async def test_a_disk_that_the_hub_itself_has_filled_is_not_taken_for_one_with_room(
    tmp_path: Path,
) -> None:
    """It is full to the size of an event and not to the last byte, as in real life."""
    folder = tmp_path / "data"
    # One request at a time, so that each transaction is as large as the one that failed.
    publisher = Publisher("filling", size=100_000, batch=4, window=1)
    with mounted_tmpfs(folder, "32m"), running(folder) as hub:
        reserve = folder / "reserve"
        reserve.write_bytes(bytes(24 * MIB))
        async with hub.channel() as channel:
            health = watch(channel, "")
            await see(health, SERVING)
            with pytest.raises(grpc.aio.AioRpcError):
                await publisher.run(channel)
            await see(health, NOT_SERVING)

            following = asyncio.create_task(read(health))
            await asyncio.wait([following], timeout=3 * PROBE_SECONDS)
            assert not following.done(), "said to serve, though the same events do not fit"
            with pytest.raises(grpc.aio.AioRpcError):
                await publisher.run(channel)
            check_log(await list_events(channel), [publisher])

            reserve.unlink()
            async with asyncio.timeout(PATIENCE):
                assert (await following).status == SERVING
            await publisher.run(channel, publisher.sent)
            check_log(await list_events(channel), [publisher])
            health.cancel()


@pytest.mark.parametrize("left", [0, 4096, 16384], ids="{} bytes left".format)
async def test_a_start_on_a_full_disk_is_refused_with_a_reason(tmp_path: Path, left: int) -> None:
    folder = tmp_path / "data"
    with mounted_tmpfs(folder, "1m"):
        (folder / "filler").write_bytes(bytes(MIB - left))
        code, text = refused_start({"SWITCHBOARD_DATA_DIR": str(folder)}, tmp_path)
    assert code == 1
    assert str(folder) in text
    assert "make room on its disk" in text


async def test_a_read_only_folder_is_told_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with mounted_tmpfs(folder, "1m"):
        Tmpfs(folder).remount("ro")
        code, text = refused_start({"SWITCHBOARD_DATA_DIR": str(folder)}, tmp_path)
    assert code == 1
    assert f"the data folder {folder} cannot be used: Read-only file system" in text
    assert "choose another SWITCHBOARD_DATA_DIR" in text


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultyExt4]:
    with faulty_ext4(tmp_path / "data") as disk:
        yield disk


async def test_a_disk_that_becomes_read_only_stops_publishes_and_not_reads(
    faulty: FaultyExt4,
) -> None:
    publisher = Publisher("kept")
    with started(faulty.folder) as hub:
        async with hub.channel() as channel:
            health = watch(channel, "")
            await see(health, SERVING)
            await publisher.run(channel, EVENTS)
            faulty.break_down()
            await assert_refused(hub, channel)
            await see(health, NOT_SERVING)
            assert (await get(hub, "/readyz"))[0] == 503
            await assert_readable(channel, publisher)
            health.cancel()
        assert hub.terminate() == 0, hub.text
    faulty.unmount()
    faulty.repair()
    faulty.mount()
    with running(faulty.folder) as hub:
        async with hub.channel() as channel:
            await assert_readable(channel, publisher)

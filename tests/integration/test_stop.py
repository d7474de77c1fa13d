"""How the hub stops: clients are told, and nothing that a client or a pipe does keeps it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.integration.client import Client, an_event, failing
from tests.integration.hubs import MEMORY, connect, running
from tests.support.servers import free_port

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_subscribers_are_told_and_from_where_to_resume(tmp_path: Path) -> None:
    with running(tmp_path, MEMORY) as hub:
        async with connect(hub) as client, client.subscribe() as subscriber:
            last = await client.publish(an_event())
            await subscriber.events(1)
            assert hub.terminate() == 0
            failure = await failing(subscriber.next())
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert failure.metadata == {"position": str(last.sequence)}


async def test_who_watches_health_does_not_keep_the_hub_from_stopping(tmp_path: Path) -> None:
    with running(tmp_path, {**MEMORY, "SWITCHBOARD_SHUTDOWN_SECONDS": "100"}) as hub:
        async with connect(hub) as client:
            stub = health_pb2_grpc.HealthStub(client.channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
            await watch.read()
            hub.process.terminate()
            assert (await watch.read()).status == NOT_SERVING
            assert await watch.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
        assert hub.terminate() == 0


@contextmanager
def unheard(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A hub whose output is read until it says where it is, and then no more; yields where."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    with subprocess.Popen(
        [sys.executable, "-m", "switchboard_server"],
        cwd=folder,
        env={**kept, **MEMORY, "PORT": "0", "GRPC_PORT": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            # The last line that a hub prints at its start.
            line = next(each for each in process.stdout if each.endswith("/Subscribe\n"))
            process.stdout.close()
            address = re.search(r"127\.0\.0\.1:\d+", line)
            assert address is not None
            yield process, address[0]
        finally:
            process.kill()


async def test_a_hub_whose_output_nobody_reads_any_more_stops_as_any_other(tmp_path: Path) -> None:
    with unheard(tmp_path) as (process, address):
        channel = grpc.aio.insecure_channel(address)
        async with Client(channel) as client, client.subscribe() as subscriber:
            process.terminate()
            assert (await failing(subscriber.next())).reason == "SHUTTING_DOWN"
        assert process.wait(30) == 0


@contextmanager
def without_room(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """A hub whose output goes to a full disk."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(
            [sys.executable, "-m", "switchboard_server"],
            cwd=folder,
            env={**kept, **MEMORY, "PORT": "0", "GRPC_PORT": str(port)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


async def test_a_hub_whose_output_has_no_room_serves_and_stops_as_any_other(tmp_path: Path) -> None:
    port = free_port()
    with without_room(tmp_path, port) as process:
        async with Client(grpc.aio.insecure_channel(f"127.0.0.1:{port}")) as client:
            stub = health_pb2_grpc.HealthStub(client.channel)
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=30, wait_for_ready=True)
            process.terminate()
        assert (process.wait(30), process.communicate()[1]) == (0, "")

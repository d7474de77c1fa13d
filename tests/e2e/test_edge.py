"""Envoy with the configuration of server/deploy puts several hubs behind one address."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import yaml
from websockets.asyncio.client import connect

from switchboard.v1 import event_pb2, event_service_pb2
from tests.e2e.envoy import envoy
from tests.e2e.load import PATIENCE, list_events, running, stub
from tests.support.hub import HubProcess
from tests.support.servers import LOOPBACK, free_port

CONFIG = Path(__file__).parents[2] / "server" / "deploy" / "envoy.yaml"
MEMORY = {"SWITCHBOARD_LOG": "memory"}


@contextmanager
def edge(folder: Path, hubs: Sequence[HubProcess]) -> Iterator[int]:
    """Envoy before hubs, and its port."""
    config = yaml.safe_load(CONFIG.read_text())["static_resources"]
    port = free_port()
    socket = {"address": LOOPBACK, "port_value": port}
    config["listeners"][0]["address"]["socket_address"] = socket
    for cluster in config["clusters"]:
        cluster["health_checks"][0]["interval"] = "0.1s"
        cluster["health_checks"][0]["no_traffic_interval"] = "0.1s"
        ports = [hub.grpc_port if cluster["name"] == "grpc" else hub.port for hub in hubs]
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {"address": LOOPBACK, "port_value": each}}}}
            for each in ports
        ]
    with envoy(folder, json.dumps({"static_resources": config})):
        yield port


async def publish(channel: grpc.aio.Channel, count: int) -> None:
    for number in range(count):
        event = event_pb2.Event(type="edge.event", source_service="edge", text=str(number))
        request = event_service_pb2.PublishRequest(event=event)
        await stub(channel).Publish(request, timeout=PATIENCE, wait_for_ready=True)


async def stored(hub: HubProcess) -> int:
    """How many events a hub holds."""
    async with hub.channel() as channel:
        return len(await list_events(channel))


async def test_calls_are_spread_over_the_hubs_and_leave_one_that_shuts_down(tmp_path: Path) -> None:
    with (
        running(tmp_path / "one", MEMORY) as one,
        running(tmp_path / "two", MEMORY) as two,
        edge(tmp_path, [one, two]) as port,
    ):
        async with grpc.aio.insecure_channel(f"{LOOPBACK}:{port}") as channel:
            published, held = 0, [0, 0]
            async with asyncio.timeout(PATIENCE):
                # Envoy finds both in health, though not at once where there is much to do.
                while min(held) == 0:
                    await publish(channel, 10)
                    published += 10
                    held = [await stored(hub) for hub in (one, two)]
            assert sum(held) == published
            one.process.terminate()
            assert one.process.wait(PATIENCE) == 0
            await publish(channel, 10)
            assert await stored(two) >= held[1] + 10


async def test_a_websocket_goes_through(tmp_path: Path) -> None:
    with running(tmp_path, MEMORY) as hub, edge(tmp_path, [hub]) as port:
        async with grpc.aio.insecure_channel(f"{LOOPBACK}:{port}") as channel:
            await publish(channel, 1)  # by when Envoy is there, and has found the hub in health
        async with connect(f"ws://{LOOPBACK}:{port}/ws/ann") as socket:
            await socket.send(json.dumps({"type": "join", "id": 1, "data": {"room": "general"}}))
            async with asyncio.timeout(PATIENCE):
                async for frame in socket:
                    if json.loads(frame)["type"] == "ack":
                        break

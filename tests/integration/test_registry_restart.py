"""What becomes of the registry when its hub dies, stops, or cannot write."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from switchboard.v1.service_instance_pb2 import (
    INSTANCE_STATUS_DRAINING,
    INSTANCE_STATUS_SERVING,
    HealthCheck,
    TcpProbe,
)
from tests.integration.backends import serving
from tests.integration.client import DEADLINE, Client, failing, failure_of
from tests.integration.hubs import connect, running
from tests.integration.registry_client import RegistryClient, an_instance

REGISTRY = "switchboard.v1.RegistryService"


async def test_instances_come_back_as_they_were_after_a_kill(tmp_path: Path) -> None:
    async with serving() as server:
        checked = HealthCheck(tcp=TcpProbe(), interval=Duration(seconds=1))
        with running(tmp_path) as hub:
            async with connect(hub) as client:
                registry = RegistryClient(client)
                await registry.register(an_instance("kept", lease_ttl={"seconds": 3}))
                await registry.kept("kept", "i1", load=4.0)
                async with registry.followed("checked") as watching:
                    await registry.register(
                        an_instance("checked", port=server.port, health_check=checked, zone="z")
                    )
                    await watching.until(lambda known: len(known) == 1)
                await registry.register(an_instance("drained"))
                told = await registry.set_status("drained", "i1", "DRAINING", "soon")
                await registry.register(an_instance("gone"))
                last = await registry.deregister("gone", "i1")
                hub.kill()
        with running(tmp_path) as hub:
            async with connect(hub) as client:
                registry = RegistryClient(client)
                (kept,) = (await registry.discover("kept")).instances
                # Traffic goes on, before anybody has said that it still lives.
                assert (kept.status, kept.unconfirmed) == (INSTANCE_STATUS_SERVING, True)
                assert not kept.HasField("load")
                (found,) = (await registry.discover("checked")).instances
                assert (found.zone, found.port) == ("z", server.port)
                page = await registry.list_services(name_prefix="drained", include_instances=True)
                (drained,) = page.services[0].instances
                assert drained.status == INSTANCE_STATUS_DRAINING
                assert drained.status_reason == "soon"
                assert drained.status_time == told.status_time
                assert drained.revision == told.revision
                assert await registry.status("gone", "i1") == "GONE"
                async with registry.watching("kept", after_revision=last) as watching:
                    words = ["compacted", "snapshot_begin", None, "snapshot_end"]
                    assert await watching.words(4) == words
                    assert watching.revision > last
                    # Nobody keeps it alive any more, so its lease runs out.
                    await watching.until(lambda known: not known)
                async with asyncio.timeout(DEADLINE):
                    while (await registry.discover("checked")).instances[0].unconfirmed:
                        pass


async def test_an_orderly_restart_goes_on_at_the_same_revision(tmp_path: Path) -> None:
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            registry = RegistryClient(client)
            revision = (await registry.register(an_instance("calm"))).instance.revision
            held = await registry.kept("calm", "i1")
            async with registry.followed("calm") as watching:
                hub.process.terminate()
                for call in (held, watching.call):
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await call.read()
                    failure = failure_of(caught.value)
                    assert failure.code is grpc.StatusCode.UNAVAILABLE
                    assert failure.reason == "SHUTTING_DOWN"
            assert hub.terminate() == 0
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            registry = RegistryClient(client)
            assert await registry.discovered("calm") == ["i1"]
            async with registry.watching("calm", after_revision=revision) as watching:
                assert await watching.words(1) == ["resumed"]
                await registry.kept("calm", "i1")
                assert not (await registry.discover("calm")).instances[0].unconfirmed


async def health(client: Client) -> int:
    request = health_pb2.HealthCheckRequest(service=REGISTRY)
    return int(
        (await health_pb2_grpc.HealthStub(client.channel).Check(request, timeout=DEADLINE)).status
    )


async def test_a_registry_that_cannot_be_written_says_so_and_heals(tmp_path: Path) -> None:
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            registry = RegistryClient(client)
            await registry.register(an_instance("before"))
            with closing(sqlite3.connect(tmp_path / "registry.db")) as db, db:
                db.execute("ALTER TABLE instances RENAME TO elsewhere")
            failure = await failing(registry.register(an_instance("during")))
            assert (failure.code, failure.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "REGISTRY_UNAVAILABLE",
            )
            assert await health(client) == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await registry.discovered("before") == ["i1"]
            stub = health_pb2_grpc.HealthStub(client.channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=REGISTRY), timeout=DEADLINE)
            with closing(sqlite3.connect(tmp_path / "registry.db")) as db, db:
                db.execute("ALTER TABLE elsewhere RENAME TO instances")
            while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
                pass
            watch.cancel()
            await registry.register(an_instance("during"))
            hub.kill()
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            assert await RegistryClient(client).discovered("during") == ["i1"]

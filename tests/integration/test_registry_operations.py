"""What the registry does besides: events, permissions, self-preservation, metrics, limits."""

import asyncio
import re
import urllib.request
from pathlib import Path

import grpc
import pytest

from switchboard.v1.event_pb2 import Event, Filter
from switchboard.v1.subscription_pb2 import START_AT_EARLIEST
from tests.integration.client import failing, failure_of, numbered
from tests.integration.credentials import SECRET, token
from tests.integration.group_client import Groups
from tests.integration.hubs import MEMORY, connect, running
from tests.integration.registry_client import RegistryClient, an_instance
from tests.support.hub import HubProcess


async def metrics(hub: HubProcess) -> dict[str, float]:
    """The hub's metrics, by name with labels."""
    url = f"http://127.0.0.1:{hub.port}/metrics"
    text = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()
    found = re.findall(r"^(switchboard_\S+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


async def test_every_change_is_an_event_that_can_be_filtered(tmp_path: Path) -> None:
    with running(tmp_path, MEMORY) as hub:
        async with connect(hub) as client:
            registry = RegistryClient(client)
            wish = Filter(
                types=["system_event"],
                source_services=["switchboard"],
                attributes={"service_name": "users"},
            )
            await registry.register(an_instance("users", version="1.2.3"))
            await registry.register(an_instance("others"))
            await registry.set_status("users", "i1", "DRAINING", "deploy")
            revision = await registry.deregister("users", "i1")
            async with client.subscribe(filter=wish, start_at=START_AT_EARLIEST) as subscriber:
                seen: list[Event] = []
                while len(seen) < 3:
                    response = await subscriber.next()
                    seen += [delivery.event for delivery in response.deliveries]
            assert [event.attributes["event"] for event in seen] == [
                "registry.instance.registered",
                "registry.instance.changed",
                "registry.instance.removed",
            ]
            first, second, third = (dict(event.data) for event in seen)
            assert (first["version"], first["status"]) == ("1.2.3", "serving")
            assert (second["status"], second["previous_status"]) == ("draining", "serving")
            assert second["status_reason"] == "deploy"
            assert (third["removal_cause"], third["revision"]) == ("deregistered", revision)
            assert seen[2].id == f"registry-{revision}"


async def test_scopes_name_services(tmp_path: Path) -> None:
    settings = {**MEMORY, "JWT_SECRET_KEY": SECRET}
    everything = ["services.register", "services.unregister", "services.view"]
    with running(tmp_path, settings) as hub:
        scoped = token(*(f"{each}:a.*" for each in everything), subject="team-a")
        full = token(*everything, subject="admin")
        async with connect(hub, full) as admin_client, connect(hub, scoped) as client:
            admin, registry = RegistryClient(admin_client), RegistryClient(client)
            assert (await admin.register(an_instance("b.x"))).instance.registrant == "admin"
            assert (await registry.register(an_instance("a.x"))).instance.registrant == "team-a"

            async def kept_outside() -> None:
                await registry.kept("b.x", "i1")

            async def watched_outside(*services: str) -> None:
                async with registry.watching(*services) as watching:
                    await watching.next()

            for call in (
                registry.register(an_instance("b.y")),
                registry.deregister("b.x", "i1"),
                registry.discover("b.x"),
                registry.set_status("b.x", "i1", "DRAINING"),
                kept_outside(),
                watched_outside("a.x", "b.x"),
                watched_outside(),
            ):
                failure = await failing(call)
                assert (failure.code, failure.reason) == (
                    grpc.StatusCode.PERMISSION_DENIED,
                    "PERMISSION_DENIED",
                )
            async with registry.followed("a.*") as watching:
                assert list(watching.known) == ["a.x/i1"]
            listed = await registry.list_services()
            assert [each.service_name for each in listed.services] == ["a.x"]
            assert len((await admin.list_services()).services) == 2


async def test_a_lease_outlives_the_token_of_its_stream(tmp_path: Path) -> None:
    settings = {**MEMORY, "JWT_SECRET_KEY": SECRET}
    with running(tmp_path, settings) as hub:
        full = token("services.register", "services.view")
        async with connect(hub, full) as admin_client:
            admin = RegistryClient(admin_client)
            await admin.register(an_instance("brief"))
            async with connect(hub, token("services.register", seconds=2)) as client:
                call = await RegistryClient(client).kept("brief", "i1")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
                assert failure_of(caught.value).reason == "TOKEN_EXPIRED"
            (found,) = (await admin.discover("brief")).instances
            assert found.HasField("lease_expire_time")


async def test_when_many_run_out_at_once_none_is_removed_and_everybody_is_told(
    tmp_path: Path,
) -> None:
    with running(tmp_path, MEMORY) as hub:
        async with connect(hub) as client:
            registry = RegistryClient(client)
            instances = [
                an_instance("many", number, lease_ttl={"seconds": 1}) for number in range(12)
            ]
            for each in instances:
                await registry.register(each)
            while True:
                told = (await registry.list_services()).self_preservation
                # The first may go: one of twelve is not too many.
                if told.active and told.withheld == told.registered:
                    break
            assert told.registered >= 11
            assert told.since.seconds > 0
            found = (await registry.discover("many", max_instances=1000)).instances
            assert [each.unconfirmed for each in found] == [True] * told.registered
            numbers = await metrics(hub)
            assert numbers["switchboard_registry_self_preservation"] == 1
            assert numbers["switchboard_registry_withheld"] == told.registered
            for each in instances:
                each.lease_ttl.seconds = 60
                await registry.register(each)
            told = (await registry.list_services()).self_preservation
            assert (told.active, told.withheld) == (False, 0)
            assert not any(
                each.unconfirmed
                for each in (await registry.discover("many", max_instances=1000)).instances
            )


async def test_metrics_tell_of_instances_leases_watchers_and_checks(tmp_path: Path) -> None:
    with running(tmp_path, MEMORY) as hub:
        async with connect(hub) as client:
            registry = RegistryClient(client)
            async with registry.followed("seen", all_statuses=True) as watching:
                await registry.register(an_instance("seen", 1))
                await registry.register(
                    an_instance(
                        "seen", 2, health_check={"tcp": {"address": f"127.0.0.1:{hub.port}"}}
                    )
                )
                await watching.until(
                    lambda known: sorted(each.status for each in known.values()) == [2, 2]
                )
                await registry.kept("seen", "i1")
                await registry.register(an_instance("seen", 3))
                await registry.deregister("seen", "i3")
                numbers = await metrics(hub)
            assert numbers['switchboard_registry_instances{status="serving"}'] == 2
            assert numbers['switchboard_registry_removed_total{cause="deregistered"}'] == 1
            assert numbers["switchboard_registry_leases_held"] == 1
            assert numbers["switchboard_registry_watchers"] == 1
            assert numbers["switchboard_registry_services"] == 1
            checks = 'switchboard_health_check_duration_seconds_count{kind="tcp",result="passed"}'
            assert numbers[checks] >= 1
            assert numbers["switchboard_registry_propagation_seconds_count"] >= 2


async def test_instances_and_watchers_are_limited(tmp_path: Path) -> None:
    settings = {**MEMORY, "SWITCHBOARD_MAX_INSTANCES": "1", "SWITCHBOARD_MAX_WATCHERS": "1"}
    with running(tmp_path, settings) as hub:
        async with connect(hub) as client:
            registry = RegistryClient(client)
            await registry.register(an_instance("a"))
            failure = await failing(registry.register(an_instance("a", 2)))
            assert (failure.code, failure.reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "LIMIT_REACHED",
            )
            assert failure.metadata == {"limit": "1", "setting": "SWITCHBOARD_MAX_INSTANCES"}
            await registry.register(an_instance("a"))

            async def watched() -> None:
                async with registry.watching() as watching:
                    await watching.next()

            async with registry.followed():
                failure = await failing(watched())
                assert failure.metadata == {"limit": "1", "setting": "SWITCHBOARD_MAX_WATCHERS"}


async def test_an_instance_that_drains_gets_nothing_new_from_its_group(tmp_path: Path) -> None:
    with running(tmp_path, MEMORY) as hub:
        async with connect(hub) as client:
            registry, groups = RegistryClient(client), Groups(client)
            for number in (1, 2):
                await registry.register(an_instance("workers", number))
            one = groups.join("pack", "job", instance="workers/i1")
            two = groups.join("pack", "job", instance="workers/i2")
            async with one, two:
                await registry.set_status("workers", "i1", "DRAINING")
                await client.publish_batch(numbered("job", 10))
                got = await two.deliveries(10)
                assert [each.event.text for each in got] == list(map(str, range(10)))
                await groups.acknowledge("pack", got)
                await registry.set_status("workers", "i1", "SERVING")
                await registry.set_status("workers", "i2", "DRAINING")
                await client.publish_batch(numbered("job", 10))
                assert len(await one.deliveries(10)) == 10

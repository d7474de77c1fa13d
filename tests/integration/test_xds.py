"""Real gRPC clients dial xds:///, and follow what the registry says."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import discovery_pb2

from switchboard_server.rpc.xds import PATH
from switchboard_server.rpc.xds_resources import CLUSTER, ENDPOINTS, LISTENER, ROUTE
from tests.integration.client import Client, failing
from tests.integration.credentials import SECRET, run_command, token
from tests.integration.hubs import MEMORY, connect, running
from tests.integration.registry_client import RegistryClient, an_instance
from tests.integration.test_registry_operations import metrics
from tests.integration.xds import CALLS, XDS, Caller, answering
from tests.support.hub import HubProcess


async def test_a_stock_client_is_balanced_by_weight_and_follows_every_change(
    tmp_path: Path,
) -> None:
    with running(tmp_path, XDS) as hub:
        async with connect(hub) as client, answering("one") as one, answering("two") as two:
            registry = RegistryClient(client)
            for number, port, weight in ((1, one, 1), (2, two, 3)):
                await registry.register(
                    an_instance("who", number, port=port, weight=weight, lease_ttl={"seconds": 60})
                )
            with Caller(hub, "who") as caller:
                await caller.until(lambda answers: answers.keys() == {"one", "two"})
                answers = await caller.call(200)
                assert answers.keys() == {"one", "two"}
                assert 120 <= answers["two"] <= 180
                await registry.set_status("who", "i2", "DRAINING")
                assert await caller.until(lambda answers: answers == {"one": CALLS}) < 1
                await registry.set_status("who", "i2", "SERVING")
                await caller.until(lambda answers: "two" in answers)
                held = await registry.kept("who", "i1")
                held.cancel()
                assert await caller.until(lambda answers: answers == {"two": CALLS}) < 1.5
                # While the hub is away the client goes on, and after it is back it follows again.
                port = hub.grpc_port
                hub.kill()
                assert await caller.call(20) == {"two": 20}
                with running(tmp_path, {**XDS, "GRPC_PORT": str(port)}) as again:
                    assert await caller.call(20) == {"two": 20}
                    async with connect(again) as other:
                        await RegistryClient(other).register(an_instance("who", 1, port=one))
                        await caller.until(lambda answers: "one" in answers)


async def test_a_service_that_is_not_there_fails_at_once_and_is_found_when_it_comes(
    tmp_path: Path,
) -> None:
    with running(tmp_path, {**XDS, **MEMORY}) as hub:
        async with connect(hub) as client, answering("late") as port:
            with Caller(hub, "late") as caller:
                async with asyncio.timeout(10):
                    assert await caller.call(2) == {"UNAVAILABLE": 2}
                await RegistryClient(client).register(
                    an_instance("late", host="localhost", port=port)
                )
                await caller.until(lambda answers: answers == {"late": CALLS})


class Ads:
    """A stream of discovery, asked by hand."""

    def __init__(self, client: Client) -> None:
        call: grpc.aio.StreamStreamMultiCallable[Any, Any] = client.channel.stream_stream(
            PATH,
            request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
        )
        self.call = call(**client.options)
        self.nonces: dict[str, str] = {}

    async def ask(self, kind: str, *names: str, **fields: Any) -> None:
        """Subscribes, or accepts the last response."""
        fields.setdefault("response_nonce", self.nonces.get(kind, ""))
        await self.call.write(
            discovery_pb2.DiscoveryRequest(type_url=kind, resource_names=names, **fields)
        )

    async def next(self) -> Any:
        response: Any = await self.call.read()
        self.nonces[response.type_url] = response.nonce
        return response


def assignments(response: Any) -> dict[str, list[tuple[int, int]]]:
    """Port and health of the endpoints by service."""
    found = {}
    for packed in response.resources:
        made = endpoint_pb2.ClusterLoadAssignment()
        assert packed.Unpack(made)
        found[made.cluster_name] = [
            (each.endpoint.address.socket_address.port_value, each.health_status)
            for group in made.endpoints
            for each in group.lb_endpoints
        ]
    return found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with running(tmp_path_factory.mktemp("hub"), {**XDS, **MEMORY}) as hub:
        yield hub


async def test_every_name_is_answered_and_only_what_changes_is_sent_again(client: Client) -> None:
    registry, ads = RegistryClient(client), Ads(client)
    await registry.register(an_instance("ads.a", 1))
    for kind in (LISTENER, ROUTE, CLUSTER):
        await ads.ask(kind, "ads.a", "ads.no")
        assert len((await ads.next()).resources) == 2
        await ads.ask(kind, "ads.a", "ads.no")
    await ads.ask(ENDPOINTS, "ads.a", "ads.no")
    assert assignments(await ads.next()) == {"ads.a": [(20_001, 1)], "ads.no": []}
    await ads.ask(ENDPOINTS, "ads.a", "ads.no")
    await registry.register(an_instance("elsewhere", 1))
    await registry.register(an_instance("ads.no", 2))
    assert assignments(await ads.next()) == {"ads.no": [(20_002, 1)]}
    await ads.ask(ENDPOINTS, "ads.no")
    assert assignments(await ads.next()) == {"ads.no": [(20_002, 1)]}
    await ads.ask(ENDPOINTS, "ads.no")
    await registry.set_status("ads.a", "i1", "DRAINING")
    await registry.set_status("ads.no", "i2", "DRAINING")
    assert assignments(await ads.next()) == {"ads.no": [(20_002, 3)]}
    await ads.call.done_writing()
    assert await ads.call.code() is grpc.StatusCode.OK


async def test_an_address_that_is_there_twice_is_told_once(client: Client) -> None:
    registry, ads = RegistryClient(client), Ads(client)
    await registry.register(an_instance("twice", 1, port=7))
    await registry.register(an_instance("twice", 2, port=7))
    await registry.set_status("twice", "i1", "NOT_SERVING")
    await ads.ask(ENDPOINTS, "twice")
    assert assignments(await ads.next()) == {"twice": [(7, 1)]}


async def test_a_refusal_is_counted_and_not_repeated(hub: HubProcess, client: Client) -> None:
    ads = Ads(client)
    await ads.ask(CLUSTER, "refused")
    await ads.next()
    await ads.ask(CLUSTER, "refused", response_nonce="of another stream")
    await ads.ask("type.googleapis.com/no.such.Type", "refused")
    await ads.ask(CLUSTER, "refused", error_detail={"code": 3, "message": "I do not like it"})
    await ads.ask(CLUSTER, "refused", "more")
    assert len((await ads.next()).resources) == 2
    numbers = await metrics(hub)
    assert numbers['switchboard_xds_nack_total{type="Cluster"}'] == 1
    # The hub may still have to notice that the streams of other tests are gone.
    async with asyncio.timeout(30):
        while (await metrics(hub))["switchboard_xds_streams"] != 1:
            pass
    assert "I do not like it" in hub.text


async def test_who_asks_for_all_clusters_is_told_of_new_ones_and_of_no_listeners(
    client: Client,
) -> None:
    registry, ads = RegistryClient(client), Ads(client)
    await ads.ask(LISTENER)
    assert not (await ads.next()).resources
    await ads.ask(CLUSTER)
    before = len((await ads.next()).resources)
    await ads.ask(CLUSTER)
    await registry.register(an_instance("brand.new", 1))
    assert len((await ads.next()).resources) == before + 1
    await ads.ask(CLUSTER)
    await registry.register(an_instance("brand.new", 2))
    await registry.deregister("brand.new", "i1")
    await registry.deregister("brand.new", "i2")
    assert len((await ads.next()).resources) == before


async def test_streams_end_when_the_hub_stops(tmp_path: Path) -> None:
    with running(tmp_path, {**XDS, **MEMORY}) as hub:
        async with connect(hub) as client:
            ads = Ads(client)
            await ads.ask(CLUSTER, "a")
            await ads.next()
            hub.process.terminate()
            assert (await failing(ads.call.read())).reason == "SHUTTING_DOWN"
        assert hub.terminate() == 0


async def test_a_token_is_asked_for_and_its_scope_held(tmp_path: Path) -> None:
    settings = {**XDS, **MEMORY, "JWT_SECRET_KEY": SECRET}
    with running(tmp_path, settings) as hub:
        admin = token("services.register")
        async with connect(hub, admin) as client, answering("seen") as port:
            for service in ("a.seen", "b.hidden"):
                await RegistryClient(client).register(an_instance(service, port=port))
            ads = Ads(client)
            await ads.ask(ENDPOINTS, "a.seen")
            assert (await failing(ads.call.read())).reason == "PERMISSION_DENIED"
            scoped = token("services.view:a.*")
            with Caller(hub, "a.seen", "--token", scoped) as caller:
                assert json.loads(caller.printed)["node"]["metadata"] == {"token": scoped}
                await caller.until(lambda answers: answers == {"seen": CALLS})
        async with connect(hub) as client:
            ads = Ads(client)
            await ads.ask(ENDPOINTS, "a.seen")
            assert (await failing(ads.call.read())).reason == "TOKEN_MISSING"
        async with connect(hub, scoped) as client:
            ads = Ads(client)
            await ads.ask(ENDPOINTS, "a.seen", "b.hidden")
            assert list(assignments(await ads.next())) == ["a.seen"]
        async with connect(hub, token("services.view", seconds=2)) as client:
            ads = Ads(client)
            await ads.ask(ENDPOINTS, "a.seen")
            await ads.next()
            assert (await failing(ads.call.read())).reason == "TOKEN_EXPIRED"


def test_the_bootstrap_is_that_of_the_settings(tmp_path: Path) -> None:
    done = run_command(tmp_path, "xds-bootstrap", settings={"HOST": "::1", "GRPC_PORT": "7"})
    made = json.loads(done.stdout)
    assert made["xds_servers"][0]["server_uri"] == "[::1]:7"
    assert made["xds_servers"][0]["channel_creds"] == [{"type": "insecure"}]
    assert made["node"] == {"id": "switchboard-client", "locality": {"zone": ""}}
    assert made["authorities"] == {}

"""The hub tries instances: HTTP, gRPC and TCP, against servers that go bad and come back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from switchboard.v1.service_instance_pb2 import (
    INSTANCE_STATUS_NOT_SERVING,
    INSTANCE_STATUS_SERVING,
    INSTANCE_STATUS_UNHEALTHY,
    GrpcProbe,
    HealthCheck,
    HttpProbe,
    InstanceStatus,
    ServiceInstance,
    TcpProbe,
)
from switchboard.v1.watch_pb2 import INSTANCE_CHANGE_KIND_REMOVE, REMOVAL_CAUSE_UNHEALTHY
from tests.integration.backends import OK, TcpServer, serving, serving_health
from tests.integration.client import failing
from tests.integration.hubs import MEMORY, connect, running
from tests.integration.registry_client import RegistryClient, Watching, an_instance
from tests.support.hub import HubProcess

_numbers = count(1)
UNHEALTHY, SERVING = INSTANCE_STATUS_UNHEALTHY, INSTANCE_STATUS_SERVING


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    settings = {**MEMORY, "SERVICE_REGISTRY_TIMEOUT": "2"}
    with running(tmp_path_factory.mktemp("hub"), settings) as hub:
        yield hub


@pytest.fixture
async def registry(hub: HubProcess) -> AsyncIterator[RegistryClient]:
    async with connect(hub) as client:
        yield RegistryClient(client)


@pytest.fixture
def service() -> str:
    return f"checked{next(_numbers)}"


def check(**probe: object) -> HealthCheck:
    """A check that finds things out soon."""
    return HealthCheck(
        **probe,  # type: ignore[arg-type]
        interval=Duration(seconds=1),
        timeout=Duration(nanos=300_000_000),
        unhealthy_threshold=1,
    )


async def turned(watching: Watching, status: "InstanceStatus.ValueType") -> ServiceInstance:
    """Waits until the one instance has a status."""
    await watching.until(lambda known: [each.status for each in known.values()] == [status])
    (instance,) = watching.known.values()
    return instance


async def test_http_passes_with_2xx_alone(registry: RegistryClient, service: str) -> None:
    async with (
        serving(b"HTTP/1.1 503 Busy\r\n\r\n") as server,
        registry.followed(service, all_statuses=True) as watching,
    ):
        await registry.register(
            an_instance(service, port=server.port, health_check=check(http=HttpProbe()))
        )
        bad = await turned(watching, UNHEALTHY)
        assert bad.status_reason.startswith("HTTP 503 in ")
        failure = await failing(registry.discover(service))
        assert failure.metadata["unhealthy"] == "1"
        assert failure.metadata["cause"].startswith("HTTP 503")
        server.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        assert (await turned(watching, SERVING)).status_reason.startswith("HTTP 204 in ")
        assert await registry.discovered(service) == ["i1"]
        assert server.requests[0].startswith(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "no answer within 0.3 s"),
        (b"", "the connection was closed without an answer"),
        (b"SSH-2.0-OpenSSH\r\n", "the answer is no HTTP"),
        (b"x" * 100_000, "the answer is no HTTP"),
        (b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n", "HTTP 302"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 5000, "the answer is no HTTP"),
    ],
)
async def test_an_http_server_that_misbehaves_has_failed_and_may_come_back(
    registry: RegistryClient, service: str, answer: bytes | None, reason: str
) -> None:
    async with serving(answer) as server, registry.followed(service, all_statuses=True) as watching:
        await registry.register(
            an_instance(
                service, port=server.port, health_check=check(http=HttpProbe(url="/up?a=b"))
            )
        )
        assert reason in (await turned(watching, UNHEALTHY)).status_reason
        server.answer = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK
        await turned(watching, SERVING)
        # Nobody followed the redirect.
        assert all(each.startswith(b"GET /up?a=b HTTP/1.1\r\n") for each in server.requests)


async def test_a_url_may_name_another_host_and_names_are_resolved(
    registry: RegistryClient, service: str
) -> None:
    async with serving() as server:
        url = f"http://localhost:{server.port}/live"
        probe = check(http=HttpProbe(url=url))
        async with registry.followed(service) as watching:
            await registry.register(an_instance(service, host="192.0.2.1", health_check=probe))
            await turned(watching, SERVING)
        assert server.requests[0].startswith(b"GET /live HTTP/1.1\r\nHost: localhost:")


async def test_grpc_health_is_asked_for_the_service_that_is_named(
    registry: RegistryClient, service: str
) -> None:
    async with (
        serving_health() as server,
        registry.followed(service, all_statuses=True) as watching,
    ):
        await server.says("users.v1.Users", "SERVING")
        probe = check(grpc=GrpcProbe(service="users.v1.Users"))
        await registry.register(an_instance(service, port=server.port, health_check=probe))
        assert (await turned(watching, SERVING)).status_reason.startswith("gRPC SERVING in ")
        await server.says("users.v1.Users", "NOT_SERVING")
        await turned(watching, INSTANCE_STATUS_NOT_SERVING)
        await server.says("users.v1.Users", "SERVING")
        await turned(watching, SERVING)
        await server.says("users.v1.Users", "SERVICE_UNKNOWN")
        assert "is status 3" in (await turned(watching, UNHEALTHY)).status_reason


async def test_a_grpc_server_that_lacks_the_service_has_failed(
    registry: RegistryClient, service: str
) -> None:
    async with (
        serving_health() as server,
        registry.followed(service, all_statuses=True) as watching,
    ):
        probe = check(grpc=GrpcProbe(service="no.such.Service"))
        await registry.register(an_instance(service, port=server.port, health_check=probe))
        assert "gRPC NOT_FOUND" in (await turned(watching, UNHEALTHY)).status_reason


async def test_tcp_passes_when_a_connection_is_accepted(
    registry: RegistryClient, service: str
) -> None:
    async with serving() as server:
        probe = check(tcp=TcpProbe(address=f"127.0.0.1:{server.port}"))
        async with registry.followed(service, all_statuses=True) as watching:
            await registry.register(an_instance(service, health_check=probe))
            assert (await turned(watching, SERVING)).status_reason.startswith("TCP accepted in ")
            await server.stop()
            bad = await turned(watching, UNHEALTHY)
            assert f"127.0.0.1:{server.port}: " in bad.status_reason
            await server.start()
            await turned(watching, SERVING)


async def test_what_stays_unhealthy_is_removed_and_a_deliberate_not_serving_is_not(
    registry: RegistryClient, service: str
) -> None:
    server = TcpServer()
    await server.start()
    probe = check(tcp=TcpProbe())
    async with registry.followed(service, all_statuses=True) as watching:
        for number in (1, 2):
            await registry.register(
                an_instance(service, number, port=server.port, health_check=probe)
            )
        await watching.until(
            lambda known: [each.status for each in known.values()] == [SERVING, SERVING]
        )
        await registry.set_status(service, "i2", "NOT_SERVING", "maintenance")
        await server.stop()
        while True:
            response = await watching.next()
            gone = [each for each in response.changes if each.kind == INSTANCE_CHANGE_KIND_REMOVE]
            if gone:
                break
        (change,) = gone
        assert change.instance.instance_id == "i1"
        assert change.removal_cause == REMOVAL_CAUSE_UNHEALTHY
        assert change.instance.status == UNHEALTHY
        (left,) = watching.known.values()
        assert (left.instance_id, left.status) == ("i2", INSTANCE_STATUS_NOT_SERVING)
        assert left.status_reason == "maintenance"


async def test_an_unhealthy_instance_yields_its_id_to_another_address(
    registry: RegistryClient, service: str
) -> None:
    async with serving() as server, registry.followed(service, all_statuses=True) as watching:
        free = TcpServer()
        await free.start()
        await free.stop()
        probe = check(tcp=TcpProbe())
        await registry.register(an_instance(service, port=free.port, health_check=probe))
        await turned(watching, UNHEALTHY)
        answer = await registry.register(an_instance(service, port=server.port, health_check=probe))
        assert not answer.created
        assert (await turned(watching, SERVING)).port == server.port


@pytest.mark.parametrize(
    ("probe", "address"),
    [
        ({"http": HttpProbe(url="http://169.254.169.254/latest/meta-data")}, "169.254.169.254:80"),
        ({"http": HttpProbe(url="http://8.8.8.8/")}, "8.8.8.8:80"),
        ({"tcp": TcpProbe(address="[::ffff:169.254.169.254]:80")}, "[::ffff:169.254.169.254]:80"),
        ({"grpc": GrpcProbe(address="[fd00:ec2::254]:80")}, "[fd00:ec2::254]:80"),
        ({"tcp": TcpProbe(address="0.0.0.0:22")}, "0.0.0.0:22"),
    ],
)
async def test_addresses_that_the_hub_may_not_call_are_refused(
    registry: RegistryClient, service: str, probe: dict[str, object], address: str
) -> None:
    failure = await failing(
        registry.register(an_instance(service, health_check=HealthCheck(**probe)))  # type: ignore[arg-type]
    )
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "ADDRESS_NOT_ALLOWED",
    )
    assert failure.metadata == {"address": address, "setting": "HEALTH_CHECK_ALLOWED_NETWORKS"}
    assert await registry.status(service, "i1") == "GONE"


async def test_a_name_that_is_resolved_to_a_forbidden_address_is_refused(
    tmp_path_factory: pytest.TempPathFactory, service: str
) -> None:
    settings = {**MEMORY, "HEALTH_CHECK_ALLOWED_NETWORKS": "10.0.0.0/8"}
    with running(tmp_path_factory.mktemp("strict"), settings) as hub:
        async with connect(hub) as client:
            registry = RegistryClient(client)
            probe = check(tcp=TcpProbe(address="localhost:1"))
            failure = await failing(registry.register(an_instance(service, health_check=probe)))
            assert failure.reason == "ADDRESS_NOT_ALLOWED"
            # Without a check nobody is called, so any address is taken.
            await registry.register(an_instance(service))


async def test_checks_take_turns(tmp_path_factory: pytest.TempPathFactory, service: str) -> None:
    settings = {**MEMORY, "SWITCHBOARD_MAX_HEALTH_CHECKS": "2"}
    with running(tmp_path_factory.mktemp("narrow"), settings) as hub:
        async with connect(hub) as client, serving() as server:
            registry = RegistryClient(client)
            async with registry.followed(service) as watching:
                probe = check(http=HttpProbe())
                await asyncio.gather(
                    *(
                        registry.register(
                            an_instance(service, number, port=server.port, health_check=probe)
                        )
                        for number in range(50)
                    )
                )
                await watching.until(lambda known: len(known) == 50)

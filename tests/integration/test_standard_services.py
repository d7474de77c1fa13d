"""Health, reflection and channelz, as the tools of others expect them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from switchboard.v1 import event_service_pb2
from tests.integration.client import DEADLINE, Client, an_event, failing
from tests.integration.hubs import MEMORY, connect, running

EVENTS = "switchboard.v1.EventService"
GROUPS = "switchboard.v1.GroupService"
REALTIME = "switchboard.v1.RealtimeService"
REGISTRY = "switchboard.v1.RegistryService"
SERVING = health_pb2.HealthCheckResponse.SERVING
PROCESS = "grpc.health.v1.Health"
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
CHANNELZ = "grpc.channelz.v1.Channelz"
REFLECTION = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


def health(client: Client) -> "health_pb2_grpc.HealthStub":
    return health_pb2_grpc.HealthStub(client.channel)


def asking(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.mark.parametrize("service", ["", EVENTS, REALTIME, REGISTRY, PROCESS])
async def test_the_hub_and_its_service_serve(client: Client, service: str) -> None:
    answer = await health(client).Check(asking(service), timeout=DEADLINE)
    assert answer.status == SERVING


@pytest.mark.parametrize("service", ["switchboard.v1.OtherService", "no.such.Service", "*"])
async def test_the_health_of_what_is_not_served_is_not_found(client: Client, service: str) -> None:
    failure = await failing(health(client).Check(asking(service), timeout=DEADLINE))
    assert failure.code is grpc.StatusCode.NOT_FOUND


async def test_health_lists_what_is_served(client: Client) -> None:
    answer = await health(client).List(health_pb2.HealthListRequest(), timeout=DEADLINE)
    assert {name: each.status for name, each in answer.statuses.items()} == {
        "": SERVING,
        PROCESS: SERVING,
        EVENTS: SERVING,
        GROUPS: SERVING,
        REALTIME: SERVING,
        REGISTRY: SERVING,
    }


async def test_who_watches_health_is_told_when_the_hub_stops(tmp_path: Path) -> None:
    with running(tmp_path, MEMORY) as hub:
        async with connect(hub) as client:
            watches = [
                health(client).Watch(asking(service), timeout=DEADLINE)
                for service in ("", EVENTS, PROCESS)
            ]
            unknown = health(client).Watch(asking("no.such.Service"), timeout=DEADLINE)
            assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            assert [(await watch.read()).status for watch in watches] == [SERVING] * 3
            hub.process.terminate()
            assert [(await watch.read()).status for watch in watches] == [NOT_SERVING] * 3
            for watch in (*watches, unknown):
                watch.cancel()
        assert hub.terminate() == 0


class Reflection:
    """One stream of questions about what the hub serves."""

    def __init__(self, call: grpc.aio.StreamStreamCall) -> None:  # type: ignore[type-arg]
        self.call = call

    async def ask(self, **question: Any) -> ServerReflectionResponse:
        await self.call.write(ServerReflectionRequest(**question))
        response = await self.call.read()
        assert isinstance(response, ServerReflectionResponse)
        return response

    async def services(self) -> set[str]:
        response = await self.ask(list_services="*")
        return {each.name for each in response.list_services_response.service}

    async def files(self, **question: str) -> list[descriptor_pb2.FileDescriptorProto]:
        response = await self.ask(**question)
        return [
            descriptor_pb2.FileDescriptorProto.FromString(each)
            for each in response.file_descriptor_response.file_descriptor_proto
        ]


def reflecting(client: Client, version: str) -> Reflection:
    # The two versions differ by their name only.
    return Reflection(
        client.channel.stream_stream(
            f"/{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=ServerReflectionRequest.SerializeToString,
            response_deserializer=ServerReflectionResponse.FromString,
        )(timeout=DEADLINE)
    )


@pytest.fixture(params=REFLECTION)
async def reflection(client: Client, request: pytest.FixtureRequest) -> AsyncIterator[Reflection]:
    reflection = reflecting(client, request.param)
    yield reflection
    reflection.call.cancel()


async def test_reflection_lists_what_is_served(reflection: Reflection) -> None:
    assert await reflection.services() == {
        EVENTS,
        GROUPS,
        REALTIME,
        REGISTRY,
        "grpc.health.v1.Health",
        *(f"{version}.ServerReflection" for version in REFLECTION),
    }


async def test_reflection_describes_every_service_with_all_that_it_needs(
    reflection: Reflection,
) -> None:
    pool, wanted = descriptor_pool.DescriptorPool(), {}
    for service in await reflection.services():
        for file in await reflection.files(file_containing_symbol=service):
            wanted[file.name] = file
    missing = {name for file in wanted.values() for name in file.dependency} - wanted.keys()
    while missing:
        for file in await reflection.files(file_by_filename=missing.pop()):
            wanted[file.name] = file
            missing |= set(file.dependency) - wanted.keys()

    def add(name: str) -> None:
        if file := wanted.pop(name, None):
            for dependency in file.dependency:
                add(dependency)
            pool.Add(file)

    for name in list(wanted):
        add(name)
    described = pool.FindServiceByName(EVENTS)
    ours = event_service_pb2.DESCRIPTOR.services_by_name["EventService"]
    for method in ours.methods:
        theirs = described.methods_by_name[method.name]
        assert theirs.input_type.full_name == method.input_type.full_name
        # The permission, which the option of the method says, is told as well.
        assert theirs.GetOptions().SerializeToString() == method.GetOptions().SerializeToString()
        assert theirs.GetOptions().ByteSize()


async def test_reflection_finds_messages_and_does_not_find_what_is_not_there(
    reflection: Reflection,
) -> None:
    files = await reflection.files(file_containing_symbol="switchboard.v1.Event")
    assert "switchboard/v1/event.proto" in [file.name for file in files]
    files = await reflection.files(file_containing_symbol=f"{EVENTS}.Publish")
    assert "switchboard/v1/event_service.proto" in [file.name for file in files]
    for question in (
        {"file_containing_symbol": f"{EVENTS}.Nothing"},
        {"file_containing_symbol": "switchboard.v1.Nothing"},
        {"file_by_filename": "nothing.proto"},
    ):
        response = await reflection.ask(**question)
        assert response.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_a_reflected_stream_answers_one_question_after_the_other(
    reflection: Reflection,
) -> None:
    for _ in range(3):
        assert EVENTS in await reflection.services()
    await reflection.call.done_writing()
    assert await reflection.call.read() is grpc.aio.EOF


async def test_channelz_is_off_unless_asked_for(client: Client) -> None:
    stub = channelz_pb2_grpc.ChannelzStub(client.channel)
    request = channelz_pb2.GetServersRequest()
    assert (await failing(stub.GetServers(request, timeout=DEADLINE))).code is (
        grpc.StatusCode.UNIMPLEMENTED
    )


async def test_channelz_shows_the_server_and_its_calls_when_it_is_on(tmp_path: Path) -> None:
    with running(tmp_path, {**MEMORY, "SWITCHBOARD_CHANNELZ": "true"}) as hub:
        async with connect(hub) as client:
            await client.publish(an_event())
            stub = channelz_pb2_grpc.ChannelzStub(client.channel)
            answer = await stub.GetServers(channelz_pb2.GetServersRequest(), timeout=DEADLINE)
            (server,) = answer.server
            assert server.data.calls_succeeded >= 1
            sockets = await stub.GetServerSockets(
                channelz_pb2.GetServerSocketsRequest(server_id=server.ref.server_id),
                timeout=DEADLINE,
            )
            assert len(sockets.socket_ref) == 1
            reflection = reflecting(client, REFLECTION[0])
            assert CHANNELZ in await reflection.services()
            assert await reflection.files(file_containing_symbol=CHANNELZ)
            reflection.call.cancel()


async def test_reflection_can_be_switched_off(tmp_path: Path) -> None:
    with running(tmp_path, {**MEMORY, "SWITCHBOARD_REFLECTION": "false"}) as hub:
        async with connect(hub) as client:
            for version in REFLECTION:
                failure = await failing(reflecting(client, version).call.read())
                assert failure.code is grpc.StatusCode.UNIMPLEMENTED
            assert (await client.publish(an_event())).sequence

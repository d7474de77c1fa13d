"""A client of RegistryService, as tests want it: every wait has an end."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from switchboard.v1.registry_service_pb2 import (
    DeregisterRequest,
    DiscoverRequest,
    DiscoverResponse,
    KeepAliveRequest,
    KeepAliveResponse,
    ListServicesRequest,
    ListServicesResponse,
    RegisterRequest,
    RegisterResponse,
    SetStatusRequest,
)
from switchboard.v1.registry_service_pb2_grpc import RegistryServiceStub
from switchboard.v1.service_instance_pb2 import InstanceStatus, ServiceInstance
from switchboard.v1.watch_pb2 import InstanceChange, WatchRequest, WatchResponse
from tests.integration.client import Client

KeepAliveCall = grpc.aio.StreamStreamCall[KeepAliveRequest, KeepAliveResponse]
"""An open KeepAlive stream."""


def an_instance(service: str, number: int = 1, **fields: Any) -> ServiceInstance:
    """An instance that the hub takes, told apart by its number."""
    named = {"instance_id": f"i{number}", "host": "127.0.0.1", "port": 20_000 + number}
    return ServiceInstance(service_name=service, **{**named, **fields})


async def answered(call: KeepAliveCall) -> KeepAliveResponse:
    """The next response of a KeepAlive."""
    response = await call.read()
    assert isinstance(response, KeepAliveResponse), "the hub ended the stream"
    return response


class Watching:
    """An open Watch, and what is known by it."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[WatchRequest, WatchResponse]) -> None:
        self.call = call
        self.known: dict[str, ServiceInstance] = {}
        self.revision = 0

    async def next(self) -> WatchResponse:
        """The next response, taken in."""
        response = await self.call.read()
        assert isinstance(response, WatchResponse), "the hub ended the stream"
        if response.HasField("snapshot_begin"):
            self.known.clear()
        for change in response.changes:
            key = f"{change.instance.service_name}/{change.instance.instance_id}"
            if change.kind == 1:
                self.known[key] = change.instance
            else:
                self.known.pop(key, None)
        word = response.WhichOneof("control")
        if word in ("snapshot_end", "heartbeat", "resumed"):
            assert getattr(response, word).revision >= self.revision
            self.revision = getattr(response, word).revision
        elif response.revision:
            assert response.revision > self.revision
            self.revision = response.revision
        return response

    async def words(self, count: int) -> list[str | None]:
        """The words of the next responses."""
        return [(await self.next()).WhichOneof("control") for _ in range(count)]

    async def change(self) -> InstanceChange:
        """The next change, which must come alone."""
        response = await self.next()
        (change,) = response.changes
        return change

    async def until(self, condition: Callable[[dict[str, ServiceInstance]], bool]) -> None:
        """Takes in what comes until what is known meets a condition."""
        while not condition(self.known):
            await self.next()


class RegistryClient:
    """Calls RegistryService over the connection of a client."""

    def __init__(self, client: Client) -> None:
        self.stub = RegistryServiceStub(client.channel)
        self.options = client.options

    async def register(self, instance: ServiceInstance) -> RegisterResponse:
        """Registers an instance."""
        return await self.stub.Register(RegisterRequest(instance=instance), **self.options)

    async def deregister(self, service: str, instance: str) -> int:
        """Removes an instance, and returns the revision."""
        request = DeregisterRequest(service_name=service, instance_id=instance)
        return (await self.stub.Deregister(request, **self.options)).revision

    async def discover(self, service: str, **fields: Any) -> DiscoverResponse:
        """Asks for instances."""
        request = DiscoverRequest(service_name=service, **fields)
        return await self.stub.Discover(request, **self.options)

    async def discovered(self, service: str, **fields: Any) -> list[str]:
        """The ids of all instances that serve."""
        found = await self.discover(service, **{"max_instances": 1000, **fields})
        return sorted(each.instance_id for each in found.instances)

    async def list_services(self, **fields: Any) -> ListServicesResponse:
        """Asks for a page of services."""
        return await self.stub.ListServices(ListServicesRequest(**fields), **self.options)

    async def set_status(
        self, service: str, instance: str, status: str, reason: str = ""
    ) -> ServiceInstance:
        """Sets the status of an instance by its name without the prefix."""
        request = SetStatusRequest(
            service_name=service,
            instance_id=instance,
            status=InstanceStatus.Value(f"INSTANCE_STATUS_{status}"),
            reason=reason,
        )
        return (await self.stub.SetStatus(request, **self.options)).instance

    async def status(self, service: str, instance: str) -> str:
        """The status of an instance without its prefix; "GONE" where there is none."""
        page = await self.list_services(name_prefix=service, include_instances=True)
        for each in page.services:
            for found in each.instances:
                if (found.service_name, found.instance_id) == (service, instance):
                    return InstanceStatus.Name(found.status).removeprefix("INSTANCE_STATUS_")
        return "GONE"

    def keep_alive(self) -> KeepAliveCall:
        """Opens a KeepAlive, to write to and to read from."""
        return self.stub.KeepAlive(**self.options)

    async def kept(self, service: str, instance: str, **fields: Any) -> KeepAliveCall:
        """Opens a KeepAlive that holds the lease."""
        call = self.keep_alive()
        await call.write(KeepAliveRequest(service_name=service, instance_id=instance, **fields))
        await answered(call)
        return call

    @asynccontextmanager
    async def watching(self, *services: str, **fields: Any) -> AsyncIterator[Watching]:
        """Opens a Watch."""
        call = self.stub.Watch(WatchRequest(service_names=services, **fields), **self.options)
        try:
            yield Watching(call)
        finally:
            call.cancel()

    @asynccontextmanager
    async def followed(self, *services: str, **fields: Any) -> AsyncIterator[Watching]:
        """Opens a Watch, and takes in the snapshot."""
        async with self.watching(*services, **fields) as watching:
            while (await watching.next()).WhichOneof("control") != "snapshot_end":
                pass
            yield watching

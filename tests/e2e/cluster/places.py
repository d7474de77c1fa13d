"""Realtime clients and service instances that stay, whatever happens, and what hubs say of them."""

import asyncio
import time
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration

from switchboard.v1 import connect_pb2, realtime_service_pb2, registry_service_pb2
from switchboard.v1.realtime_service_pb2_grpc import RealtimeServiceStub
from switchboard.v1.registry_service_pb2_grpc import RegistryServiceStub
from switchboard.v1.service_instance_pb2 import ServiceInstance
from tests.e2e.cluster.nodes import LOOK_SECONDS, Hubs
from tests.e2e.cluster.traffic import Tally

ROOM = "hall"
SERVICE = "players"
LEASE_SECONDS = 15
"""Lease of an instance: within which all hubs have to agree again after a fault."""
CALL_SECONDS = 5.0


class Guest:
    """A realtime client that stands in a room.

    Args:
        hubs: The hubs.
        name: Its user, and its connection.
    """

    def __init__(self, hubs: Hubs, name: str) -> None:
        self._hubs = hubs
        self.name = name
        self.heard: set[str] = set()
        self._moved = asyncio.Event()

    async def stand(self, number: int) -> None:
        """Stands in the room at a hub until it fails."""
        stub = RealtimeServiceStub(self._hubs.channel(number))
        request = connect_pb2.ConnectRequest(
            client_id=self.name,
            user=self.name,
            rooms=[connect_pb2.RoomJoin(room=ROOM)],
            heartbeat_interval=Duration(seconds=2),
        )
        call: grpc.aio.UnaryStreamCall[connect_pb2.ConnectRequest, connect_pb2.ConnectResponse]
        call = stub.Connect(request)
        try:
            async for response in call:
                for message in response.messages:
                    self.heard.add(str(message.data["text"]))
                self._moved.set()
        finally:
            call.cancel()

    async def hears(self, text: str) -> None:
        """Waits until it has heard a text."""
        while text not in self.heard:
            self._moved.clear()
            await self._moved.wait()


class Instance:
    """A service instance that keeps its lease by a stream, and registers again where it is gone.

    Args:
        hubs: The hubs.
        number: Tells it from the others.
    """

    def __init__(self, hubs: Hubs, number: int) -> None:
        self._hubs = hubs
        self._instance = ServiceInstance(
            service_name=SERVICE,
            instance_id=f"player-{number}",
            host="127.0.0.1",
            port=9000 + number,
            lease_ttl=Duration(seconds=LEASE_SECONDS),
        )
        self.name = self._instance.instance_id

    async def live(self, number: int) -> None:
        """Registers at a hub, and keeps its lease there until it fails."""
        stub = RegistryServiceStub(self._hubs.channel(number))
        request = registry_service_pb2.RegisterRequest(instance=self._instance)
        await stub.Register(request, timeout=CALL_SECONDS)
        call = stub.KeepAlive()
        try:
            sign = registry_service_pb2.KeepAliveRequest(
                service_name=SERVICE, instance_id=self.name
            )
            await call.write(sign)
            while (response := await call.read()) is not grpc.aio.EOF:
                assert isinstance(response, registry_service_pb2.KeepAliveResponse)
                await asyncio.sleep(LEASE_SECONDS / 5)
                await call.write(sign)
        except asyncio.InvalidStateError:
            pass  # The stream has ended, which reading tells as well.
        except grpc.aio.AioRpcError as error:
            # A directory that has come back empty has forgotten it.
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        finally:
            call.cancel()


@dataclass(frozen=True)
class View:
    """What a hub says of who is there.

    Args:
        present: Users who are online.
        members: Connections in the room.
        found: Instances that Discover gives.
        listed: Instances that ListServices gives.
    """

    present: frozenset[str]
    members: frozenset[str]
    found: frozenset[str]
    listed: frozenset[str]


class Places:
    """Who is there.

    Args:
        hubs: The hubs.
        tally: Counts failures.
    """

    def __init__(self, hubs: Hubs, tally: Tally) -> None:
        self._hubs = hubs
        self._tally = tally
        count = 2 * len(hubs.nodes)
        self.guests = [Guest(hubs, f"guest-{number}") for number in range(count)]
        self.instances = [Instance(hubs, number) for number in range(count)]

    @property
    def truth(self) -> View:
        """What every hub should say."""
        guests = frozenset(each.name for each in self.guests)
        instances = frozenset(each.name for each in self.instances)
        return View(guests, guests, instances, instances)

    async def view(self, number: int) -> View:
        """What a hub says.

        Raises:
            AioRpcError: It does not answer.
        """
        realtime = RealtimeServiceStub(self._hubs.channel(number))
        registry = RegistryServiceStub(self._hubs.channel(number))
        presence, room, found, listed = await asyncio.gather(
            realtime.GetPresence(
                realtime_service_pb2.GetPresenceRequest(page_size=1000), timeout=CALL_SECONDS
            ),
            realtime.GetRoom(
                realtime_service_pb2.GetRoomRequest(room=ROOM, member_page_size=1000),
                timeout=CALL_SECONDS,
            ),
            registry.Discover(
                registry_service_pb2.DiscoverRequest(service_name=SERVICE, max_instances=1000),
                timeout=CALL_SECONDS,
            ),
            registry.ListServices(
                registry_service_pb2.ListServicesRequest(
                    name_prefix=SERVICE, include_instances=True
                ),
                timeout=CALL_SECONDS,
            ),
        )
        return View(
            frozenset(each.user for each in presence.presences),
            frozenset(each.client_id for each in room.members),
            frozenset(each.instance_id for each in found.instances),
            frozenset(
                each.instance_id for service in listed.services for each in service.instances
            ),
        )

    async def agree(self, within: float) -> float:
        """Waits until all hubs say what is so.

        Args:
            within: Seconds that they have.

        Returns:
            Seconds that it took.

        Raises:
            AssertionError: They did not in time.
        """
        began = time.monotonic()
        views: list[View | None] = []
        try:
            async with asyncio.timeout(within):
                while True:
                    views = [await self._try(each) for each in range(len(self._hubs.nodes))]
                    if all(view == self.truth for view in views):
                        return time.monotonic() - began
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            told = "\n".join(map(str, views))
            raise AssertionError(
                f"after {within} s the hubs say\n{told}\nand not {self.truth}"
            ) from None

    async def _try(self, number: int) -> View | None:
        try:
            return await self.view(number)
        except grpc.aio.AioRpcError as error:
            # NOT_FOUND: of a room in which nobody stands yet.
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                self._tally.note(error, "view")
            return None

    async def heard(self, number: int, text: str) -> None:
        """Has a hub broadcast a text to the room, and waits until everybody there has heard it.

        Raises:
            AioRpcError: The hub does not.
        """
        stub = RealtimeServiceStub(self._hubs.channel(number))
        request = realtime_service_pb2.BroadcastRequest(message_type="chat", rooms=[ROOM])
        request.data.update({"text": text})
        await stub.Broadcast(request, timeout=CALL_SECONDS)
        await asyncio.gather(*(each.hears(text) for each in self.guests))

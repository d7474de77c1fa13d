"""The gRPC door: one grpc.aio server with everything that listens on it."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import grpc
from grpc_channelz.v1 import channelz, channelz_pb2_grpc
from grpc_health.v1 import health_pb2_grpc

from switchboard.v1 import (
    event_service_pb2,
    group_service_pb2,
    realtime_service_pb2,
    registry_service_pb2,
)
from switchboard_server.core.events import EventHub
from switchboard_server.core.realtime.hub import RealtimeHub
from switchboard_server.core.registry.registry import Registry
from switchboard_server.core.use_cases import UseCases
from switchboard_server.rpc import reflection
from switchboard_server.rpc.auth import AuthInterceptor, Verifier
from switchboard_server.rpc.endpoints import ApiHandler, RpcObserver, endpoints
from switchboard_server.rpc.event_service import EventServicer
from switchboard_server.rpc.group_service import GroupServicer
from switchboard_server.rpc.health import NAME as HEALTH
from switchboard_server.rpc.health import HealthService
from switchboard_server.rpc.realtime_service import RealtimeServicer
from switchboard_server.rpc.registry_service import RegistryServicer
from switchboard_server.telemetry.listeners import bind_error, free_addresses

if TYPE_CHECKING:
    from switchboard_server.rpc.xds import XdsService

EVENT_SERVICE = event_service_pb2.DESCRIPTOR.services_by_name["EventService"].full_name
"""Full name of EventService."""
GROUP_SERVICE = group_service_pb2.DESCRIPTOR.services_by_name["GroupService"].full_name
"""Full name of GroupService."""
REALTIME_SERVICE = realtime_service_pb2.DESCRIPTOR.services_by_name["RealtimeService"].full_name
"""Full name of RealtimeService."""
REGISTRY_SERVICE = registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name
"""Full name of RegistryService."""
CHANNELZ = "grpc.channelz.v1.Channelz"
"""Full name of the channelz service."""

LAST_WORDS_SECONDS = 0.1
"""How long calls are still refused with a reason when the hub stops."""

_METADATA_BYTES = 20 * 1024
_PENDING_RPCS = 100_000
OPTIONS: Mapping[str, int] = {
    # Two hubs on one port would each get a part of the calls, and nobody would be told.
    "grpc.so_reuseport": 0,
    # A frozen client is noticed after these; without ping_timeout only after a minute.
    "grpc.keepalive_time_ms": 20_000,
    "grpc.keepalive_timeout_ms": 10_000,
    "grpc.http2.ping_timeout_ms": 10_000,
    "grpc.keepalive_permit_without_calls": 1,
    # How often clients may ping; the default of 5 minutes sends those away that do so more often.
    "grpc.http2.min_recv_ping_interval_without_data_ms": 10_000,
    "grpc.http2.min_ping_interval_without_data_ms": 10_000,
    # A token may have 16 KiB. By default gRPC refuses calls with more than 8 KiB of metadata at
    # random, the more the larger they are, and all with more than 16 KiB.
    "grpc.max_metadata_size": _METADATA_BYTES,
    "grpc.absolute_max_metadata_size": _METADATA_BYTES,
    # When thousands connect again at once, gRPC drops calls at random beyond about a thousand that
    # wait to be accepted, and all that have waited for 30 seconds. How long is the client's to say,
    # by its deadline. These three are not in the public header;
    # tests/integration/test_reconnect_storm.py guards them.
    "grpc.server.max_pending_requests": _PENDING_RPCS,
    "grpc.server.max_pending_requests_hard_limit": 2 * _PENDING_RPCS,
    "grpc.server_max_unrequested_time_in_server": 3600,
}
"""What gRPC is told to do otherwise than by itself."""


class _GenericHandlersOnly:
    """A server for generated code to add handlers to, without registering their methods.

    grpc.aio waits for every registered method by a future of its own, at each rpc.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, _service: str, _handlers: object) -> None:
        """Does nothing: the generic handlers serve the methods."""


class GrpcServer:
    """Serves the hub to gRPC clients.

    Args:
        hub: Does the work.
        verifier: Checks tokens; None: nobody is asked for one.
        observer: Is told of every rpc.
        max_message_bytes: Largest request that is taken.
        with_reflection: Whether to serve reflection.
        with_channelz: Whether to serve channelz.
        xds: Serves xDS; None: nobody does.

    Attributes:
        health: Tells what serves.
    """

    def __init__(
        self,
        hub: UseCases,
        *,
        verifier: Verifier | None,
        observer: RpcObserver,
        max_message_bytes: int,
        with_reflection: bool,
        with_channelz: bool,
        xds: "XdsService | None" = None,
    ) -> None:
        self._hub = hub
        self._xds = xds
        self._events = EventServicer(hub.events, hub.groups, hub.calls)
        servicers: dict[str, object] = {
            EVENT_SERVICE: self._events,
            GROUP_SERVICE: GroupServicer(hub.groups, hub.letters),
            REALTIME_SERVICE: RealtimeServicer(hub.realtime),
            REGISTRY_SERVICE: RegistryServicer(hub.registry),
        }
        self.health = HealthService(list(servicers))
        options: list[tuple[str, Any]] = [
            *OPTIONS.items(),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.enable_channelz", int(with_channelz)),
        ]
        self._server = grpc.aio.server(
            interceptors=[AuthInterceptor(endpoints(), verifier, observer)], options=options
        )
        self._server.add_generic_rpc_handlers((ApiHandler(servicers, observer),))
        if xds is not None:
            self._server.add_generic_rpc_handlers((xds,))
        generic = cast("grpc.aio.Server", _GenericHandlersOnly(self._server))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, generic)
        if with_channelz:
            channelz_pb2_grpc.add_ChannelzServicer_to_server(
                channelz.aio.ChannelzServicer(), generic
            )
        if with_reflection:
            optional = [CHANNELZ] if with_channelz else []
            reflection.enable(self._server, [*servicers, HEALTH, *optional])

    async def start(
        self, host: str, port: int, credentials: grpc.ServerCredentials | None = None
    ) -> int:
        """Begins to listen, on all addresses of the host or on none.

        Args:
            host: Address or name to listen on.
            port: Port to listen on; 0: any that is free.
            credentials: For TLS; None: no encryption.

        Returns:
            The port.

        Raises:
            BindError: One of the addresses cannot be listened on.
        """
        bound = port
        for address in await free_addresses("GRPC_PORT", host, port):
            try:
                bound = self._listen(
                    f"[{address}]:{port}" if ":" in address else f"{address}:{port}", credentials
                )
            except RuntimeError as error:
                raise bind_error(
                    "GRPC_PORT", address, port, OSError("gRPC cannot listen there")
                ) from error
        await self._server.start()
        return bound

    def _listen(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        if credentials is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, credentials)

    async def follow_availability(self) -> None:
        """Keeps the health status true, until cancelled."""
        await asyncio.gather(
            self._follow(self._hub.events, EVENT_SERVICE, GROUP_SERVICE),
            self._follow(self._hub.realtime, REALTIME_SERVICE),
            self._follow(self._hub.registry, REGISTRY_SERVICE),
        )

    async def _follow(self, behind: EventHub | RealtimeHub | Registry, *services: str) -> None:
        while True:
            behind.availability.clear()
            for service in services:
                await self.health.report(service, serving=behind.problem is None)
            await behind.availability.wait()

    async def begin_shutdown(self) -> None:
        """Says NOT_SERVING, and ends the streams."""
        await self.health.shut_down()
        if self._xds is not None:
            self._xds.begin_shutdown()
        # First, so that the log still takes what it has to tell.
        await self._hub.registry.begin_shutdown()
        error = self._hub.events.begin_shutdown()
        self._hub.groups.begin_shutdown(error)
        self._hub.calls.begin_shutdown(error)
        self._events.begin_shutdown(error)
        self._hub.realtime.begin_shutdown()

    async def stop(self, grace: float | None) -> None:
        """Takes no more calls, and waits for those that are open.

        Args:
            grace: Seconds after which they are cancelled; None: at once.
        """
        if grace is not None:
            # What is on its way here still learns why it is refused; gRPC would only cancel it.
            await asyncio.sleep(min(LAST_WORDS_SECONDS, grace))
        await self._server.stop(grace)

"""The gRPC door: one grpc.aio server with everything that listens on it."""

import socket
from collections.abc import Mapping
from typing import Any, cast

import grpc
from grpc_channelz.v1 import channelz, channelz_pb2_grpc
from grpc_health.v1 import health_pb2_grpc

from switchboard.v1 import event_service_pb2
from switchboard_server.core.events import EventHub
from switchboard_server.rpc import reflection
from switchboard_server.rpc.auth import AuthInterceptor, Verifier
from switchboard_server.rpc.endpoints import ApiHandler, RpcObserver, endpoints
from switchboard_server.rpc.event_service import EventServicer
from switchboard_server.rpc.health import NAME as HEALTH
from switchboard_server.rpc.health import HealthService
from switchboard_server.telemetry.listeners import bind_error

EVENT_SERVICE = event_service_pb2.DESCRIPTOR.services_by_name["EventService"].full_name
"""Full name of EventService."""
CHANNELZ = "grpc.channelz.v1.Channelz"
"""Full name of the channelz service."""

_PENDING_RPCS = 100_000
_OPTIONS: Mapping[str, int] = {
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
    # When thousands connect again at once, gRPC drops calls at random beyond about a thousand that
    # wait to be accepted, and all that have waited for 30 seconds. How long is the client's to say,
    # by its deadline. These three are not in the public header;
    # tests/integration/test_reconnect_storm.py guards them.
    "grpc.server.max_pending_requests": _PENDING_RPCS,
    "grpc.server.max_pending_requests_hard_limit": 2 * _PENDING_RPCS,
    "grpc.server_max_unrequested_time_in_server": 3600,
}


def _why(host: str, port: int) -> OSError:
    """The reason that a port cannot be listened on, which gRPC does not tell."""
    try:
        with socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ):
            return OSError("gRPC cannot listen there")
    except OSError as error:
        return error


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
    """

    def __init__(
        self,
        hub: EventHub,
        *,
        verifier: Verifier | None,
        observer: RpcObserver,
        max_message_bytes: int,
        with_reflection: bool,
        with_channelz: bool,
    ) -> None:
        self._hub = hub
        self._events = EventServicer(hub)
        self.health = HealthService([EVENT_SERVICE])
        options: list[tuple[str, Any]] = [
            *_OPTIONS.items(),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.enable_channelz", int(with_channelz)),
        ]
        self._server = grpc.aio.server(
            interceptors=[AuthInterceptor(endpoints(), verifier, observer)], options=options
        )
        servicers = {EVENT_SERVICE: self._events}
        self._server.add_generic_rpc_handlers((ApiHandler(servicers, observer),))
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
        """Begins to listen.

        Args:
            host: Address to listen on.
            port: Port to listen on; 0: any that is free.
            credentials: For TLS; None: no encryption.

        Returns:
            The port.

        Raises:
            BindError: The address cannot be listened on.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = (
                self._server.add_insecure_port(address)
                if credentials is None
                else self._server.add_secure_port(address, credentials)
            )
        except RuntimeError as error:
            raise bind_error("GRPC_PORT", host, port, _why(host, port)) from error
        await self._server.start()
        return bound

    async def follow_availability(self) -> None:
        """Keeps the health status true, until cancelled."""
        while True:
            self._hub.availability.clear()
            await self.health.report(EVENT_SERVICE, serving=self._hub.problem is None)
            await self._hub.availability.wait()

    async def begin_shutdown(self) -> None:
        """Says NOT_SERVING, and ends the streams."""
        await self.health.shut_down()
        self._events.begin_shutdown(self._hub.begin_shutdown())

    async def stop(self, grace: float | None) -> None:
        """Takes no more calls, and waits for those that are open.

        Args:
            grace: Seconds after which they are cancelled; None: at once.
        """
        await self._server.stop(grace)

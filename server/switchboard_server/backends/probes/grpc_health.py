"""The standard gRPC health service, asked over channels that are kept.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import asyncio
import time
from collections import OrderedDict

import grpc
from grpc_health.v1 import health_pb2

from switchboard_server.core.registry.entries import Verdict
from switchboard_server.core.registry.model import Status, join_address
from switchboard_server.core.registry.targets import Target

MAX_CHANNELS = 4096
"""Channels that are kept. Making one for each check would cost more, and grpc does not give back
all of their memory: https://github.com/roostorg/osprey/pull/349."""

_METHOD = "/grpc.health.v1.Health/Check"
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy of the environment, or a service config in DNS, must not send the call elsewhere.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    # An instance that comes back is noticed at the next check, and not when gRPC tries again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", 4096),
)

_Place = tuple[str, str, bool]


class GrpcProbe:
    """Asks health services."""

    def __init__(self) -> None:
        self._channels: OrderedDict[_Place, grpc.aio.Channel] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    async def probe(self, target: Target, address: str, seconds: float) -> Verdict:
        """Asks for the target's service; it passes with SERVING.

        Args:
            target: What to ask for.
            address: The IP address to connect to.
            seconds: After which the call is given up.

        Raises:
            ConnectionError: There is no connection, or the server says UNAVAILABLE.
        """
        began = time.perf_counter()
        check: grpc.aio.UnaryUnaryMultiCallable[
            health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        ] = self._channel(target, address).unary_unary(
            _METHOD,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = await check(
                health_pb2.HealthCheckRequest(service=target.service), timeout=seconds
            )
        except grpc.aio.AioRpcError as error:
            details = (error.details() or "")[:200]
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise ConnectionError(details) from error
            return Verdict(Status.UNHEALTHY, f"gRPC {error.code().name}: {details}")
        took = f"{(time.perf_counter() - began) * 1000:.0f} ms"
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return Verdict(Status.SERVING, f"gRPC SERVING in {took}")
        if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
            return Verdict(Status.NOT_SERVING, f"its gRPC health is NOT_SERVING, in {took}")
        return Verdict(Status.UNHEALTHY, f"its gRPC health is status {answer.status}, in {took}")

    async def close(self) -> None:
        """Closes all channels. May be called twice."""
        channels, self._channels = self._channels, OrderedDict()
        await asyncio.gather(*(each.close() for each in channels.values()), *self._closing)

    def _channel(self, target: Target, address: str) -> grpc.aio.Channel:
        place = join_address(address, target.port), target.address, target.tls
        channel = self._channels.get(place)
        if channel is not None:
            self._channels.move_to_end(place)
            return channel
        scheme = "ipv6" if ":" in address else "ipv4"
        dialled, authority = f"{scheme}:{place[0]}", ("grpc.default_authority", target.address)
        options = [*_OPTIONS, authority]
        if target.tls:
            # What the certificate has to name; the authority does not reach the handshake.
            name = ("grpc.ssl_target_name_override", target.host)
            credentials = grpc.ssl_channel_credentials()
            channel = grpc.aio.secure_channel(dialled, credentials, options=[*options, name])
        else:
            channel = grpc.aio.insecure_channel(dialled, options=options)
        self._channels[place] = channel
        if len(self._channels) > MAX_CHANNELS:
            _, old = self._channels.popitem(last=False)
            task = asyncio.ensure_future(old.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return channel

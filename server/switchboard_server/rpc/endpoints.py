"""The rpcs of `switchboard.v1` as generic handlers that pass bytes through.

Serializing is left to the servicers, which on hot paths join bytes that exist already. A generic
handler also costs less than registered methods, for each of which grpc.aio keeps a future.
"""

from __future__ import annotations  # grpc's classes take type arguments in its stubs only

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from switchboard.v1 import (
    event_service_pb2,
    group_service_pb2,
    realtime_service_pb2,
    registry_service_pb2,
)
from switchboard_server.core.errors import (
    SwitchboardError,
    UnauthenticatedError,
    UnimplementedError,
)
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.rpc.errors import abort, code_of
from switchboard_server.wire.incidents import as_switchboard_error
from switchboard_server.wire.permissions import permission_of

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[bytes, bytes]
else:
    Context = grpc.aio.ServicerContext
"""What grpc.aio gives a handler."""

SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    service
    for module in (
        event_service_pb2,
        group_service_pb2,
        realtime_service_pb2,
        registry_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
)
"""Every service of the API."""

caller: ContextVar[Principal] = ContextVar("caller", default=ANONYMOUS)
"""Who calls the rpc that the current task handles."""


def address_of(peer: str) -> str:
    """The network address that a call comes from.

    Args:
        peer: As `context.peer()` has it, such as "ipv4:10.0.0.7:51234" or "ipv6:%5B::1%5D:51234".
    """
    scheme, _, address = peer.partition(":")
    return unquote(address) if scheme in ("ipv4", "ipv6") else peer


class RpcObserver(Protocol):
    """Is told of every rpc; must be cheap and must not raise.

    Methods are named as "package.Service/Method", codes as "OK".
    """

    def unary_done(self, method: str, code: str, seconds: float) -> None:
        """An rpc with one request and one response has ended, after so many seconds."""

    def stream_opened(self, method: str) -> None:
        """A streaming rpc has begun."""

    def stream_done(self, method: str, code: str) -> None:
        """A streaming rpc has ended."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One rpc.

    Args:
        path: Its path, "/package.Service/Method".
        permission: What its caller must be allowed.
        client_streaming: Whether the client sends a stream.
        server_streaming: Whether the hub sends a stream.
    """

    path: str
    permission: str
    client_streaming: bool
    server_streaming: bool

    @property
    def method(self) -> str:
        """Its name, "package.Service/Method"."""
        return self.path[1:]

    @property
    def streaming(self) -> bool:
        """Whether anybody sends a stream."""
        return self.client_streaming or self.server_streaming

    def handler(self, behavior: Callable[..., Awaitable[Any]]) -> grpc.RpcMethodHandler[Any, Any]:
        """The rpc with a behavior of its shape, as grpc.aio wants it; no serializers, so bytes."""
        make: Callable[..., grpc.RpcMethodHandler[Any, Any]] = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[self.client_streaming, self.server_streaming]
        return make(behavior)


def endpoints(services: Iterable[ServiceDescriptor] = SERVICES) -> dict[str, Endpoint]:
    """Every rpc by its path, with the permission that its option names.

    Raises:
        ValueError: An rpc has no permission, or one that is unknown.
    """
    return {
        endpoint.path: endpoint
        for service in services
        for endpoint in map(_endpoint, service.methods)
    }


def _endpoint(method: MethodDescriptor) -> Endpoint:
    return Endpoint(
        f"/{method.containing_service.full_name}/{method.name}",
        permission_of(method),
        method.client_streaming,
        method.server_streaming,
    )


class ApiHandler(grpc.GenericRpcHandler):
    """Finds the handler of an rpc of the API.

    Args:
        servicers: By a service's full name, an object with a coroutine method for each rpc that it
            serves. It takes the request's bytes and the context, and returns the response's bytes;
            for a stream, it writes to the context, and reads from it where the client streams.
        observer: Is told of every rpc.
    """

    def __init__(self, servicers: Mapping[str, object], observer: RpcObserver) -> None:
        self._observer = observer
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for path, endpoint in endpoints().items():
            service, _, name = endpoint.method.partition("/")
            behavior = getattr(servicers.get(service), name, None) or _not_served(path)
            wrapped = (
                wrap_stream(endpoint, behavior, observer)
                if endpoint.streaming
                else self._unary(endpoint, behavior)
            )
            self._handlers[path] = endpoint.handler(wrapped)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """See `grpc.GenericRpcHandler`."""
        return self._handlers.get(handler_call_details.method)

    def _unary(
        self, endpoint: Endpoint, behavior: Callable[[bytes, Context], Awaitable[bytes]]
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        method, done = endpoint.method, self._observer.unary_done

        async def call(request: bytes, context: Context) -> bytes:
            began = time.perf_counter()
            code = "CANCELLED"
            try:
                response = await behavior(request, context)
                code = "OK"
                return response
            except Exception as raised:  # Every failure becomes a status.
                error = as_switchboard_error(raised, method)
                code = code_of(error).name
                await abort(context, error)
            finally:
                done(method, code, time.perf_counter() - began)

        return call


def wrap_stream(
    endpoint: Endpoint,
    behavior: Callable[[Any, Context], Awaitable[None]],
    observer: RpcObserver,
) -> Callable[[Any, Context], Awaitable[None]]:
    """A streaming rpc that is observed, ends with its token, and whose errors become statuses.

    Args:
        endpoint: The rpc.
        behavior: Serves it.
        observer: Is told of it.
    """
    method = endpoint.method

    async def call(request: Any, context: Context) -> None:
        code = "CANCELLED"
        observer.stream_opened(method)
        try:
            await _until_expiry(behavior(request, context))
            code = "OK"
        except grpc.aio.InternalError as broken:
            # A write that the client's going away interrupts ends so, not by cancellation.
            raise asyncio.CancelledError from broken
        except Exception as raised:  # Every failure becomes a status.
            error = as_switchboard_error(raised, method)
            code = code_of(error).name
            await abort(context, error)
        finally:
            observer.stream_done(method, code)

    return call


async def _until_expiry(behavior: Awaitable[None]) -> None:
    """Runs a stream for as long as its caller's token is valid."""
    expires_at = caller.get().expires_at
    if expires_at is None:
        await behavior
        return
    limit = asyncio.timeout(max(0.0, expires_at - time.time()))
    try:
        async with limit:
            await behavior
    except TimeoutError:
        if not limit.expired():
            raise
        raise UnauthenticatedError(
            "TOKEN_EXPIRED", "the token has expired; open the stream again with a new one"
        ) from None


def _not_served(path: str) -> Callable[[Any, Context], Awaitable[Any]]:
    async def behavior(_request: Any, _context: Context) -> None:
        raise UnimplementedError("NOT_SERVED", f"this hub does not serve {path}")

    return behavior


def refusing(endpoint: Endpoint, error: SwitchboardError) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that ends the rpc with an error.

    Args:
        endpoint: The rpc.
        error: The error.
    """

    async def behavior(_request: Any, context: Context) -> None:
        await abort(context, error)

    return endpoint.handler(behavior)

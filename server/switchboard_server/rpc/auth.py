"""Who calls, and may they: asked once for each rpc, before its handler is found."""

from __future__ import annotations  # grpc's classes take type arguments in its stubs only

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import grpc

from switchboard_server.core.errors import SwitchboardError, UnauthenticatedError
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.rpc.endpoints import Endpoint, RpcObserver, caller, refusing
from switchboard_server.rpc.errors import code_of

SCHEME = "bearer "
"""What stands before a token in the metadata `authorization` (RFC 6750)."""


class Verifier(Protocol):
    """Checks tokens."""

    def verify(self, token: str) -> Principal:
        """Tells whose token it is.

        Raises:
            UnauthenticatedError: It is not valid, or not any more.
        """
        ...


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Lets an rpc pass whose caller holds the permission that the method option names.

    Rpcs outside the API (health, reflection) are open to everybody, as probes and grpcurl expect.

    Args:
        endpoints: The API's rpcs by path.
        verifier: Checks tokens; None: nobody is asked for one.
        observer: Is told of the rpcs that do not pass.
    """

    def __init__(
        self, endpoints: Mapping[str, Endpoint], verifier: Verifier | None, observer: RpcObserver
    ) -> None:
        self._endpoints = endpoints
        self._verifier = verifier
        self._observer = observer

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """See `grpc.aio.ServerInterceptor`."""
        endpoint = self._endpoints.get(handler_call_details.method)
        if endpoint is not None:
            try:
                principal = self._authenticate(handler_call_details)
                principal.require(endpoint.permission)
            except SwitchboardError as error:
                self._refused(endpoint, code_of(error).name)
                return refusing(endpoint, error)
            caller.set(principal)
        return await continuation(handler_call_details)

    def _refused(self, endpoint: Endpoint, code: str) -> None:
        if endpoint.streaming:
            self._observer.stream_opened(endpoint.method)
            self._observer.stream_done(endpoint.method, code)
        else:
            self._observer.unary_done(endpoint.method, code, 0.0)

    def _authenticate(self, details: grpc.HandlerCallDetails) -> Principal:
        if self._verifier is None:
            return ANONYMOUS
        for key, value in details.invocation_metadata or ():
            if key == "authorization":
                text = value if isinstance(value, str) else value.decode("ascii", "replace")
                if text[: len(SCHEME)].lower() == SCHEME:
                    return self._verifier.verify(text[len(SCHEME) :].strip())
        raise UnauthenticatedError(
            "TOKEN_MISSING", "send a token in the metadata 'authorization: Bearer <token>'"
        )

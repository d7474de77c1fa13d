"""Aggregated discovery (ADS, state of the world): any gRPC client can dial `xds:///service`.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

from __future__ import annotations  # grpc's classes take type arguments in its stubs only

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterable
from itertools import count
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from switchboard_server.core.errors import (
    PermissionDeniedError,
    SwitchboardError,
    UnauthenticatedError,
    shutting_down,
)
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.registry.model import Change
from switchboard_server.core.registry.registry import Registry
from switchboard_server.rpc.auth import SCHEME, Verifier
from switchboard_server.rpc.endpoints import Context, Endpoint, RpcObserver, wrap_stream
from switchboard_server.rpc.xds_catalog import Catalog
from switchboard_server.rpc.xds_resources import CLUSTER, ENDPOINTS, LISTENER, TYPES
from switchboard_server.telemetry.xds_metrics import XdsMetrics
from switchboard_server.wire.codec import tagged
from switchboard_server.wire.decode import parse

PATH = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
"""The one rpc that is served."""
PERMISSION = "services.view"
"""What a client must be allowed."""

_logger = logging.getLogger(__name__)


class XdsService(grpc.GenericRpcHandler):
    """Serves ADS from the registry.

    Args:
        registry: What is registered.
        verifier: Checks tokens; None: nobody is asked for one.
        observer: Is told of every rpc.
        metrics: Counts pushes and what clients say to them.
    """

    def __init__(
        self,
        registry: Registry,
        verifier: Verifier | None,
        observer: RpcObserver,
        metrics: XdsMetrics,
    ) -> None:
        self._verifier = verifier
        self._metrics = metrics
        self._registry = registry
        self._catalog = Catalog(registry, self._service_changed)
        self._streams: dict[_Stream, None] = {}
        self._by_service: dict[str, dict[_Stream, None]] = {}
        self._forget = registry.on_change(self._changed)
        endpoint = Endpoint(PATH, PERMISSION, client_streaming=True, server_streaming=True)
        self._handler = endpoint.handler(wrap_stream(endpoint, self._serve, observer))

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """See `grpc.GenericRpcHandler`."""
        return self._handler if handler_call_details.method == PATH else None

    def begin_shutdown(self) -> None:
        """Ends every stream; clients go on with what they know."""
        for stream in self._streams:
            stream.end(shutting_down())

    async def close(self) -> None:
        """Follows the registry no more."""
        self._forget()
        await self._catalog.close()

    async def _serve(self, requests: AsyncIterator[bytes], context: Context) -> None:
        # A client that is told of no endpoints loses those that it has.
        self._registry.admit_readers()
        stream = _Stream(self, self._catalog, context)
        self._streams[stream] = None
        self._metrics.streams += 1
        reader = asyncio.create_task(self._read(requests, stream, context))
        reader.add_done_callback(lambda _: stream.wake())
        try:
            await stream.run(reader)
        finally:
            if not reader.cancel() and not reader.cancelled():
                reader.exception()  # Raised by the stream, or nobody is left to hear of it.
            for timer in stream.timers:
                timer.cancel()
            del self._streams[stream]
            self._metrics.streams -= 1
            self.follow(stream, stream.names(ENDPOINTS), ())

    async def _read(
        self, requests: AsyncIterator[bytes], stream: _Stream, context: Context
    ) -> None:
        async for raw in requests:
            request = parse(discovery_pb2.DiscoveryRequest, raw)
            if stream.principal is None:
                stream.principal = principal = self._authenticate(request, context)
                if principal.expires_at is not None:
                    seconds = principal.expires_at - time.time()
                    expired = UnauthenticatedError(
                        "TOKEN_EXPIRED", "the token has expired; put a new one into the bootstrap"
                    )
                    loop = asyncio.get_running_loop()
                    stream.timers.append(loop.call_later(seconds, stream.end, expired))
            stream.take(request)

    def follow(self, stream: _Stream, before: Iterable[str], after: Iterable[str]) -> None:
        """Tells a stream of other services than before."""
        for name in before:
            streams = self._by_service.get(name, {})
            streams.pop(stream, None)
            if not streams:
                self._by_service.pop(name, None)
        for name in after:
            self._by_service.setdefault(name, {})[stream] = None

    def _changed(self, change: Change) -> None:
        name = change.instance.spec.service
        self._catalog.forget(name)
        self._service_changed(name)
        # Only who asked for all clusters has to know that there is one more, or one less.
        for stream in self._streams:
            stream.cluster_changed(name)

    def _service_changed(self, name: str) -> None:
        for stream in self._by_service.get(name, ()):
            stream.changed(name)

    def clusters(self) -> Collection[str]:
        """The names of all services."""
        return self._registry.service_names()

    def count(self, outcome: str, kind: str) -> None:
        """Counts a push, or what a client said to it."""
        self._metrics.count(outcome, kind.rpartition(".")[2])

    def _authenticate(self, request: Any, context: Context) -> Principal:
        """Who asks; by metadata, or by the node's metadata where a client has no other way."""
        if self._verifier is None:
            return ANONYMOUS
        token = ""
        for key, value in context.invocation_metadata() or ():
            text = value if isinstance(value, str) else value.decode("ascii", "replace")
            if key == "authorization" and text[: len(SCHEME)].lower() == SCHEME:
                token = text[len(SCHEME) :].strip()
        fields = request.node.metadata.fields
        if not token and "token" in fields:
            token = fields["token"].string_value
        if not token:
            raise UnauthenticatedError(
                "TOKEN_MISSING",
                "put a token into the bootstrap: xds-bootstrap --token, or node.metadata.token",
            )
        principal = self._verifier.verify(token)
        principal.require(PERMISSION)
        return principal


class _Subscription:
    """What a client wants of one type."""

    def __init__(self) -> None:
        self.names: frozenset[str] = frozenset()
        self.everything = False
        self.nonce = ""
        self.told: frozenset[str] = frozenset()


class _Stream:
    """One client."""

    def __init__(self, hub: XdsService, catalog: Catalog, context: Context) -> None:
        self.principal: Principal | None = None
        self.timers: list[asyncio.TimerHandle] = []
        self._hub = hub
        self._catalog = catalog
        self._context = context
        self._wanted: dict[str, _Subscription] = {}
        self._due: dict[str, None] = {}
        self._services: dict[str, None] = {}
        self._nonces = count(1)
        self._woken = asyncio.Event()
        self._end: SwitchboardError | None = None

    def names(self, kind: str) -> frozenset[str]:
        """What the client wants of a type."""
        wanted = self._wanted.get(kind)
        return frozenset() if wanted is None else wanted.names

    def wake(self) -> None:
        """Has `run` look what there is to do."""
        self._woken.set()

    def end(self, error: SwitchboardError) -> None:
        """Ends the stream."""
        self._end = error
        self.wake()

    def changed(self, service: str) -> None:
        """Takes notice that the endpoints of a service have changed."""
        self._services[service] = None
        self.wake()

    def cluster_changed(self, service: str) -> None:
        """Takes notice that a service may be new or gone."""
        wanted = self._wanted.get(CLUSTER)
        if wanted is not None and wanted.everything:
            there = service in self._hub.clusters()
            if there is not (service in wanted.told):
                self._due[CLUSTER] = None
                self.wake()

    def take(self, request: Any) -> None:
        """Takes a request: a subscription, or what the client says to a response."""
        kind = request.type_url
        if kind not in TYPES:
            return
        wanted = self._wanted.setdefault(kind, _Subscription())
        if request.response_nonce != wanted.nonce:
            return  # It has not seen the last response yet, and will say so again.
        if request.HasField("error_detail"):
            self._hub.count("nack", kind)
            _logger.warning(
                "an xDS client refuses what it was sent",
                extra={"type": kind, "error": request.error_detail.message[:500]},
            )
        elif wanted.nonce:
            self._hub.count("ack", kind)
        names = frozenset(request.resource_names)
        everything = not names and kind in (LISTENER, CLUSTER) and not wanted.names
        if wanted.nonce and (names, everything) == (wanted.names, wanted.everything):
            return
        if kind == ENDPOINTS:
            self._hub.follow(self, wanted.names - names, names - wanted.names)
        wanted.names, wanted.everything = names, everything
        self._due[kind] = None
        self.wake()

    async def run(self, reader: asyncio.Task[None]) -> None:
        """Answers until the client has no more to ask."""
        while True:
            if self._end is not None:
                raise self._end
            if self._due:
                kind = next(iter(self._due))
                del self._due[kind]
                await self._tell(kind, sorted(self._told(kind)))
            elif self._services:
                changed, self._services = self._services, {}
                await self._tell(ENDPOINTS, sorted(self.names(ENDPOINTS) & changed.keys()))
            elif reader.done():
                reader.result()
                return
            else:
                self._woken.clear()
                await self._woken.wait()

    def _told(self, kind: str) -> frozenset[str]:
        wanted = self._wanted[kind]
        if not wanted.everything:
            return wanted.names
        # A Listener of ours has no address to listen on: proxies, who ask for all, have no use for
        # it.
        return frozenset(self._hub.clusters() if kind == CLUSTER else ())

    async def _tell(self, kind: str, names: list[str]) -> None:
        wanted = self._wanted[kind]
        wanted.nonce = str(next(self._nonces))
        wanted.told = frozenset(names)
        head = discovery_pb2.DiscoveryResponse(
            version_info=wanted.nonce, type_url=kind, nonce=wanted.nonce
        )
        resources = [
            tagged(b"\x12", self._catalog.resource(kind, each)) for each in names if self._may(each)
        ]
        self._hub.count("push", kind)
        await self._context.write(b"".join([head.SerializeToString(), *resources]))

    def _may(self, name: str) -> bool:
        try:
            assert self.principal is not None, "it has asked for something"
            self.principal.require(PERMISSION, name)
        except PermissionDeniedError:
            return False
        return True

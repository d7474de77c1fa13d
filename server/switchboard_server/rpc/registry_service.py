"""`switchboard.v1.RegistryService`: decodes, asks the registry, encodes."""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import lru_cache

from switchboard.v1 import registry_service_pb2, service_instance_pb2, watch_pb2
from switchboard_server.core.errors import InvalidArgumentError, invalid_field
from switchboard_server.core.principal import Principal
from switchboard_server.core.registry.discovery import Selection
from switchboard_server.core.registry.leases import Lease
from switchboard_server.core.registry.model import Instance, Key, Status
from switchboard_server.core.registry.overview import ServicesQuery
from switchboard_server.core.registry.registry import Registry
from switchboard_server.core.registry.watching import Delta
from switchboard_server.rpc.endpoints import Context, caller
from switchboard_server.wire import registry as wire
from switchboard_server.wire.decode import decode_heartbeat, parse, prefixed

HALF_CLOSE_SECONDS = 0.05
"""How long the end of requests may still turn out to be the break of the stream: gRPC tells of the
first before it tells of the second."""

TIMER_SECONDS = 0.1
"""How early a timer can be by the wall clock."""


MAX_RECURRING_BYTES = 256
"""How long a request of Discover may be to be remembered, for callers ask for the same again."""


class RegistryServicer:
    """Serves RegistryService.

    Args:
        registry: Does the work.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def Register(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(registry_service_pb2.RegisterRequest, raw)
        if not request.HasField("instance"):
            raise invalid_field("instance", "is required", reason="FIELD_MISSING")
        try:
            registration = wire.decode_instance(request.instance)
            entry, created = await self._registry.register(registration, caller.get())
        except InvalidArgumentError as error:
            raise prefixed(error, "instance") from None
        return wire.registered(entry, created=created)

    async def KeepAlive(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """See the proto."""
        first = await anext(aiter(requests), None)
        if first is None:
            raise invalid_field("instance_id", "is required in a request", reason="FIELD_MISSING")
        request = parse(registry_service_pb2.KeepAliveRequest, first)
        key = _key(request)
        principal = caller.get()
        lease = await self._registry.keep_alive(key, _load(request), principal)
        reader = asyncio.create_task(_read(requests, lease, key))
        reader.add_done_callback(lambda _: lease.finish())
        broken = True
        try:
            while (standing := await lease.next()) is not None:
                await context.write(_standing(standing.instance))
            reader.result()
            await asyncio.sleep(HALF_CLOSE_SECONDS)
            broken = False
        finally:
            if not reader.cancel() and not reader.cancelled():
                reader.exception()  # Raised above, or nobody is left to hear of it.
            self._registry.let_go(lease, broken=broken and not _expired(principal))

    async def Deregister(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(registry_service_pb2.DeregisterRequest, raw)
        revision = await self._registry.deregister(_key(request), caller.get())
        return registry_service_pb2.DeregisterResponse(revision=revision).SerializeToString()

    async def Discover(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        wish = _recurring(raw) if len(raw) <= MAX_RECURRING_BYTES else _selection(raw)
        return wire.discovered(self._registry.discover(wish, caller.get()))

    async def ListServices(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(registry_service_pb2.ListServicesRequest, raw)
        page = self._registry.list_services(
            ServicesQuery(
                request.name_prefix,
                request.include_instances,
                request.page_size,
                request.page_token,
            ),
            lambda entry: len(wire.entry_field(entry)),
            caller.get(),
        )
        return wire.services_page(page, self._registry.preservation()).SerializeToString()

    async def Watch(self, raw: bytes, context: Context) -> None:
        """See the proto."""
        request = parse(watch_pb2.WatchRequest, raw)
        watcher = self._registry.watch(
            request.service_names,
            after=request.after_revision,
            all_statuses=request.all_statuses,
            heartbeat=decode_heartbeat(request),
            principal=caller.get(),
        )
        try:
            while True:
                item = await watcher.next()
                if isinstance(item, Delta):
                    responses = wire.delta_responses(item, all_statuses=request.all_statuses)
                    self._registry.told(item.changes)
                else:
                    responses = wire.watch_responses(item)
                for response in responses:
                    await context.write(response)
        finally:
            watcher.close()

    async def SetStatus(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(registry_service_pb2.SetStatusRequest, raw)
        if request.status not in _DECLARED:
            raise invalid_field(
                "status",
                "must be INSTANCE_STATUS_DRAINING, INSTANCE_STATUS_NOT_SERVING or "
                "INSTANCE_STATUS_SERVING",
            )
        entry = await self._registry.set_status(
            _key(request), _DECLARED[request.status], request.reason, caller.get()
        )
        return wire.registered(entry, created=False)


_DECLARED: dict[int, Status | None] = {
    service_instance_pb2.INSTANCE_STATUS_SERVING: None,
    service_instance_pb2.INSTANCE_STATUS_DRAINING: Status.DRAINING,
    service_instance_pb2.INSTANCE_STATUS_NOT_SERVING: Status.NOT_SERVING,
}


def _key(
    request: registry_service_pb2.KeepAliveRequest
    | registry_service_pb2.DeregisterRequest
    | registry_service_pb2.SetStatusRequest,
) -> Key:
    if not request.instance_id:
        raise invalid_field("instance_id", "is required", reason="FIELD_MISSING")
    return Key(request.service_name, request.instance_id)


def _load(request: registry_service_pb2.KeepAliveRequest) -> float | None:
    if not request.HasField("load"):
        return None
    if not 0 <= request.load < float("inf"):
        raise invalid_field("load", "must be a finite number from 0 on")
    return request.load


def _expired(principal: Principal) -> bool:
    """Whether the caller's token has ended the stream, by a timer that may be a little early."""
    return principal.expires_at is not None and principal.expires_at <= time.time() + TIMER_SECONDS


async def _read(requests: AsyncIterator[bytes], lease: Lease, key: Key) -> None:
    """Renews the lease with each request."""
    async for raw in requests:
        request = parse(registry_service_pb2.KeepAliveRequest, raw)
        for name, expected in (("service_name", key.service), ("instance_id", key.id)):
            if getattr(request, name) not in ("", expected):
                raise invalid_field(name, f"is not {expected!r}, as in the first request")
        lease.renew(_load(request))


def _standing(instance: Instance) -> bytes:
    response = registry_service_pb2.KeepAliveResponse(
        status=int(instance.status),  # type: ignore[arg-type]
        status_reason=instance.status_reason,
    )
    response.lease_ttl.FromNanoseconds(instance.spec.lease_ns)
    return response.SerializeToString()


def _selection(raw: bytes) -> Selection:
    """What a request of Discover asks for."""
    return wire.decode_selection(parse(registry_service_pb2.DiscoverRequest, raw))


_recurring = lru_cache(maxsize=4096)(_selection)

"""The standard health service: overall, and for each service that the hub serves.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations  # grpc's classes take type arguments in its stubs only

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from switchboard_server.core.errors import shutting_down
from switchboard_server.rpc.errors import abort

NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
"""The service's full name."""
HEARING_SECONDS = 0.2
"""How long a shutdown waits for those who watch to be told: one of them may not read."""


class HealthService(HealthServicer):
    """Tells which services can be used now.

    Its own name stands for the process: SERVING until it shuts down, whatever is behind the others.
    An orchestrator asks for that, since a database that is down is down for every other hub as
    well, and to take them all out of service ends what still works.

    Args:
        services: Full names of the services that the hub serves. All are NOT_SERVING until told
            otherwise, and so is the hub as a whole ("").
    """

    def __init__(self, services: Iterable[str]) -> None:
        super().__init__()
        self._statuses: dict[str, bool] = dict.fromkeys(services, False)
        self._changed = asyncio.Event()
        self._watching: set[asyncio.Event] = set()
        for service in ("", *self._statuses):
            self._server_status[service] = health_pb2.HealthCheckResponse.NOT_SERVING
        self._server_status[NAME] = health_pb2.HealthCheckResponse.SERVING

    @property
    def statuses(self) -> dict[str, bool]:
        """Whether each service serves."""
        return dict(self._statuses)

    async def report(self, service: str, *, serving: bool) -> None:
        """Sets a service's status; the hub as a whole serves when all its services do.

        After `shut_down` it does nothing.
        """
        if self._gracefully_shutting_down:
            return
        self._statuses[service] = serving
        await self.set(service, _status(serving))
        await self.set("", _status(all(self._statuses.values())))

    async def shut_down(self) -> None:
        """Sets everything to NOT_SERVING, for good, and has those told who watch."""
        self._statuses = dict.fromkeys(self._statuses, False)
        await self.enter_graceful_shutdown()
        # All other streams end next, and nobody is to hear of that first.
        hearing = [asyncio.create_task(each.wait()) for each in self._watching]
        if hearing:
            _, late = await asyncio.wait(hearing, timeout=HEARING_SECONDS)
            for each in late:
                each.cancel()

    async def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Tells a status whenever it changes, until the hub shuts down.

        The library's own goes on for ever, and so would keep the hub until the drain's deadline.
        """
        heard = asyncio.Event()
        self._watching.add(heard)
        try:
            await self._tell(request, context, heard)
        finally:
            heard.set()
            self._watching.discard(heard)

    async def _tell(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[Any, Any],
        heard: asyncio.Event,
    ) -> None:
        told: int | None = None
        while True:
            changed = self._changed
            status = self._server_status.get(
                request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            )
            if status != told:
                told = status
                await context.write(health_pb2.HealthCheckResponse(status=status))
            elif self._gracefully_shutting_down:
                heard.set()
                await abort(context, shutting_down())
            else:
                await changed.wait()

    async def _set(
        self, service: str, status: health_pb2.HealthCheckResponse.ServingStatus
    ) -> None:
        self._server_status[service] = status
        self._changed.set()
        self._changed = asyncio.Event()

    async def List(
        self,
        _request: health_pb2.HealthListRequest,
        _context: grpc.aio.ServicerContext[Any, Any],
    ) -> health_pb2.HealthListResponse:
        """Lists every status at once."""
        response = health_pb2.HealthListResponse()
        for service, status in self._server_status.items():
            response.statuses[service].status = status
        return response


def _status(serving: bool) -> health_pb2.HealthCheckResponse.ServingStatus:
    return (
        health_pb2.HealthCheckResponse.SERVING
        if serving
        else health_pb2.HealthCheckResponse.NOT_SERVING
    )

"""The standard health service: overall, and for each service that the hub serves.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations  # grpc's classes take type arguments in its stubs only

from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
"""The service's full name."""


class HealthService(HealthServicer):
    """Tells which services can be used now.

    Args:
        services: Full names of the services that the hub serves. All are NOT_SERVING until told
            otherwise, and so is the hub as a whole ("").
    """

    def __init__(self, services: Iterable[str]) -> None:
        super().__init__()
        self._statuses: dict[str, bool] = dict.fromkeys(services, False)
        for service in ("", *self._statuses):
            self._server_status[service] = health_pb2.HealthCheckResponse.NOT_SERVING

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
        """Sets everything to NOT_SERVING, for good."""
        self._statuses = dict.fromkeys(self._statuses, False)
        await self.enter_graceful_shutdown()

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

"""Workers that ask the registry."""

import asyncio
from collections import Counter
from typing import Any

from scripts.benchmarks.call_clients import IN_FLIGHT, time_all
from scripts.benchmarks.grpc_client import connect
from scripts.benchmarks.load import CheckError
from scripts.benchmarks.worker import Link
from switchboard.v1.registry_service_pb2 import DiscoverRequest, DiscoverResponse, RegisterRequest
from switchboard.v1.service_instance_pb2 import ServiceInstance

INSTANCES = 10_000
"""Instances that are registered."""
SERVICES = 500
"""Services that they belong to, as many to each."""

_REGISTRY = "/switchboard.v1.RegistryService/"


async def hub_discover(link: Link, port: int, calls: int) -> None:
    """Registers many instances, then asks for one of each service in turn."""
    async with connect(port) as channel:
        await _register_all(channel.unary_unary(f"{_REGISTRY}Register"))
        requests = [
            DiscoverRequest(service_name=f"service{number}").SerializeToString()
            for number in range(SERVICES)
        ]
        picked: Counter[str] = Counter()

        def check(first: int, answers: list[bytes]) -> None:
            for number, raw in enumerate(answers, first):
                response = DiscoverResponse.FromString(raw)
                (instance,) = response.instances
                if instance.service_name != f"service{number % SERVICES}":
                    raise CheckError("the answer is of another service")
                if response.candidates != INSTANCES // SERVICES:
                    raise CheckError("not all instances are candidates")
                picked[instance.instance_id] += 1

        await time_all(link, channel.unary_unary(f"{_REGISTRY}Discover"), requests, check, calls)
    for service in range(SERVICES):
        turns = [picked[f"i{number}"] for number in range(service, INSTANCES, SERVICES)]
        if max(turns) - min(turns) > 1:
            raise CheckError(f"service{service} was not picked from in turn: {turns}")
    link.report("checked")


async def _register_all(call: Any) -> None:
    numbers = iter(range(INSTANCES))

    async def lane() -> None:
        for number in numbers:
            instance = ServiceInstance(
                service_name=f"service{number % SERVICES}",
                instance_id=f"i{number}",
                host="10.0.0.1",
                port=1 + number,
                version="1.2.3",
                zone="a",
                metadata={"team": "users"},
                lease_ttl={"seconds": 24 * 3600},  # type: ignore[arg-type]
            )
            await call(RegisterRequest(instance=instance).SerializeToString(), wait_for_ready=True)

    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))

"""Workers that ask the registry, watch it and change it."""

import asyncio
import math
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

from scripts.benchmarks.call_clients import IN_FLIGHT, time_all
from scripts.benchmarks.grpc_client import connect
from scripts.benchmarks.load import CheckError
from scripts.benchmarks.worker import Link
from switchboard.v1.registry_service_pb2 import (
    DiscoverRequest,
    DiscoverResponse,
    RegisterRequest,
    RegisterResponse,
)
from switchboard.v1.service_instance_pb2 import ServiceInstance
from switchboard.v1.watch_pb2 import WatchRequest, WatchResponse

INSTANCES = 10_000
"""Instances that are registered."""
SERVICES = 500
"""Services that they belong to, as many to each."""

_REGISTRY = "/switchboard.v1.RegistryService/"
_WATCHED, _UNWATCHED = "service0", "service1"
_WATCHERS_A_CONNECTION = 10
_SECONDS = 30.0
_WARM = 10
_CHANGING = 100


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


async def watch(link: Link, port: int, watchers: int, changes: int) -> None:
    """Changes an instance again and again, each time until the last of the watchers has heard.

    All watchers watch its service, one of many that are registered.
    """
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(connect(port))
        register: Any = channel.unary_unary(f"{_REGISTRY}Register")
        await _register_all(register)
        crowd = _Watchers()
        for _ in range(0, watchers, _WATCHERS_A_CONNECTION):
            watching = await stack.enter_async_context(connect(port))
            for _ in range(_WATCHERS_A_CONNECTION):
                await crowd.add(watching)
        numbers = iter(range(1 << 30))

        async def once() -> float:
            began = time.perf_counter()
            answer = await register(_changed(_WATCHED, next(numbers)))
            revision = RegisterResponse.FromString(answer).instance.revision
            return await crowd.heard(revision) - began

        for _ in range(_WARM):
            await once()
        link.report("ready")
        while await link.go():
            times = sorted([await once() for _ in range(changes)])
            link.report("done", p99=times[math.ceil(0.99 * changes) - 1])
        crowd.close()
    link.report("checked")


async def change(link: Link, port: int, changes: int) -> None:
    """Changes instances that nobody watches, many at a time."""
    async with connect(port) as channel:
        requests = [_changed(_UNWATCHED, number) for number in range(INSTANCES)]

        def check(_first: int, answers: list[bytes]) -> None:
            revisions = {RegisterResponse.FromString(raw).instance.revision for raw in answers}
            if len(revisions) != len(answers):
                raise CheckError("some changes were none")

        register: Any = channel.unary_unary(f"{_REGISTRY}Register")
        await time_all(link, register, requests, check, changes)


class _Watchers:
    """Streams of Watch on one service, each of which has to tell every change of it once."""

    def __init__(self) -> None:
        self._revisions: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._wanted = 0
        self._all: asyncio.Future[float] | None = None

    async def add(self, channel: Any) -> None:
        """Opens one, and waits until it has told how things stand."""
        call: Any = channel.unary_stream(f"{_REGISTRY}Watch")
        request = WatchRequest(service_names=[_WATCHED]).SerializeToString()
        stream = call(request, wait_for_ready=True)
        while True:
            response = WatchResponse.FromString(await stream.read())
            if response.WhichOneof("control") == "snapshot_end":
                break
        self._tasks.append(asyncio.create_task(self._read(stream)))

    async def heard(self, revision: int) -> float:
        """Waits until each has told one change, of this revision, and returns when that was."""
        self._wanted = revision
        heard: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._all = heard
        early = [each for each in self._revisions if each != revision]
        if early:
            raise CheckError(f"watchers told of {early} and not of {revision}")
        if len(self._revisions) == len(self._tasks):
            self._finish()
        async with asyncio.timeout(_SECONDS):
            return await heard

    def close(self) -> None:
        """Ends them."""
        for task in self._tasks:
            task.cancel()

    async def _read(self, stream: Any) -> None:
        while True:
            raw = await stream.read()
            response = WatchResponse.FromString(raw)
            if response.WhichOneof("control") == "heartbeat":
                continue
            for each in response.changes:
                self._revisions.append(each.instance.revision)
            if len(self._revisions) >= len(self._tasks) and self._all is not None:
                self._finish()

    def _finish(self) -> None:
        assert self._all is not None  # both callers have looked
        now = time.perf_counter()
        told, self._revisions = self._revisions, []
        waiting, self._all = self._all, None
        if waiting.done():
            return
        if told == [self._wanted] * len(self._tasks):
            waiting.set_result(now)
        else:
            waiting.set_exception(CheckError(f"watchers told of other revisions: {set(told)}"))


def _changed(service: str, number: int) -> bytes:
    """A registration that differs from the one before."""
    instance = ServiceInstance(
        service_name=service,
        # More than are changed at the same time, which would make one change of two.
        instance_id=f"changing{number % _CHANGING}",
        host="10.0.0.2",
        port=80,
        metadata={"change": str(number)},
        lease_ttl={"seconds": 24 * 3600},  # type: ignore[arg-type]
    )
    return RegisterRequest(instance=instance).SerializeToString()

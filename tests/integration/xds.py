"""Servers that say who they are, and programs that call them over xds:///."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import grpc

from tests.integration.client import DEADLINE
from tests.integration.credentials import run_command
from tests.support.hub import HubProcess

XDS = {"SWITCHBOARD_XDS": "true"}
CALLS = 40
"""Calls by which it is seen who is called: one with a weight of 1 of 4 is hardly ever missed."""
PROGRAM = Path(__file__).with_name("xds_client.py")


@asynccontextmanager
async def answering(name: str) -> AsyncIterator[int]:
    """A gRPC server that says who it is, and its port."""

    async def answer(_request: bytes, _context: object) -> bytes:
        return name.encode()

    class Handler(grpc.GenericRpcHandler):
        def service(self, _details: grpc.HandlerCallDetails) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


class Caller:
    """A client program, with the bootstrap that the hub's command prints.

    Args:
        hub: The hub.
        service: What the program dials.
        *options: Options of the command.
        program: The program.
    """

    def __init__(
        self,
        hub: HubProcess,
        service: str,
        *options: str,
        program: tuple[str, ...] = (sys.executable, str(PROGRAM)),
    ) -> None:
        self.printed = run_command(
            hub.folder, "xds-bootstrap", "--server", hub.address, *options
        ).stdout
        self.process = subprocess.Popen(
            [*program, service],
            env={**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": self.printed},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def call(self, count: int) -> dict[str, int]:
        """Makes calls, and returns who answered how many, or with which status they failed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        answers: dict[str, int] = json.loads(await asyncio.to_thread(self.process.stdout.readline))
        return answers

    async def until(self, condition: Callable[[dict[str, int]], bool]) -> float:
        """Calls until the answers meet a condition, and returns how many seconds it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not condition(await self.call(CALLS)):
            assert loop.time() < began + DEADLINE
        return loop.time() - began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)

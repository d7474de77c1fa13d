"""An empty grpc.aio server: `python -m scripts.benchmarks.echo PORT`.

What it costs to call it is what gRPC costs in Python with nothing behind it. It runs with the hub's
options, under the same event loop, and like the hub's hot paths it neither parses nor serializes.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

from switchboard_server.rpc.server import OPTIONS

UNARY = "/bench.Echo/Unary"
"""Path of the rpc that answers a request with itself."""
STREAM = "/bench.Echo/Stream"
"""Path of the rpc that answers each request of a stream with itself."""


class _Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method == UNARY:
            return grpc.unary_unary_rpc_method_handler(_unary)
        if handler_call_details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(_stream)
        return None


async def _unary(request: bytes, _context: Any) -> bytes:
    return request


async def _stream(requests: AsyncIterator[bytes], context: Any) -> None:
    async for request in requests:
        await context.write(request)


async def _serve(port: int) -> None:
    server = grpc.aio.server(options=list(OPTIONS.items()))
    server.add_generic_rpc_handlers((_Echo(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))

"""Small servers for health checks to try: each does what a test says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class TcpServer:
    """A server on loopback.

    Attributes:
        answer: What it answers to a request; None: nothing, it lets the client wait; empty: it
            closes at once.
        requests: The requests so far.
    """

    def __init__(self, answer: bytes | None = OK) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listens, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listens no more, and drops its connections."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self.answer == b"":
                return
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                if self.answer is None:
                    await reader.read()
                else:
                    writer.write(self.answer)
                    await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()


@asynccontextmanager
async def serving(answer: bytes | None = OK) -> AsyncIterator[TcpServer]:
    """A running TcpServer."""
    server = TcpServer(answer)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class HealthServer:
    """A gRPC server with the health service, whose statuses a test sets."""

    def __init__(self) -> None:
        self.servicer = HealthServicer()
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self.servicer, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    async def says(self, service: str, status: str) -> None:
        """Sets the status of a service."""
        value = health_pb2.HealthCheckResponse.ServingStatus.Value(status)
        await self.servicer.set(service, value)  # type: ignore[arg-type]


@asynccontextmanager
async def serving_health() -> AsyncIterator[HealthServer]:
    """A running HealthServer."""
    made = HealthServer()
    await made.server.start()
    try:
        yield made
    finally:
        await made.server.stop(None)

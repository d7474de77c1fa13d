"""Tries instances as their registrations ask for it."""

import asyncio
import ssl
import time

from switchboard_server.backends.probes.grpc_health import GrpcProbe
from switchboard_server.backends.probes.http import probe_http
from switchboard_server.backends.probes.resolving import Resolver, UnreachableError
from switchboard_server.core.registry.entries import Verdict
from switchboard_server.core.registry.model import ProbeKind, Status
from switchboard_server.core.registry.networks import AllowedNetworks
from switchboard_server.core.registry.targets import Target


class NetworkProber:
    """A `Prober` over the network.

    Args:
        networks: What the hub may call.
    """

    def __init__(self, networks: AllowedNetworks) -> None:
        self._resolver = Resolver(networks)
        self._grpc = GrpcProbe()
        self._tls: ssl.SSLContext | None = None

    async def admit(self, target: Target) -> None:
        """See `Prober.admit`."""
        await self._resolver.admit(target)

    async def probe(self, target: Target, seconds: float) -> Verdict:
        """See `Prober.probe`."""
        try:
            async with asyncio.timeout(seconds):
                return await self._probe(target, seconds)
        except TimeoutError:
            return Verdict(Status.UNHEALTHY, f"no answer within {seconds:g} s")
        except UnreachableError as error:
            return Verdict(Status.UNHEALTHY, str(error))
        except (EOFError, ConnectionResetError):
            # Whether it ends or is reset depends on whether the server had read what was sent.
            return Verdict(Status.UNHEALTHY, "the connection was closed without an answer")
        except OSError as error:
            text = str(error.strerror or error)[:200]
            return Verdict(Status.UNHEALTHY, f"{target.address}: {text}")

    async def close(self) -> None:
        """See `Prober.close`."""
        await self._grpc.close()

    async def _probe(self, target: Target, seconds: float) -> Verdict:
        failure: OSError | None = None
        for address in await self._resolver.find(target):
            try:
                return await self._probe_at(address, target, seconds)
            except OSError as error:
                # As with "localhost", which is ::1 first, where many do not listen.
                failure = error
        assert failure is not None, "there is an address"
        raise failure

    async def _probe_at(self, address: str, target: Target, seconds: float) -> Verdict:
        if target.kind is ProbeKind.GRPC:
            return await self._grpc.probe(target, address, seconds)
        if target.kind is ProbeKind.HTTP:
            return await probe_http(target, address, self._context() if target.tls else None)
        began = time.perf_counter()
        _, writer = await asyncio.open_connection(address, target.port)
        writer.transport.abort()
        took = f"{(time.perf_counter() - began) * 1000:.0f} ms"
        return Verdict(Status.SERVING, f"TCP accepted in {took}")

    def _context(self) -> ssl.SSLContext:
        # Made when it is first needed: reading the machine's authorities takes a while.
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

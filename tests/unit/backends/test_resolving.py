"""What a health check calls is what was held against the networks, whatever the name says next."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from switchboard_server.backends.probes.prober import NetworkProber
from switchboard_server.core.errors import PermissionDeniedError
from switchboard_server.core.registry.model import ProbeKind, Status
from switchboard_server.core.registry.networks import AllowedNetworks
from switchboard_server.core.registry.targets import Target

Names = Callable[..., None]
METADATA = "169.254.169.254"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Has every name lead to other addresses each time that it is asked for."""

    def lead(*answers: list[str]) -> None:
        left = list(answers)

        async def getaddrinfo(_loop: object, host: str, port: int, **_more: object) -> list[Any]:
            # Addresses are no names, and asyncio looks at them as well.
            found = [host] if host[0].isdigit() else left.pop(0)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)

    return lead


def target(port: int, kind: ProbeKind = ProbeKind.TCP) -> Target:
    return Target(kind, "service.example", port)


@pytest.mark.parametrize("kind", [ProbeKind.TCP, ProbeKind.HTTP, ProbeKind.GRPC])
async def test_a_name_that_turns_to_a_forbidden_address_is_not_called(
    names: Names, kind: ProbeKind
) -> None:
    prober = NetworkProber(AllowedNetworks())
    names(["127.0.0.1"], [METADATA])
    await prober.admit(target(1, kind))
    verdict = await prober.probe(target(1, kind), 5)
    assert verdict.status is Status.UNHEALTHY
    assert "outside HEALTH_CHECK_ALLOWED_NETWORKS" in verdict.reason
    await prober.close()


async def test_of_several_addresses_only_those_that_are_allowed_are_called(names: Names) -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    prober = NetworkProber(AllowedNetworks())
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        names([METADATA, "127.0.0.1"])
        verdict = await prober.probe(target(port), 5)
        assert (verdict.status, "TCP accepted" in verdict.reason) == (Status.SERVING, True)
    await prober.close()


async def test_a_name_of_forbidden_addresses_alone_is_not_admitted(names: Names) -> None:
    names([METADATA, "8.8.8.8"])
    with pytest.raises(PermissionDeniedError, match=r"may not check service\.example:80"):
        await NetworkProber(AllowedNetworks()).admit(target(80))

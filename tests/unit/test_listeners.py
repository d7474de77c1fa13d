"""On which addresses of a host a port is tried."""

import errno
import socket
from collections.abc import Sequence

import pytest

from switchboard_server.telemetry.listeners import BindError, free_addresses

NAME = "hub.example"


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Has every name stand for these addresses."""
    found = [
        (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0))
        for each in addresses
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: found)


def refusing(monkeypatch: pytest.MonkeyPatch, refused: Sequence[str], code: int) -> None:
    """Has listening fail on some addresses."""
    create = socket.create_server

    def listen(address: tuple[str, int], **options: object) -> socket.socket:
        if address[0] in refused:
            raise OSError(code, "no")
        return create(("127.0.0.1", 0))

    monkeypatch.setattr(socket, "create_server", listen)


async def test_a_port_that_is_taken_on_the_second_address_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        resolving_to(monkeypatch, "127.0.0.1", "127.0.0.2")
        with pytest.raises(BindError, match=f"127.0.0.2 port {port}: it is in use"):
            await free_addresses("GRPC_PORT", NAME, port)


async def test_a_name_is_listened_on_at_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving_to(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.1")
    refusing(monkeypatch, [], 0)
    assert await free_addresses("GRPC_PORT", NAME, 50051) == ["127.0.0.1", "127.0.0.2"]


async def test_any_port_is_looked_for_on_the_first_address_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolving_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    assert await free_addresses("GRPC_PORT", NAME, 0) == ["127.0.0.1"]


@pytest.mark.parametrize("code", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
async def test_an_address_that_the_machine_does_not_have_is_passed_over(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving_to(monkeypatch, "::1", "127.0.0.1")
    refusing(monkeypatch, ["::1"], code)
    assert await free_addresses("GRPC_PORT", NAME, 50051) == ["127.0.0.1"]


async def test_a_host_none_of_whose_addresses_is_here_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolving_to(monkeypatch, "192.0.2.1")
    with pytest.raises(BindError, match="the machine does not have this address"):
        await free_addresses("GRPC_PORT", NAME, 50051)


async def test_a_name_that_stands_for_nothing_is_refused() -> None:
    with pytest.raises(BindError, match=r"cannot listen on no\.such\.host\.invalid port 1"):
        await free_addresses("GRPC_PORT", "no.such.host.invalid", 1)

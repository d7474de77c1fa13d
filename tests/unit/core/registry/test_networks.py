"""Which addresses the hub may call."""

from ipaddress import ip_network

import pytest

from switchboard_server.core.registry.networks import AllowedNetworks


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "fd12::1"]
)
def test_loopback_and_private_addresses_may_be_called(address: str) -> None:
    assert AllowedNetworks().allows(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "172.32.0.1", "2001:4860:4860::8888", "::ffff:8.8.8.8", "100.64.0.1"],
)
def test_others_may_not(address: str) -> None:
    assert not AllowedNetworks().allows(address)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1",
        "fe80::1%eth0",
        "0.0.0.0",  # noqa: S104
        "::",
        "224.0.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
    ],
)
def test_link_local_and_metadata_addresses_never_may(address: str) -> None:
    everything = AllowedNetworks([ip_network("0.0.0.0/0"), ip_network("::/0")])
    assert not everything.allows(address)
    assert everything.allows("8.8.8.8")

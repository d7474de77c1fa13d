"""Which addresses the hub may call for health checks.

Whoever may register can have the hub call somebody, so it calls into configured networks only, and
never the addresses by which clouds hand out credentials:
https://cheatsheetseries.owasp.org/cheatsheets/Server_Side_Request_Forgery_Prevention_Cheat_Sheet.html
"""

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SETTING = "HEALTH_CHECK_ALLOWED_NETWORKS"
"""Name of the setting, for errors."""
DEFAULT_NETWORKS: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            "127.0.0.0/8",
            "::1/128",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "fc00::/7",
        ),
    )
)
"""Loopback and the private ranges (RFC 1918, RFC 4193)."""

_METADATA: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            "100.100.100.200/32",  # Alibaba Cloud
            "168.63.129.16/32",  # Azure's wire server
            "192.0.0.192/32",  # Oracle Cloud
            "fd00:ec2::254/128",  # AWS
            "fd20:ce::254/128",  # Google Cloud
        ),
    )
)


class AllowedNetworks:
    """The networks that the hub may call.

    Args:
        networks: Allowed; link-local, multicast, unspecified and metadata addresses never are,
            whatever stands here.
    """

    def __init__(self, networks: Iterable[Network] = DEFAULT_NETWORKS) -> None:
        self._networks = tuple(networks)

    def allows(self, address: str) -> bool:
        """Whether the hub may call an IP address."""
        parsed: Address = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            # The kernel calls the IPv4 address that is inside.
            parsed = parsed.ipv4_mapped
        if parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified:
            return False
        if any(parsed in network for network in _METADATA):
            return False
        return any(parsed in network for network in self._networks)

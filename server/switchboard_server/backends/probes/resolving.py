"""Names to addresses that the hub may call.

A name is resolved once for each check, and what was checked is what is then called: a name that
shows another address the second time it is asked (DNS rebinding) gains nothing.
"""

import asyncio
import ipaddress
import socket

from switchboard_server.core.errors import PermissionDeniedError
from switchboard_server.core.registry.networks import SETTING, AllowedNetworks
from switchboard_server.core.registry.targets import Target

ADMIT_SECONDS = 2.0
"""How long a registration waits for a name to be resolved."""
MAX_ADDRESSES = 4
"""How many addresses of a name are tried."""


class UnreachableError(Exception):
    """There is no address to try; the text says why."""


class Resolver:
    """Finds the addresses of a target.

    Args:
        networks: What the hub may call.
    """

    def __init__(self, networks: AllowedNetworks) -> None:
        self._networks = networks

    async def admit(self, target: Target) -> None:
        """See `Prober.admit`."""
        try:
            async with asyncio.timeout(ADMIT_SECONDS):
                addresses = await self._resolve(target)
        except (OSError, TimeoutError):
            return
        if not any(map(self._networks.allows, addresses)):
            raise PermissionDeniedError(
                "ADDRESS_NOT_ALLOWED",
                f"the hub may not check {target.address}; add its network to {SETTING}, "
                "or register without an HTTP, gRPC or TCP check",
                metadata={"address": target.address, "setting": SETTING},
            )

    async def find(self, target: Target) -> list[str]:
        """The IP addresses to call, one after the other until one accepts.

        Raises:
            UnreachableError: The name has no address, or none that the hub may call.
        """
        try:
            addresses = await self._resolve(target)
        except OSError as error:
            raise UnreachableError(f"{target.host} cannot be resolved: {error.strerror}") from error
        allowed = [each for each in dict.fromkeys(addresses) if self._networks.allows(each)]
        if not allowed:
            raise UnreachableError(f"{target.host} is outside {SETTING}")
        return allowed[:MAX_ADDRESSES]

    @staticmethod
    async def _resolve(target: Target) -> list[str]:
        try:
            ipaddress.ip_address(target.host)
        except ValueError:
            found = await asyncio.get_running_loop().getaddrinfo(
                target.host, target.port, type=socket.SOCK_STREAM
            )
            return [str(each[4][0]) for each in found]
        return [target.host]

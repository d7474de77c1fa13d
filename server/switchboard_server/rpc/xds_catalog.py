"""The registry as xDS resources, each encoded once for all who ask."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from functools import lru_cache

from switchboard_server.core.registry.model import Instance
from switchboard_server.core.registry.registry import Registry
from switchboard_server.rpc import xds_resources
from switchboard_server.rpc.xds_resources import CLUSTER, ENDPOINTS, LISTENER, ROUTE

RESOLVE_SECONDS = 30.0
"""How long the address of a host name is taken to stay as it is."""
RETRY_SECONDS = 1.0
"""How soon a name that could not be resolved is tried again."""


class Catalog:
    """Makes resources.

    xDS clients want IP addresses. Where an instance registered a host name, the hub resolves it;
    until that is done the instance is not told, and then its service is told anew.

    Args:
        registry: What is registered.
        resolved: Is told a service whose endpoints are others because a name has been resolved.
    """

    def __init__(self, registry: Registry, resolved: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._registry = registry
        self._resolved = resolved
        self._endpoints: dict[str, tuple[int, bytes]] = {}
        self._addresses: dict[str, str] = {}
        self._asked: dict[str, set[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def resource(self, kind: str, name: str) -> bytes:
        """A resource as an encoded Any.

        A service that is not there has one without endpoints, so that calls to it fail at once and
        not after a timeout.

        Args:
            kind: One of `xds_resources.TYPES`.
            name: The service.
        """
        return self.endpoints(name) if kind == ENDPOINTS else _constant(kind, name)

    def endpoints(self, name: str) -> bytes:
        """The endpoints of a service."""
        version, instances = self._registry.service(name)
        known = self._endpoints.get(name)
        if known is not None and known[0] == version:
            return known[1]
        found: list[tuple[Instance, str]] = []
        for instance in instances:
            address = self._address(instance.spec.host, name)
            if address is not None:
                found.append((instance, address))
        made = xds_resources.endpoints(name, found)
        if instances:
            self._endpoints[name] = version, made
        return made

    def forget(self, name: str) -> None:
        """Lets go of the endpoints of a service, which have changed."""
        self._endpoints.pop(name, None)

    async def close(self) -> None:
        """Resolves nothing any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _address(self, host: str, service: str) -> str | None:
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            pass
        if host not in self._asked:
            self._asked[host] = set()
            task = self._loop.create_task(self._resolve(host))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._asked[host].add(service)
        return self._addresses.get(host)

    async def _resolve(self, host: str) -> None:
        """Follows the address of a name for as long as a service has it."""
        while True:
            try:
                found = await self._loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except OSError:
                found = []
            # IPv4 first, which more servers listen on, as with "localhost".
            addresses = sorted((str(each[4][0]) for each in found), key=lambda each: ":" in each)
            if addresses and self._addresses.get(host) not in addresses:
                self._addresses[host] = addresses[0]
                for service in self._asked[host]:
                    self._endpoints.pop(service, None)
                    self._resolved(service)
            await asyncio.sleep(RESOLVE_SECONDS if addresses else RETRY_SECONDS)
            self._asked[host] = {each for each in self._asked[host] if self._uses(each, host)}
            if not self._asked[host]:
                del self._asked[host]
                self._addresses.pop(host, None)
                return

    def _uses(self, service: str, host: str) -> bool:
        return any(each.spec.host == host for each in self._registry.service(service)[1])


@lru_cache(maxsize=4096)
def _constant(kind: str, name: str) -> bytes:
    """A resource that says the same as long as the hub runs."""
    make = {
        LISTENER: xds_resources.listener,
        ROUTE: xds_resources.route,
        CLUSTER: xds_resources.cluster,
    }[kind]
    return make(name)

"""An instance whose lease a stream holds, where nodes share the registry without a server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from switchboard_server.core.errors import AbortedError, NotFoundError
from switchboard_server.core.registry.leases import Lease
from switchboard_server.core.registry.model import Status
from tests.support.loop import turns
from tests.support.shared_registry import Sharing, SharingNode, a_key, sharing

LEASE = 10.0
"""Lease of the instances, in seconds."""
LEASE_NS = round(LEASE * 1e9)
THERE = {"i1": Status.SERVING}


@asynccontextmanager
async def held(**fields: Any) -> AsyncIterator[tuple[Sharing, SharingNode, SharingNode, Lease]]:
    """Two nodes, and a stream of the first one that holds the lease of an instance.

    Args:
        fields: What the instance registers besides.
    """
    async with sharing(2) as nodes:
        one, two = nodes.nodes
        await one.register(1, lease_ns=LEASE_NS, **fields)
        lease = await one.registry.keep_alive(a_key(), None)
        assert await lease.next() is not None
        await turns()
        yield nodes, one, two, lease
        if lease in one.registry._leases:
            one.registry.let_go(lease, broken=False)


async def reason_of(lease: Lease) -> str:
    """Why a stream was ended."""
    assert lease.ended
    with pytest.raises((AbortedError, NotFoundError)) as caught:
        await lease.next()
    return caught.value.reason

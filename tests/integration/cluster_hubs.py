"""Hubs in one process that share a RabbitMQ, as far as events go."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from switchboard_server.backends.rabbitmq.log import ClusterLogSettings
from switchboard_server.core.events import EventHub
from switchboard_server.core.records import Codec
from switchboard_server.core.subscription import Subscription
from switchboard_server.core.tail import Chunk
from tests.support.brokers import RabbitServer
from tests.support.cluster_logs import LogNode, a_prefix
from tests.support.events import bodies


class Hub:
    """A node with a hub."""

    def __init__(self, node: LogNode) -> None:
        self.node = node
        self.events = EventHub(node.log)

    async def texts(self, subscription: Subscription, count: int) -> list[str]:
        """So many events of a subscription."""
        found: list[str] = []
        while len(found) < count:
            item = await subscription.next()
            if isinstance(item, Chunk):
                found += bodies(item.frames)
        return found


@asynccontextmanager
async def hubs(
    rabbit: RabbitServer,
    count: int,
    prefix: str = "",
    *,
    codec: Codec | None = None,
    settings: ClusterLogSettings | None = None,
    first: int = 0,
) -> AsyncIterator[list[Hub]]:
    """Open hubs of one cluster, which are numbered from a first one on."""
    prefix = prefix or a_prefix()
    async with AsyncExitStack() as stack:
        made = []
        for number in range(first, first + count):
            hub = Hub(LogNode(rabbit.url, prefix, f"n{number}", codec=codec, settings=settings))
            stack.push_async_callback(hub.node.close)
            await hub.node.start()
            await hub.events.open()
            made.append(hub)
        yield made

"""Groups in the journal of a seat, under the tests of every `GroupStore`.

Events are in a SQLite log: how a journal keeps groups does not depend on who keeps the events.
"""

from dataclasses import dataclass, field

from switchboard_server.backends.embedded.sqlite import SqliteStore
from switchboard_server.backends.embedded.store import Retention
from switchboard_server.backends.rabbitmq.groups import JournalGroups
from switchboard_server.backends.rabbitmq.journal import Journal
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.seat import Term
from switchboard_server.backends.rabbitmq.topology import Topology
from switchboard_server.core.ports import Capabilities
from tests.conformance.backends import BACKENDS, MEMORY, SQLITE, Bench, OpenLog
from tests.support.logs import HookedStore
from tests.support.rabbit import PATIENCE_SECONDS, fresh_topology

JOURNAL = "journal"
GROUP_BACKENDS = {
    MEMORY: BACKENDS[MEMORY],
    SQLITE: BACKENDS[SQLITE],
    JOURNAL: Capabilities(
        name="rabbitmq",
        durable="on a majority of RabbitMQ's nodes, not fsynced",
        survives_restart=True,
        contiguous=True,
    ),
}
"""What each backend promises of groups, by its name."""


@dataclass
class JournalBench(Bench):
    """The seat of some groups, held by one after the other.

    Args:
        topology: The names.
    """

    topology: Topology = field(default_factory=fresh_topology)

    @property
    def capabilities(self) -> Capabilities:
        """What the backend promises."""
        return GROUP_BACKENDS[JOURNAL]

    async def open(self, retention: Retention | None = None) -> OpenLog:
        """Takes the seat, over a log that is the same again."""
        store = HookedStore(SqliteStore(self.folder, retention or Retention()))
        opened = OpenJournal(store)
        await opened.log.open(opened.listener)
        self.opened.append(opened)
        await opened.take(self.url, self.topology)
        return opened


class OpenJournal(OpenLog):
    """The seat, held; and the log."""

    async def take(self, url: str, topology: Topology) -> None:
        """Takes the seat."""
        self.link = Link(url, "groups")
        await self.link.start()
        await self.link.wait_connected(PATIENCE_SECONDS)
        self.term = Term("groups", await self.link.channel(confirms=True))
        self.groups: JournalGroups = JournalGroups(
            Journal(self.link, topology, self.term),
            self.embedded.read_each,
            lambda: self.log.window.first - 1,
        )
        await self.groups.open()

    async def close(self) -> None:
        """Closes it all."""
        await self.groups.close()
        await self.link.close()
        await self.log.close()

"""What is declared on RabbitMQ, by whom it is used, and how it is called.

The names of a version never change what they stand for: whoever needs other arguments takes another
version, and nodes of both run side by side until the old ones are gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VERSION = "v1"
"""Of everything that only the nodes use. The exchanges that other programs use have none."""

QUORUM: Mapping[str, Any] = {"x-queue-type": "quorum"}
"""Arguments of a queue that is replicated, and on disk before a publish is confirmed."""
STREAM: Mapping[str, Any] = {"x-queue-type": "stream"}
"""Arguments of a queue that keeps what has been read."""
SEAT: Mapping[str, Any] = {**QUORUM, "x-single-active-consumer": True}
"""Arguments of a queue that decides who holds a seat."""
NODE: Mapping[str, Any] = {
    "x-queue-type": "classic",
    "x-max-length-bytes": 256 * 1024 * 1024,
    "x-overflow": "reject-publish",
}
"""Arguments of a node's own queue. It fills up only while the node does not read, and those who
write to it are told when it is full."""


@dataclass(frozen=True, slots=True)
class Topology:
    """The names.

    Args:
        prefix: What they begin with: hubs with another prefix have nothing to do with each other.
    """

    prefix: str = "switchboard"

    @property
    def events(self) -> str:
        """Topic exchange that carries the numbered events; other programs may bind queues to it."""
        return self.prefix

    @property
    def log(self) -> str:
        """Stream that holds the numbered events."""
        return self._own("log")

    @property
    def inlet(self) -> str:
        """Topic exchange that other programs publish events to."""
        return f"{self.prefix}.in"

    @property
    def incoming(self) -> str:
        """Quorum queue of what other programs have published and has no number yet."""
        return self._own("in")

    @property
    def refused(self) -> str:
        """Quorum queue of what other programs have published and is no event."""
        return self._own("refused")

    @property
    def nodes(self) -> str:
        """Fan-out exchange between the nodes: who is there, and who holds which seat."""
        return self._own("nodes")

    def node(self, node_id: str) -> str:
        """Queue of a node, which goes with its connection."""
        return self._own(f"node.{node_id}")

    def seat(self, name: str) -> str:
        """Quorum queue whose one active consumer holds a seat."""
        return self._own(f"seat.{name}")

    def journal(self, name: str, side: str) -> str:
        """Stream that keeps what the holders of a seat have to know.

        Args:
            name: The seat.
            side: "a" or "b": one is written while the other is made anew.
        """
        return self._own(f"journal.{name}.{side}")

    def _own(self, name: str) -> str:
        return f"{self.prefix}.{VERSION}.{name}"

"""What all nodes of a hub need in common, and which of them differs in it."""

import hashlib
import logging
from collections.abc import Callable, Mapping

PATIENCE = 10
"""So many words of a node have to differ before that is told: where all get something new, they do
not get it at once."""

_logger = logging.getLogger(__name__)


class Agreement:
    """Compares what this node goes by with what others say they go by. Does no I/O.

    It travels as digests: equal or not is all that matters, and some of it is long.
    """

    def __init__(self) -> None:
        self._facts: dict[str, Callable[[], object]] = {}
        self._differing: dict[str, dict[str, int]] = {}

    def need(self, name: str, fact: Callable[[], object]) -> None:
        """Says what has to be the same everywhere.

        Args:
            name: What people know it by, such as a setting.
            fact: What it is here now; "" where that is not known.
        """
        self._facts[name] = fact

    def facts(self) -> dict[str, str]:
        """What is known of it here, as digests."""
        known = {name: fact() for name, fact in self._facts.items()}
        return {
            name: hashlib.sha256(repr(value).encode()).hexdigest()[:8]
            for name, value in known.items()
            if value != ""
        }

    def hear(self, node: str, session: str, facts: Mapping[str, str]) -> None:
        """Takes what another node says, and tells in the log what it differs in, once.

        Args:
            node: Its id.
            session: Its address.
            facts: What it goes by, as `facts` of it.
        """
        before, differing = self._differing.get(session, {}), {}
        for name, fact in self.facts().items():
            if facts.get(name, fact) == fact:
                continue
            differing[name] = before.get(name, 0) + 1
            if differing[name] == PATIENCE:
                _logger.warning(
                    "node %s has another %s than this one: all hubs of a cluster need the same",
                    node,
                    name,
                )
        self._differing[session] = differing

    def forget(self, session: str) -> None:
        """Takes notice that a node is gone."""
        self._differing.pop(session, None)

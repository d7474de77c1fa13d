"""Who is there, and who holds which seat, as the nodes themselves say it every second."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

SILENT_BEATS = 5
"""Who has not been heard while we have heard ourselves so often is gone."""
_FORGET_BEATS = 3 * SILENT_BEATS

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alive:
    """What a node says of itself.

    Args:
        node: Its id, the same for as long as the process runs.
        session: Its address, the same for as long as its connection to RabbitMQ lasts.
        holds: The seats that it holds, and which term of each this is.
        stands: The seats that it would take.
        beat: How often it has said so in this session; it does about once a second.
        joined: Whether it has just come and would like to hear from all.
        leaving: Whether this is the last of it.
        facts: What it goes by and all have to, as digests; see `Agreement`.
    """

    node: str
    session: str
    holds: dict[str, int] = field(default_factory=dict)
    stands: list[str] = field(default_factory=list)
    beat: int = 0
    joined: bool = False
    leaving: bool = False
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Node:
    """A node that is there.

    Args:
        id: As of `Alive`.
        session: As of `Alive`.
        since: When it came, seconds of a steady clock.
        heard: Which was our own beat when it was heard last.
        holds: As of `Alive`.
        stands: As of `Alive`.
    """

    id: str
    session: str
    since: float
    heard: int
    holds: dict[str, int] = field(default_factory=dict)
    stands: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Holding:
    """Who holds a seat.

    Args:
        session: Address of the node.
        epoch: Which term it is; later ones are higher.
    """

    session: str
    epoch: int


NodeListener = Callable[[Node, bool], None]
SeatListener = Callable[[str, Holding | None], None]


class Roster:
    """What one node knows of all, itself included. Does no I/O.

    How long somebody has been silent is measured by the node's own beats, which come the same way:
    while they do not, or late, for the node was frozen or has much to read, nobody else is to
    blame.

    Attributes:
        session: The node's own address; empty: it has none now.
        nodes: Those who are there, by their addresses.
        terms: Who holds which seat.
        node_listeners: Hear who came (True) and who is gone (False).
        seat_listeners: Hear who holds a seat now; None: nobody.
    """

    def __init__(self) -> None:
        self.session = ""
        self.nodes: dict[str, Node] = {}
        self.terms: dict[str, Holding] = {}
        self._beat = 0
        self._last = 0
        self._gone: dict[str, int] = {}
        self.node_listeners: dict[object, NodeListener] = {}
        self.seat_listeners: dict[object, SeatListener] = {}

    def hear(self, alive: Alive, now: float, *, late: bool = False) -> bool:
        """Takes what a node says.

        Args:
            alive: What it says.
            now: Seconds of a steady clock.
            late: Whether it is our own word, and not our last one: then others may be late too.

        Returns:
            False where it was given up before: it should take another address, for what was on its
            way to this one has been given up too.
        """
        if alive.leaving:
            self.remove(alive.session)
            return True
        if alive.session in self._gone:
            return False
        node = self.nodes.get(alive.session)
        is_new = node is None
        if node is None:
            # A node that has another address now has lost the one that it had.
            for other in [each for each in self.nodes.values() if each.id == alive.node]:
                self.remove(other.session)
            node = Node(alive.node, alive.session, now, self._beat)
            self.nodes[alive.session] = node
        node.heard = self._beat
        node.stands = frozenset(alive.stands)
        if is_new:
            self._tell(node, True)
        if node.holds != alive.holds:
            node.holds = dict(alive.holds)
            self._count()
        if alive.session == self.session and alive.beat > self._last:
            self._last = alive.beat
            if not late:
                self._beat += 1
                self._sweep()
        return True

    def remove(self, session: str) -> None:
        """Takes notice that a node is gone, and its address with it."""
        self._gone[session] = self._beat
        node = self.nodes.pop(session, None)
        if node is not None:
            self._count()
            self._tell(node, False)

    def begin(self, session: str) -> None:
        """Begins anew under another address, knowing nobody."""
        for each in list(self.nodes):
            self.remove(each)
        self.session = session
        self._gone.clear()
        self._beat = self._last = 0

    def standing(self, seat: str) -> Mapping[str, Node]:
        """The nodes that would take a seat, by their ids."""
        return {each.id: each for each in self.nodes.values() if seat in each.stands}

    def _sweep(self) -> None:
        for node in list(self.nodes.values()):
            if node.session != self.session and self._beat - node.heard > SILENT_BEATS:
                _logger.warning("node %s is silent", node.id)
                self.remove(node.session)
        for session, beat in list(self._gone.items()):
            if self._beat - beat > _FORGET_BEATS:
                del self._gone[session]

    def _tell(self, node: Node, is_there: bool) -> None:
        for listener in list(self.node_listeners.values()):
            listener(node, is_there)

    def _count(self) -> None:
        """Finds who holds what: of two who think they do, the later one."""
        terms: dict[str, Holding] = {}
        for node in self.nodes.values():
            for seat, epoch in node.holds.items():
                if seat not in terms or epoch > terms[seat].epoch:
                    terms[seat] = Holding(node.session, epoch)
        before, self.terms = self.terms, terms
        for seat in sorted(before.keys() | terms.keys()):
            if before.get(seat) != terms.get(seat):
                for listener in list(self.seat_listeners.values()):
                    listener(seat, terms.get(seat))

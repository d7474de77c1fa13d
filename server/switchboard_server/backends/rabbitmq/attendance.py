"""Who is there and who holds what, as a node knows it and says it of itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Set

from switchboard_server.backends.rabbitmq.roster import (
    Holding,
    Node,
    NodeListener,
    Roster,
    SeatListener,
)


class Attendance(ABC):
    """The part of `Peers` that is about the nodes themselves."""

    def __init__(self) -> None:
        self._roster = Roster()
        self._holds: dict[str, int] = {}
        self._stands: set[str] = set()

    @abstractmethod
    def _say(self) -> object:
        """Says to all what this node holds and would take."""

    @property
    def session(self) -> str:
        """This node's address; empty while it has none."""
        return self._roster.session

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Who is there, this node included, by address. None while there is no connection."""
        return self._roster.nodes

    def is_there(self, session: str) -> bool:
        """Whether a node is there."""
        return session in self.nodes

    def holds(self, seat: str, epoch: int) -> bool:
        """Whether this node holds a seat, and this is the term of it."""
        return self._holds.get(seat) == epoch

    def term(self, seat: str) -> Holding | None:
        """Who holds a seat; None: nobody says so."""
        return self._roster.terms.get(seat)

    @property
    def stands(self) -> Set[str]:
        """The seats that this node would take."""
        return self._stands

    def standing(self, seat: str) -> Mapping[str, Node]:
        """The nodes that would take a seat, by their ids."""
        return self._roster.standing(seat)

    def watch_nodes(self, listener: NodeListener) -> Callable[[], None]:
        """Has somebody hear who came (True) and who is gone (False).

        Args:
            listener: Called for those who are there at once. Must not block and must not raise.

        Returns:
            Ends it.
        """
        key = object()
        self._roster.node_listeners[key] = listener
        for node in list(self.nodes.values()):
            listener(node, True)
        return lambda: self._roster.node_listeners.pop(key, None) and None

    def watch_seats(self, listener: SeatListener) -> Callable[[], None]:
        """Has somebody hear who holds a seat now; None: nobody. See `watch_nodes`."""
        key = object()
        self._roster.seat_listeners[key] = listener
        for seat, term in list(self._roster.terms.items()):
            listener(seat, term)
        return lambda: self._roster.seat_listeners.pop(key, None) and None

    def stand(self, seat: str) -> None:
        """Lets all know that this node would take a seat."""
        self._stands.add(seat)
        self._say()

    def withdraw(self, seat: str) -> None:
        """Lets all know that this node would not take a seat any more."""
        self._stands.discard(seat)
        self._say()

    def hold(self, seat: str, epoch: int) -> None:
        """Lets all know that this node holds a seat, and takes what is sent to it from now on.

        Args:
            seat: The seat.
            epoch: Higher than that of any earlier term.
        """
        self._holds[seat] = epoch
        self._say()

    def release(self, seat: str) -> None:
        """Lets all know that this node does not hold a seat any more."""
        if self._holds.pop(seat, None) is not None:
            self._say()

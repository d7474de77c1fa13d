"""What rooms remember: the port that keeps it, and the rule which rooms do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from switchboard_server.core.realtime.messages import Delivered, Message, Position


@dataclass(frozen=True, slots=True)
class HistoryPolicy:
    """How much a room remembers.

    Args:
        size: Most messages; at least 1.
        ttl_ns: How long it keeps one, in nanoseconds.
    """

    size: int
    ttl_ns: int


class HistoryRules:
    """Which rooms keep a history.

    Args:
        rules: A policy for each pattern: an exact name, or a prefix that ends in "*". Of several
            that match, the exact one counts, else the longest.
    """

    def __init__(self, rules: Mapping[str, HistoryPolicy] | None = None) -> None:
        rules = rules or {}
        self._exact = {name: rule for name, rule in rules.items() if not name.endswith("*")}
        self._prefixes = sorted(
            ((name[:-1], rule) for name, rule in rules.items() if name.endswith("*")),
            key=lambda entry: len(entry[0]),
            reverse=True,
        )

    def of(self, room: str) -> HistoryPolicy | None:
        """The policy of a room; None: it keeps no history."""
        exact = self._exact.get(room)
        if exact is not None:
            return exact
        return next((rule for prefix, rule in self._prefixes if room.startswith(prefix)), None)


@dataclass(frozen=True, slots=True)
class HistoryView:
    """A room's history as it is now.

    Args:
        position: Place of the latest message.
        length: Messages in it.
        create_time_ns: When it, or the room, was made; Unix time in nanoseconds.
    """

    position: Position
    length: int
    create_time_ns: int


class RoomHistories(Protocol):
    """Keeps the latest messages of rooms, each under an epoch and an offset.

    An epoch is one unbroken count of a room's messages: its offsets grow by one. A history that was
    let go begins again under an epoch that the room never had. What is kept may be less than the
    policy allows, where room is short; what is gone is gone from the beginning, never from between.

    Nothing here waits, since a join has to fall between two messages. Called in one event loop.
    """

    def append(self, room: str, policy: HistoryPolicy, message: Message) -> Delivered:
        """Takes a room's next message.

        Returns:
            The message, with its place in this room alone.
        """
        ...

    def hold(self, room: str, policy: HistoryPolicy, now_ns: int) -> Position:
        """Keeps the room's count going, however long nothing is sent, until `release`.

        Args:
            room: The room.
            policy: How much it remembers.
            now_ns: Unix time in nanoseconds.

        Returns:
            Place of the latest message; offset 0 where the epoch has none.
        """
        ...

    def release(self, room: str) -> None:
        """Takes back `hold`. The count goes on for as long as a message would be kept."""

    def after(self, room: str, place: Position) -> Sequence[Delivered] | None:
        """Reads all that followed a place.

        Returns:
            The messages in order; None where that cannot be told without leaving one out.
        """
        ...

    def latest(self, room: str, limit: int) -> Sequence[Delivered]:
        """Reads the latest messages, in order."""
        ...

    def view(self, room: str) -> HistoryView | None:
        """How a room's history stands; None: the room has none now."""
        ...

    def names(self) -> Sequence[str]:
        """The rooms whose history holds a message, in order."""
        ...

    @property
    def size(self) -> int:
        """Bytes that all histories hold, about."""
        ...

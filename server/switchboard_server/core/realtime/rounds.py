"""What goes to very many at once: kept once for all of them, not in each one's outbox.

A message to thousands would be put into as many outboxes, and taken out of them a moment later,
which costs as much as sending it. So messages for one and the same audience gather in a round, and
its door sends them in one go to all who have nothing else waiting. Whoever is told something else
meanwhile, takes before the round is sent, or does not read, gets the round's messages into its
outbox first; so everybody gets what it would get without rounds, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from switchboard_server.core.realtime.messages import Delivered

if TYPE_CHECKING:
    from switchboard_server.core.realtime.connection import Connection
    from switchboard_server.core.realtime.outbox import OutboxLimits

MANY = 32
"""So many receivers, at the least, make a round."""
ROUND_BYTES = 64 * 1024
"""What a round holds at most, unless it is a single message: it is written to a client as a whole,
before looking whether the client keeps up."""


class Fan(Protocol):
    """A door that can send the same to many of its clients in one go.

    It knows each of them by a number, which stays the connection's until `RealtimeHub.close`.
    """

    def schedule(self, send: Callable[[], None], receivers: int) -> None:
        """Has a round sent soon, in another turn of the event loop.

        Args:
            send: Is to be called once.
            receivers: To how many clients it will write.
        """

    def send(self, messages: Sequence[Delivered], outlets: Sequence[int]) -> Sequence[int]:
        """Sends messages to clients. Must neither wait nor raise.

        Args:
            messages: What, in this order.
            outlets: To whom, by number. Some may be gone.

        Returns:
            Which of them, counted from 0 in the order of the outlets, have got nothing, because
            they do not read, or are gone.
        """
        ...


class Audience:
    """Those whom messages are for. It never changes, so that it can be recognised.

    Args:
        connections: They, each once.
    """

    __slots__ = ("_fan", "_outlets", "_reached", "connections")

    def __init__(self, connections: Iterable[Connection]) -> None:
        self.connections = list(connections)
        self._fan: Fan | None = None
        self._reached: list[Connection] | None = None
        self._outlets: list[int] = []

    def __len__(self) -> int:
        """How many they are."""
        return len(self.connections)

    def reached(self) -> tuple[Fan | None, list[Connection], list[int]]:
        """The fan of most of them, one would think; those whom it reaches; and their outlets."""
        if self._reached is None:
            fan = next((each.fan for each in self.connections if each.fan is not None), None)
            self._fan = fan
            self._reached = [each for each in self.connections if each.fan is fan]
            self._outlets = [each.outlet for each in self._reached]
        return self._fan, self._reached, self._outlets


class _Round:
    """Messages that wait to be sent.

    Attributes:
        taken: How many messages some of the receivers have in their outbox already.
    """

    __slots__ = (
        "_known",
        "audience",
        "fan",
        "messages",
        "others",
        "outlets",
        "receivers",
        "size",
        "taken",
    )

    def __init__(
        self, audience: Audience, fan: Fan, receivers: list[Connection], outlets: list[int]
    ) -> None:
        self.audience = audience
        self.fan = fan
        self.receivers = receivers
        self.outlets = outlets
        self.others: Sequence[Connection] = ()
        self.messages: list[Delivered] = []
        self.size = 0
        self.taken: dict[Connection, int] = {}
        self._known: set[Connection] | None = None

    def includes(self, connection: Connection) -> bool:
        """Whether a connection is one of the receivers."""
        if self._known is None:
            self._known = set(self.receivers)
        return connection in self._known


class Rounds:
    """The round that gathers now, if one does, and who takes no part in any.

    Args:
        limits: How much may wait for one connection.
        on_full: Is called with a connection whose outbox is full for good.
        settle: Has the consequences of what was put into outboxes show at the doors.

    Attributes:
        busy: The connections that have something in their outbox.
    """

    def __init__(
        self,
        limits: OutboxLimits,
        on_full: Callable[[Connection], None],
        settle: Callable[[], None],
    ) -> None:
        self._most_messages = limits.messages
        self._most_bytes = min(ROUND_BYTES, limits.bytes)
        self._on_full = on_full
        self._settle = settle
        self._current: _Round | None = None
        self.busy: set[Connection] = set()

    def add(self, delivered: Delivered, audience: Audience) -> Sequence[Connection]:
        """Takes a message for many.

        Args:
            delivered: The message.
            audience: Whom it is for.

        Returns:
            Those of the audience that it has to be offered to one by one.
        """
        current = self._current
        if current is not None and not self._fits(current, delivered, audience):
            self._spill(current)
            current = None
        if current is None:
            current = self._begin(audience)
            if current is None:
                return audience.connections
        current.messages.append(delivered)
        current.size += delivered.size
        return current.others

    def catch_up(self, connection: Connection) -> None:
        """Puts what waits for a connection in the round into its outbox.

        Whatever else a connection is told comes after this.
        """
        current = self._current
        if current is not None and current.includes(connection):
            self._move(current, connection)

    def begin_take(self, connection: Connection) -> None:
        """Prepares for a connection's taking from its outbox."""
        if self._current is not None:
            self.catch_up(connection)
            self._settle()

    def end_take(self, connection: Connection) -> None:
        """Takes note of what a connection has left in its outbox."""
        if connection.outbox.idle:
            self.busy.discard(connection)

    def forget(self, connection: Connection) -> None:
        """Has nothing more to do with a connection, whose outlet may soon be another's."""
        self.busy.discard(connection)
        current = self._current
        if current is not None and current.includes(connection):
            current.taken[connection] = len(current.messages)

    def _fits(self, current: _Round, delivered: Delivered, audience: Audience) -> bool:
        return (
            current.audience is audience
            and len(current.messages) < self._most_messages
            and current.size + delivered.size <= self._most_bytes
        )

    def _begin(self, audience: Audience) -> _Round | None:
        fan, receivers, outlets = audience.reached()
        if fan is None or len(receivers) < MANY:
            return None
        busy = self.busy
        if busy and not busy.isdisjoint(receivers):
            receivers = [each for each in receivers if each not in busy]
            outlets = [each.outlet for each in receivers]
            if len(receivers) < MANY:
                return None
        current = self._current = _Round(audience, fan, receivers, outlets)
        if len(receivers) < len(audience):
            current.others = [each for each in audience.connections if not current.includes(each)]
        fan.schedule(lambda: self._send(current), len(receivers))
        return current

    def _send(self, current: _Round) -> None:
        if self._current is not current:
            return
        taken = current.taken
        for connection in list(taken):
            self._move(current, connection)
        self._current = None
        receivers, outlets = current.receivers, current.outlets
        if taken:
            receivers = [each for each in receivers if each not in taken]
            outlets = [each.outlet for each in receivers]
        for index in current.fan.send(current.messages, outlets):
            self._offer(receivers[index], current.messages)
        self._settle()

    def _spill(self, current: _Round) -> None:
        """Has everybody's outbox take what was to be sent to all."""
        for connection in current.receivers:
            self._move(current, connection)
        self._current = None

    def _move(self, current: _Round, connection: Connection) -> None:
        taken = current.taken.get(connection, 0)
        current.taken[connection] = len(current.messages)
        self._offer(connection, current.messages[taken:])

    def _offer(self, connection: Connection, messages: Sequence[Delivered]) -> None:
        if connection.ended is not None:
            return
        for delivered in messages:
            if not connection.outbox.offer(delivered) and delivered.recoverable:
                self._on_full(connection)

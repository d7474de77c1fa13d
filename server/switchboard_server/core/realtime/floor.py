"""Who is connected and stands where, and what each of them is told. Asks nobody's permission."""

import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import count

from switchboard_server.core.clock import Clock
from switchboard_server.core.errors import (
    AbortedError,
    ResourceExhaustedError,
    SwitchboardError,
)
from switchboard_server.core.principal import Principal
from switchboard_server.core.realtime.checks import MAX_ROOMS, not_found, too_many_rooms
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.history import HistoryRules
from switchboard_server.core.realtime.items import Joined, Left, Member, Started
from switchboard_server.core.realtime.messages import Delivered, Message, Position
from switchboard_server.core.realtime.neighbours import Entry, Neighbours
from switchboard_server.core.realtime.notices import Gathering
from switchboard_server.core.realtime.outbox import Outbox, OutboxLimits
from switchboard_server.core.realtime.rooms import Directory, Move, Room
from switchboard_server.core.realtime.rounds import MANY, Audience, Rounds
from switchboard_server.core.realtime.views import JoinResult
from switchboard_server.core.realtime.wishes import BroadcastWish, ConnectWish, RoomJoin


class Floor:
    """The part of `RealtimeHub` that moves the connections of this node, and messages to them.

    What its methods do shows at the doors when `settle` is called, which must be done before the
    event loop goes on. A backend calls `deliver`, `changed`, `end` and, for other nodes, `join`
    and `take_out`.

    Args:
        rules: Which rooms keep a history.
        call_soon: Has a function called in the next turn of the event loop.
        node: Name of this node.
        limits: How much may wait for one connection.
        clock: Unix time in nanoseconds.

    Attributes:
        rules: As given.
        node: As given.
        clock: As given.
        neighbours: The other nodes; set before anything is done.
        directory: Who is connected and stands where.
        numbers: Numbers all that connections are told.
        stopping: Nobody is told any more who leaves.
        delivered: Messages that outboxes took.
        replayed: Messages that were replayed.
        ended: Connections that ended, by reason.
    """

    neighbours: Neighbours

    def __init__(
        self,
        rules: HistoryRules,
        call_soon: Callable[[Callable[[], None]], object],
        *,
        node: str,
        limits: OutboxLimits,
        clock: Clock,
    ) -> None:
        self.rules = rules
        self._call_soon = call_soon
        self.node = node
        self._limits = limits
        self.clock = clock
        self.directory = Directory()
        self.numbers = count(1)
        self.stopping = False
        self.delivered = 0
        self.replayed = 0
        self.ended: Counter[str] = Counter()
        self._dropped = 0
        self._ready: list[Connection] = []
        self._flushing = False
        self._full: list[Connection] = []
        self._rounds = Rounds(limits, self._full.append, self.settle)

    @property
    def dropped(self) -> int:
        """Messages that connections missed because they read too slowly."""
        open_ones = self.directory.connections.values()
        return self._dropped + sum(each.outbox.dropped for each in open_ones)

    # --- connections -----------------------------------------------------------------------------

    def made(self, wish: ConnectWish, user: str, principal: Principal) -> Connection:
        """A connection that is not open yet, and whose door hears nothing yet."""
        connection = Connection(
            wish.client_id or f"client-{secrets.token_hex(8)}",
            user,
            wish.transport,
            wish.peer,
            connect_time_ns=self.clock(),
            principal=principal,
            outbox=Outbox(self._limits, lambda: self._wake(connection)),
            rounds=self._rounds,
            on_ready=_nobody,
        )
        return connection

    def _wake(self, connection: Connection) -> None:
        self._rounds.busy.add(connection)
        self._ready.append(connection)

    def open(self, connection: Connection) -> None:
        """Opens a connection whose name is free, and tells it so."""
        self.directory.add(connection)
        self.tell(connection, Started(connection.client_id, connection.user, self.node))

    def attend(self, connection: Connection, on_ready: Callable[[], None]) -> None:
        """Has the door of an open connection hear of what waits, and of what is to come."""
        connection.on_ready = on_ready
        self._ready.append(connection)

    def end(self, connection: Connection, error: SwitchboardError) -> None:
        """Ends a connection from this side; its door hears of it."""
        self._rounds.catch_up(connection)
        self._remove(connection, error.reason)
        connection.ended = error
        self._ready.append(connection)

    def close(self, connection: Connection, reason: str) -> None:
        """Takes a connection out whose client is gone; may be called twice."""
        if connection.ended is None:
            self._remove(connection, reason)
            connection.ended = AbortedError(reason, "the client is gone")
        connection.outbox.clear()
        connection.on_ready = _nobody

    def _remove(self, connection: Connection, reason: str) -> None:
        places = [
            (room, self._vacate(connection, room)) for room in list(connection.rooms.values())
        ]
        self.directory.remove(connection)
        self._dropped += connection.outbox.dropped
        self.ended[reason] += 1
        connection.outbox.detach()
        self._rounds.forget(connection)
        self.neighbours.part(connection, places)

    # --- rooms -----------------------------------------------------------------------------------

    async def join(self, connection: Connection, join: RoomJoin) -> JoinResult:
        """Has a connection stand in a room, and tells it so unless it did already.

        Raises:
            ResourceExhaustedError: It stands in as many rooms as it may.
            UnavailableError: The room's history cannot be reached now.
            NotFoundError: The connection has ended meanwhile.
        """
        if join.room not in connection.rooms and len(connection.rooms) >= MAX_ROOMS:
            raise too_many_rooms()
        now = self.clock()
        entry = await self.neighbours.enter(connection, join, self.rules.of(join.room), now)
        if connection.ended is not None:
            raise not_found(connection.client_id)
        room = connection.rooms.get(join.room)
        already = room is not None
        if room is None:
            room = self._entered(join.room)
            member = room.add(connection, now)
            room.heard(entry.totals)
            self.changed(room.name, None, member)
            joined = self._stand(connection, room, entry)
        else:
            room.heard(entry.totals)
            joined = Joined(entry.position, False, 0, *room.counts)
        for move in entry.moves:
            room.heard(move.totals)
        if not join.presence_notices:
            room.unwatch(connection)
        elif connection not in room.watchers:
            room.watch(connection)
            self._tell_moves(connection, room, entry.moves)
        return JoinResult(joined, already)

    def _stand(self, connection: Connection, room: Room, entry: Entry) -> Joined:
        """Tells a connection that it stands in a room, and what it has missed there."""
        missed = entry.missed
        replayed = missed or ()
        joined = Joined(entry.position, missed is not None, len(replayed), *room.counts)
        if self.tell(connection, joined):
            connection.outbox.replay(replayed)
            self.replayed += len(replayed)
        return joined

    def _tell_moves(self, watcher: Connection, room: Room, moves: Sequence[Move]) -> None:
        """Has one watcher hear of what all others that watched have heard of before."""
        if not moves:
            return
        self._rounds.catch_up(watcher)
        gathering = Gathering(room)
        if not watcher.outbox.notify(next(self.numbers), watcher, gathering):
            self._full.append(watcher)
        for _, before, now in moves:
            who = now or before
            if who is not None:
                gathering.add(who.client_id, before, now)

    def _entered(self, name: str) -> Room:
        """The room of a name, made where nobody stands in it."""
        room = self.directory.rooms.get(name)
        if room is None:
            room = Room(name, self.rules.of(name), self.clock())
            self.directory.add_room(room)
        return room

    def take_out(self, connection: Connection, name: str, *, removed: bool) -> bool:
        """Takes a connection out of a room, and tells it so.

        Args:
            connection: The connection.
            name: The room.
            removed: Somebody else wants it.

        Returns:
            Whether it stood there.
        """
        room = connection.rooms.get(name)
        if room is None:
            return False
        self.neighbours.leave(connection, room, self._vacate(connection, room))
        self.tell(connection, Left(name, removed))
        return True

    def _vacate(self, connection: Connection, room: Room) -> Member:
        member = room.remove(connection)
        if not room.members:
            self.directory.remove_room(room)
        return member

    def changed(self, name: str, before: Member | None, now: Member | None) -> None:
        """Has the watchers of a room hear of somebody who joined or left, on whatever node."""
        room = self.directory.rooms.get(name)
        who = now or before
        if room is None or who is None or not room.watchers or self.stopping:
            return
        gathering = room.gathering
        if gathering is None or gathering.told:
            gathering = room.gathering = Gathering(room)
            to_ask = room.watchers
        else:
            to_ask, gathering.late = gathering.late, {}
        number = next(self.numbers)
        for watcher in to_ask:
            self._rounds.catch_up(watcher)
            if not watcher.outbox.notify(number, watcher, gathering):
                self._full.append(watcher)
        gathering.add(who.client_id, before, now)

    # --- messages --------------------------------------------------------------------------------

    def deliver(self, message: Message, wish: BroadcastWish, kept: Mapping[str, Delivered]) -> int:
        """Hands a message to those connections of this node that it is for.

        Args:
            message: The message.
            wish: Whom it is for.
            kept: What of it each room's history holds, for those that keep one.

        Returns:
            How many outboxes took it.
        """
        excluded = set(self.directory.named(wish.exclude_clients))
        handed = 0
        for delivered, audience in self._audiences(message, wish, kept):
            handed += self._hand(delivered, audience, excluded)
        self.delivered += handed
        return handed

    def _audiences(
        self, message: Message, wish: BroadcastWish, kept: Mapping[str, Delivered]
    ) -> Iterable[tuple[Delivered, Audience]]:
        """Who gets a message, grouped by how they see it; nobody is in two groups."""
        directory = self.directory
        rooms = [room for name in dict.fromkeys(wish.rooms) if (room := directory.rooms.get(name))]
        seen = [
            kept[room.name] if room.name in kept else Delivered(message, (Position(room.name),))
            for room in rooms
        ]
        others: dict[Connection, None] = {}
        if wish.to_all:
            if not rooms:
                return [(Delivered(message, ()), directory.audience)]
            others = dict.fromkeys(directory.audience.connections)
        elif wish.users or wish.clients:
            for user in wish.users:
                others.update(dict.fromkeys(directory.of_user(user)))
            others.update(dict.fromkeys(directory.named(wish.clients)))
        if len(rooms) == 1 and not others:
            return [(seen[0], rooms[0].audience)]
        if not rooms:
            return [(Delivered(message, ()), Audience(others))]
        return _grouped(message, rooms, seen, others)

    def _hand(
        self,
        delivered: Delivered,
        audience: Audience,
        excluded: Collection[Connection],
    ) -> int:
        if excluded:
            audience = Audience(each for each in audience.connections if each not in excluded)
        receivers: Sequence[Connection] = audience.connections
        if len(audience) >= MANY:
            receivers = self._rounds.add(delivered, audience)
        else:
            for connection in receivers:
                self._rounds.catch_up(connection)
        missed = [each for each in receivers if not each.outbox.offer(delivered)]
        if delivered.recoverable:
            self._full += missed
        return len(audience) - len(missed)

    def tell(self, connection: Connection, word: Started | Joined | Left) -> bool:
        """Tells a connection something about itself; whether its outbox took it."""
        self._rounds.catch_up(connection)
        if connection.outbox.tell(next(self.numbers), word):
            return True
        self._full.append(connection)
        return False

    def settle(self) -> None:
        """Ends those whose outbox is full for good, and has the doors of others woken."""
        while self._full:
            connection = self._full.pop()
            if connection.ended is None:
                self.end(connection, _too_slow())
                connection.outbox.clear()
        if self._ready and not self._flushing:
            self._flushing = True
            self._call_soon(self._flush)

    def _flush(self) -> None:
        """Tells the doors, once a turn of the loop."""
        self._flushing = False
        ready, self._ready = list(dict.fromkeys(self._ready)), []
        told = 0
        try:
            for connection in ready:
                told += 1
                connection.on_ready()
        finally:
            # One door's defect is for the loop to report; the others hear all the same.
            if told < len(ready):
                self._ready[:0] = ready[told:]
                self.settle()


def _grouped(
    message: Message, rooms: list[Room], seen: list[Delivered], others: dict[Connection, None]
) -> Iterable[tuple[Delivered, Audience]]:
    """Groups receivers by those of the rooms that they stand in."""
    standing: dict[Connection, tuple[int, ...]] = dict.fromkeys(others, ())
    for index, room in enumerate(rooms):
        for connection in room.members:
            standing[connection] = (*standing.get(connection, ()), index)
    groups: dict[tuple[int, ...], list[Connection]] = {}
    for connection, indexes in standing.items():
        groups.setdefault(indexes, []).append(connection)
    for indexes, receivers in groups.items():
        if len(indexes) == 1:
            yield seen[indexes[0]], Audience(receivers)
        else:
            places = tuple(seen[index].rooms[0] for index in indexes)
            yield Delivered(message, places), Audience(receivers)


def _too_slow() -> ResourceExhaustedError:
    return ResourceExhaustedError(
        "SLOW_CONSUMER",
        "the connection did not read as fast as messages came; connect again and recover the rooms",
    )


def _nobody() -> None:
    """The door of a connection that is closed."""

"""The nodes of a cluster, met over Redis."""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from switchboard_server.backends.redis import frames
from switchboard_server.backends.redis import realtime_scripts as scripts
from switchboard_server.backends.redis.census import RedisCensus
from switchboard_server.backends.redis.desk import Desk, SweptError, answer, unavailable
from switchboard_server.backends.redis.elsewhere import RedisElsewhere
from switchboard_server.backends.redis.lines import Line, Lines
from switchboard_server.backends.redis.link import LinkError, RedisLink
from switchboard_server.backends.redis.membership import MS, Membership, read_totals
from switchboard_server.backends.redis.scripts import Argument
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.floor import Floor
from switchboard_server.core.realtime.history import HistoryPolicy
from switchboard_server.core.realtime.items import Member
from switchboard_server.core.realtime.messages import Message, Position
from switchboard_server.core.realtime.neighbours import Census, Elsewhere, Entry
from switchboard_server.core.realtime.rooms import Move, Room, Totals
from switchboard_server.core.realtime.stats import NeighbourStats
from switchboard_server.core.realtime.views import Broadcast
from switchboard_server.core.realtime.wishes import BroadcastWish, RoomJoin

_logger = logging.getLogger(__name__)


class RedisNeighbours:
    """See `Neighbours`.

    Redis knows who stands where on which node, keeps the histories, and sends each message to the
    nodes, and only those, that have somebody it is for. A node hears its own messages that way too,
    so that all nodes hand them out in one order. While Redis is away, messages go to this node's
    own connections, rooms with a history are unavailable, and so is all that is asked of others.

    Args:
        link: The way to Redis.
        floor: The connections of this node.
        history_bytes: How much all histories may hold, in bytes.
        node: Tells this process from all others.
        clock: See `Desk`.
    """

    def __init__(
        self,
        link: RedisLink,
        floor: Floor,
        *,
        history_bytes: int,
        node: str,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._link = link
        self._floor = floor
        self._history_bytes = history_bytes
        self._desk = desk = Desk(link, node, clock)
        self._lines = Lines(floor, desk, link.script(scripts.CATCH_UP))
        self._membership = Membership(floor, desk, self._lines.fall_behind)
        self._elsewhere = RedisElsewhere(floor, desk, self._membership.token)
        self._send = link.script(scripts.SEND)
        self._renewing: asyncio.Task[None] | None = None
        # What is heard of rooms while somebody is about to stand there, for each who is.
        self._heard_of: dict[str, dict[object, list[Move]]] = {}
        self._sent = 0
        self.availability = asyncio.Event()
        self.elsewhere: Elsewhere = self._elsewhere
        self.census: Census = RedisCensus(floor, desk, self._elsewhere)

    @property
    def problem(self) -> str | None:
        """See `Neighbours.problem`."""
        return self._link.problem

    @property
    def history_bytes(self) -> int:
        """See `Neighbours.history_bytes`."""
        return self._membership.history_bytes

    @property
    def node(self) -> str:
        """Tells this process from all others."""
        return self._desk.node

    def history_names(self) -> Sequence[str]:
        """Nothing: no node keeps histories itself."""
        return ()

    async def open(self) -> None:
        """Joins the other nodes, now or as soon as Redis can be used."""
        await self._link.subscribe(self._desk.channel, self._heard)
        await self._link.subscribe(self._desk.channel_of(self._desk.node), self._heard)
        self._link.watch(self)
        self._renewing = asyncio.create_task(self._membership.keep_alive(), name="realtime lease")

    async def close(self) -> None:
        """Leaves the other nodes."""
        self._link.unwatch(self)
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        await self._elsewhere.close()
        await self._membership.close()
        await self._link.unsubscribe(self._desk.channel)
        await self._link.unsubscribe(self._desk.channel_of(self._desk.node))
        self._lines.cut_off()

    def link_up(self, life: str) -> None:
        """See `LinkWatcher.link_up`."""
        self._membership.link_up(life)
        self.availability.set()

    def link_down(self, problem: str) -> None:
        """See `LinkWatcher.link_down`."""
        _logger.debug("this node is alone: %s", problem)
        self._lines.cut_off()
        for room in self._floor.directory.rooms.values():
            room.totals = None
        self.availability.set()

    def refusal_changed(self) -> None:
        """See `LinkWatcher.refusal_changed`."""
        self.availability.set()

    async def admit(self, connection: Connection) -> None:
        """See `Neighbours.admit`."""
        await self._membership.admit(connection)

    def part(self, connection: Connection, places: Sequence[tuple[Room, Member]]) -> None:
        """See `Neighbours.part`."""
        self._membership.part(connection, places)
        for room, _ in places:
            self._lines.left(room.name)

    def leave(self, connection: Connection, room: Room, member: Member) -> None:
        """See `Neighbours.leave`."""
        self._membership.leave(connection, room, member)
        self._lines.left(room.name)

    async def enter(
        self, connection: Connection, join: RoomJoin, policy: HistoryPolicy | None, now_ns: int
    ) -> Entry:
        """See `Neighbours.enter`."""
        with self._hearing_of(join.room) as moves:
            try:
                if policy is None:
                    entry = await self._enter_plain(connection, join, now_ns)
                else:
                    entry = await self._enter_kept(connection, join, policy, now_ns)
            except BaseException:
                self._membership.give_up(connection, join.room)
                raise
        if not moves or entry.totals is None:
            return entry
        entered = entry.totals.version
        return replace(entry, moves=[each for each in moves if each.totals.version > entered])

    @contextmanager
    def _hearing_of(self, room: str) -> Iterator[Sequence[Move]]:
        """Notes who comes and goes in a room, which may be told before the answer of the entry."""
        moves: list[Move] = []
        entrant = object()
        self._heard_of.setdefault(room, {})[entrant] = moves
        try:
            yield moves
        finally:
            del self._heard_of[room][entrant]
            if not self._heard_of[room]:
                del self._heard_of[room]

    async def _enter_kept(
        self, connection: Connection, join: RoomJoin, policy: HistoryPolicy, now_ns: int
    ) -> Entry:
        if not self._link.up:
            raise unavailable(self._link.problem or "the room's history cannot be reached")
        entrant = object()
        line = self._lines.entering(join.room, entrant)
        try:
            return await self._enter_line(line, connection, join, policy, now_ns)
        finally:
            # After the caller, who goes on at once, has had it stand there.
            asyncio.get_running_loop().call_soon(self._lines.entered, join.room, line, entrant)

    async def _enter_plain(self, connection: Connection, join: RoomJoin, now_ns: int) -> Entry:
        position = Position(join.room)
        if not self._link.up:
            return Entry(position)
        try:
            found = await self._membership.enter(connection, join, None, now_ns)
        except (LinkError, SweptError):
            # It stands there for this node, and Redis is told when everything is told again.
            return Entry(position)
        return Entry(position, totals=read_totals(found[0]) if found else None)

    async def _enter_line(
        self,
        line: Line,
        connection: Connection,
        join: RoomJoin,
        policy: HistoryPolicy,
        now_ns: int,
    ) -> Entry:
        try:
            found = await self._membership.enter(connection, join, policy, now_ns)
            if not found:
                # Another node has its name now, and its end is on its way here.
                raise unavailable("the connection was replaced")
            totals, epoch_bytes, offset, missed = found
            epoch = epoch_bytes.decode()
            await self._lines.reach(line, epoch, offset)
        except LinkError as error:
            raise unavailable(error.problem, sent=error.sent) from error
        except SweptError:
            raise unavailable("this node was taken for dead, and is about to come back") from None
        except TimeoutError:
            raise unavailable("the room's history cannot be followed now", sent=True) from None
        replayed = None
        if missed is not None:
            replayed = [each.delivered for each in frames.kept(join.room, epoch, offset, missed)]
            replayed += line.since(epoch, offset)
        return Entry(Position(join.room, line.epoch, line.offset), replayed, read_totals(totals))

    async def send(
        self, message: Message, wish: BroadcastWish, kept: Mapping[str, HistoryPolicy]
    ) -> Broadcast:
        """See `Neighbours.send`."""
        if not self._link.up and not kept:
            return self._send_here(message, wish)
        handed = self._lines.expect(message)
        try:
            found = await answer(self._desk.begin(self._send, *self._letter(message, wish, kept)))
            elsewhere, here, flat = found
            self._sent += 1
            count = elsewhere + (await self._arrived(handed) if here else 0)
        except LinkError as error:
            if not error.sent and not kept:
                return self._send_here(message, wish)
            raise unavailable(error.problem, sent=error.sent) from error
        finally:
            self._lines.forget(message)
        positions = [
            Position(room, flat[2 * index].decode(), flat[2 * index + 1])
            for index, room in enumerate(kept)
        ]
        return Broadcast(message.message_id, count, positions)

    def _send_here(self, message: Message, wish: BroadcastWish) -> Broadcast:
        """Sends to the connections of this node only."""
        message.number = next(self._floor.numbers)
        return Broadcast(message.message_id, self._floor.deliver(message, wish, {}), [])

    async def _arrived(self, handed: "asyncio.Future[int]") -> int:
        """How many outboxes of this node took a message that Redis has sent here, too."""
        try:
            async with asyncio.timeout(4 * self._link.timeout):
                return await handed
        except TimeoutError:
            return 0

    def _letter(
        self, message: Message, wish: BroadcastWish, kept: Mapping[str, HistoryPolicy]
    ) -> list[Argument]:
        args: list[Argument] = [
            "1" if wish.to_all else "",
            secrets.token_hex(6),
            message.time_ns,
            self._history_bytes,
            frames.targets(wish, list(kept)),
            frames.head(message, wish),
            message.json,
            3 * len(kept),
        ]
        for room, policy in kept.items():
            args += [room, policy.size, policy.ttl_ns // MS]
        for names in (wish.rooms, wish.users, wish.clients, wish.exclude_clients):
            unique = dict.fromkeys(names)
            args += [len(unique), *unique]
        return args

    def stats(self) -> NeighbourStats:
        """What is counted of other nodes and the way to them."""
        return NeighbourStats(
            connected=self._link.up,
            losses=self._link.losses,
            nodes=self._membership.nodes,
            swept=self._membership.swept,
            sent=self._sent,
            received=self._lines.received,
            caught_up=self._lines.caught_up,
            interruptions=self._lines.interruptions,
            overflows=self._lines.overflows,
            asked=self._elsewhere.asked,
            unanswered=self._elsewhere.unanswered,
        )

    def _heard(self, frame: bytes) -> None:
        """Takes what comes on a channel: its first byte says what it is.

        A message (m), who came or went in a room (p), the end of a connection whose name another
        one has (e), and another node's request (q) or answer (a).
        """
        kind = frame[:1]
        if kind == b"m":
            self._lines.heard(frame)
        elif kind == b"p":
            self._somebody_moved(json.loads(frame[1:]))
        elif kind == b"e":
            self._membership.replaced(json.loads(frame[1:]))
        elif kind == b"q":
            self._elsewhere.asked_by(frame[1:])
        elif kind == b"a":
            self._elsewhere.answered(frame[1:])

    def _somebody_moved(self, told: Sequence[Any]) -> None:
        name, version, connections, users, before, now = told
        totals = Totals(int(version), connections, users)
        move = Move(totals, _member(before), _member(now))
        for moves in self._heard_of.get(name, {}).values():
            moves.append(move)
        room = self._floor.directory.rooms.get(name)
        if room is not None:
            room.heard(totals)
            self._floor.changed(name, move.before, move.now)
            self._floor.settle()


def _member(found: Sequence[str] | bool) -> Member | None:
    """Who came or went, as scripts say it; False: nobody."""
    if isinstance(found, bool):
        return None
    client_id, user, since = found
    return Member(client_id, user, int(since))

"""What Redis knows of this node's connections: told step by step, and told anew when it forgot."""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from switchboard_server.backends.redis import realtime_scripts as scripts
from switchboard_server.backends.redis.desk import Desk, SweptError, answer
from switchboard_server.backends.redis.link import LinkError
from switchboard_server.backends.redis.scripts import Argument
from switchboard_server.core.errors import AbortedError
from switchboard_server.core.realtime.checks import another_users
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.floor import Floor
from switchboard_server.core.realtime.history import HistoryPolicy
from switchboard_server.core.realtime.items import Member
from switchboard_server.core.realtime.rooms import Room, Totals
from switchboard_server.core.realtime.wishes import RoomJoin

LEASE_SECONDS = 4.5
"""How long a node that says nothing is taken to be alive. Others look every second, so what was its
is gone within six."""
RENEW_SECONDS = 1.0
MS = 1_000_000
"""Nanoseconds of a millisecond."""

_logger = logging.getLogger(__name__)


class Membership:
    """Keeps what Redis knows of this node's connections as they are.

    Everything is told in the order in which it happens. After a loss of the link, or after this
    node was taken for dead, every connection is stated again as it is then, and what Redis knows
    besides is taken back.

    Args:
        floor: The connections of this node.
        desk: Runs scripts.
        restated: Is called when Redis was told of all connections again, before it has done it.

    Attributes:
        nodes: How many nodes are alive.
        history_bytes: Bytes of all histories.
        swept: How often this node was taken for dead.
    """

    def __init__(self, floor: Floor, desk: Desk, restated: Callable[[], None]) -> None:
        self._floor = floor
        self._desk = desk
        self._restated = restated
        script = desk.link.script
        self._begin, self._renew, self._end = map(
            script, (scripts.BEGIN, scripts.RENEW, scripts.END)
        )
        self._admit, self._restate, self._part = map(
            script, (scripts.ADMIT, scripts.RESTATE, scripts.PART)
        )
        self._enter, self._leave = map(script, (scripts.ENTER, scripts.LEAVE))
        self._tokens: dict[Connection, str] = {}
        self._holders: dict[str, Connection] = {}
        # Who is about to stand where: how often, and since when, watching, and with what history.
        self._entering: dict[tuple[Connection, str], list[Argument]] = {}
        self._entries: Counter[tuple[Connection, str]] = Counter()
        self._counter = count(1)
        self._life = ""
        self._tasks: set[asyncio.Task[None]] = set()
        # Something that Redis was told it did not take.
        self._unsure = False
        self.nodes = 0
        self.history_bytes = 0
        self.swept = 0

    def token(self, connection: Connection) -> str:
        """Tells a connection from others that had its name; empty: it is not known any more."""
        return self._tokens.get(connection, "")

    async def admit(self, connection: Connection) -> None:
        """See `Neighbours.admit`; without Redis's help it is known to this node alone."""
        token = f"{self._desk.node}/{next(self._counter)}"
        self._tokens[connection] = token
        self._holders[token] = connection
        if self._desk.link.problem is not None:
            self._unsure = True
            return
        verdict = await self._desk.ask(self._admit, *self._card(connection))
        if verdict == b"denied":
            raise another_users(connection.client_id)

    def part(self, connection: Connection, places: Sequence[tuple[Room, Member]]) -> None:
        """See `Neighbours.part`."""
        token = self._tokens.pop(connection, "")
        self._holders.pop(token, None)
        rooms = [room.name for room, _ in places]
        if not token or not self._desk.link.up:
            self._gone(places, None)
            return

        def done(totals: Any) -> None:
            self._gone(places, totals)

        self._tell(done, self._part, connection.client_id, token, *rooms)

    async def enter(
        self, connection: Connection, join: RoomJoin, policy: HistoryPolicy | None, now_ns: int
    ) -> Any:
        """Has a connection stand in a room.

        Returns:
            As of `lua/realtime/enter.lua`.

        Raises:
            LinkError: Redis did not do it, or nobody knows.
            SweptError: See there.
        """
        place = join.recover_after
        ttl = "" if policy is None else policy.ttl_ns // MS
        stand: list[Argument] = [join.room, now_ns, int(join.presence_notices), ttl]
        key = connection, join.room
        self._entering[key] = stand
        self._entries[key] += 1
        try:
            return await self._desk.run(
                self._enter,
                connection.client_id,
                self._tokens.get(connection, ""),
                connection.user,
                *stand,
                secrets.token_hex(6),
                "" if place is None else place.epoch,
                0 if place is None else place.offset,
            )
        except (LinkError, SweptError):
            self._unsure = True
            raise
        finally:
            # After the caller, who goes on at once, has had it stand there.
            asyncio.get_running_loop().call_soon(self._entered, connection, join.room)

    def give_up(self, connection: Connection, room: str) -> None:
        """Takes back `enter` for a connection that does not stand there after all."""
        token = self._tokens.get(connection, "")
        if self._entries[connection, room] > 1:
            # Somebody else is about to have it stand there, and gives up as well or does not.
            return
        if token and room not in connection.rooms and self._desk.link.up:
            args = (connection.client_id, token, connection.user, room)
            self._tell(lambda _: None, self._leave, *args)

    def _entered(self, connection: Connection, room: str) -> None:
        key = connection, room
        self._entries[key] -= 1
        if not self._entries[key]:
            del self._entries[key], self._entering[key]

    def leave(self, connection: Connection, room: Room, member: Member) -> None:
        """See `Neighbours.leave`."""
        token = self._tokens.get(connection, "")
        if not token or not self._desk.link.up:
            self._gone([(room, member)], None)
            return

        def done(totals: Any) -> None:
            self._gone([(room, member)], None if totals is None else [totals])

        self._tell(done, self._leave, connection.client_id, token, connection.user, room.name)

    def link_up(self, life: str) -> None:
        """Redis can be used: everything is told again."""
        # Nobody was told that they left, where all of it was lost.
        quiet = bool(self._life) and self._life != life
        self._life = life
        self._state_anew(quiet=quiet)

    async def keep_alive(self) -> None:
        """Renews the lease, until cancelled."""
        lease = int(LEASE_SECONDS * 1000)
        while True:
            more = False
            if self._desk.link.up:
                try:
                    if self._unsure and not self._tasks and self._desk.link.problem is None:
                        self._state_anew()
                    more = await self._renewed(lease)
                except LinkError as error:
                    _logger.debug("renewing the lease: %s", error.problem)
                except Exception:
                    _logger.exception("renewing the lease has failed; trying again")
            if not more:
                await asyncio.sleep(RENEW_SECONDS)

    async def _renewed(self, lease_ms: int) -> bool:
        """Renews the lease; whether there is more of others to be swept."""
        try:
            more, self.nodes, self.history_bytes = await self._desk.run(self._renew, lease_ms)
        except SweptError:
            self.swept += 1
            _logger.warning("this node was taken for dead, and says again what it has")
            self._state_anew()
            return False
        return bool(more)

    async def close(self) -> None:
        """Takes back everything."""
        for task in self._tasks:
            task.cancel()
        if self._desk.link.up:
            try:
                await self._desk.run(self._end)
            except (LinkError, SweptError) as error:
                _logger.debug("saying good-bye: %r", error)

    def _card(self, connection: Connection) -> list[Argument]:
        return [
            connection.client_id,
            self._tokens.get(connection, ""),
            connection.user,
            connection.transport.value,
            connection.peer,
            self._floor.node,
            connection.connect_time_ns,
        ]

    def _state_anew(self, *, quiet: bool = False) -> None:
        """Tells Redis of every connection as it is now, before anything that happens later.

        Args:
            quiet: No watcher is to hear of it.
        """
        self._unsure = False
        try:
            begun = self._desk.begin(self._begin, int(LEASE_SECONDS * 1000), self._life)
            stated = [
                (each, self._desk.begin(self._restate, *self._card(each), *standing))
                for each in list(self._floor.directory.connections.values())
                for standing in (self._standing(each, quiet=quiet),)
            ]
        except LinkError as error:
            _logger.debug("stating the connections: %s", error.problem)
            self._unsure = True
            return
        for room in self._floor.directory.rooms.values():
            room.totals = None
        task = asyncio.create_task(self._settle(begun, stated), name="realtime restatement")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._restated()

    def _standing(self, connection: Connection, *, quiet: bool) -> list[Argument]:
        args: list[Argument] = [secrets.token_hex(6), int(quiet)]
        for room in connection.rooms.values():
            watches = int(connection in room.watchers)
            ttl = "" if room.policy is None else room.policy.ttl_ns // MS
            args += [room.name, room.members[connection].join_time_ns, watches, ttl]
        for (entering, name), stand in self._entering.items():
            if entering is connection and name not in connection.rooms:
                args += stand
        return args

    async def _settle(
        self, begun: "asyncio.Future[Any]", stated: Sequence[tuple[Connection, Any]]
    ) -> None:
        """Acts upon what Redis had to say."""
        try:
            found = await answer(begun)
            for connection, stating in stated:
                verdict, *totals = await answer(stating)
                if verdict in (b"denied", b"replaced"):
                    self._lost_name(connection, denied=verdict == b"denied")
                for name, *heard in totals:
                    room = connection.rooms.get(name.decode())
                    if room is not None:
                        room.heard(read_totals(heard))
            known = set(self._holders)
            for client_id, token in zip(found[::2], found[1::2], strict=True):
                if token.decode() not in known:
                    await self._desk.run(self._part, client_id, token)
        except (LinkError, SweptError) as error:
            _logger.debug("stating the connections: %r", error)
            self._unsure = True
        self._floor.settle()

    def replaced(self, token: str) -> None:
        """Ends a connection whose name another node has given away."""
        connection = self._holders.get(token)
        if connection is not None:
            self._lost_name(connection, denied=False)
            self._floor.settle()

    def _lost_name(self, connection: Connection, *, denied: bool) -> None:
        text = f"another connection took the name {connection.client_id!r}"
        error = (
            another_users(connection.client_id)
            if denied
            else AbortedError("CONNECTION_REPLACED", text)
        )
        if connection.ended is not None:
            return
        if self._floor.directory.connections.get(connection.client_id) is connection:
            self._floor.end(connection, error)
        else:
            # It is about to be opened, and will not be.
            connection.ended = error

    def _tell(self, done: Callable[[Any], None], script: Any, *args: Argument) -> None:
        """Has a script run that nobody waits for."""

        def finished(running: "asyncio.Future[Any]") -> None:
            failed = running.cancelled() or running.exception() is not None
            self._unsure |= failed
            done(None if failed else running.result())
            self._floor.settle()

        try:
            self._desk.begin(script, *args).add_done_callback(finished)
        except LinkError:
            # Redis hears of it when everything is told again.
            done(None)

    def _gone(self, places: Sequence[tuple[Room, Member]], totals: Any) -> None:
        """Has the watchers of rooms hear that somebody is gone."""
        for index, (room, member) in enumerate(places):
            room.heard(None if totals is None else read_totals(totals[index]))
            self._floor.changed(room.name, member, None)


def read_totals(found: Sequence[Any]) -> Totals:
    """Who stands in a room, as scripts return it."""
    version, connections, users = found
    return Totals(int(version), connections, users)

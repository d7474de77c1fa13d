"""Connections of other nodes: asks their nodes, and answers theirs."""

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from typing import Any

from switchboard_server.backends.redis import realtime_scripts as scripts
from switchboard_server.backends.redis.desk import Desk, unavailable
from switchboard_server.backends.redis.frames import packed
from switchboard_server.backends.redis.link import LinkError
from switchboard_server.core.errors import SwitchboardError, UnavailableError
from switchboard_server.core.failures import Failure
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.floor import Floor
from switchboard_server.core.realtime.items import Joined
from switchboard_server.core.realtime.messages import Position
from switchboard_server.core.realtime.neighbours import Whereabouts
from switchboard_server.core.realtime.views import JoinResult
from switchboard_server.core.realtime.wishes import RoomJoin

_logger = logging.getLogger(__name__)

_GONE = "gone"


class RedisElsewhere:
    """See `Elsewhere`.

    Args:
        floor: The connections of this node.
        desk: Runs scripts and carries frames.
        token: Tells a connection of this node from others that had its name.

    Attributes:
        asked: Requests to other nodes.
        unanswered: Those of them that nobody answered in time.
    """

    def __init__(self, floor: Floor, desk: Desk, token: Callable[[Connection], str]) -> None:
        self._floor = floor
        self._desk = desk
        self._token = token
        self._find = desk.link.script(scripts.FIND)
        self._hosts = desk.link.script(scripts.HOSTS)
        self._run = secrets.token_hex(4)
        self._numbers = count(1)
        self._open: dict[str, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: Mapping[str, Callable[..., Awaitable[Any]]] = {
            "join": self._join_here,
            "leave": self._leave_here,
            "end": self._end_here,
            "look": self._look_here,
        }
        self.asked = 0
        self.unanswered = 0

    async def find(self, client_ids: Collection[str]) -> Mapping[str, Whereabouts]:
        """See `Elsewhere.find`."""
        if not client_ids:
            return {}
        found = await self._desk.ask(self._find, *client_ids)
        return {
            name.decode(): Whereabouts(node.decode(), user.decode(), token.decode())
            for name, node, user, token in found
        }

    async def join(self, client_id: str, where: Whereabouts, join: RoomJoin) -> JoinResult | None:
        """See `Elsewhere.join`."""
        wish = [join.room, join.recover_after, join.presence_notices]
        found = await self._request(where.node, "join", client_id, where.token, wish)
        if found == _GONE:
            return None
        position, recovered, replayed, connections, users, already = found
        joined = Joined(Position(*position), recovered, replayed, connections, users)
        return JoinResult(joined, already)

    async def leave(
        self, client_id: str, where: Whereabouts, room: str, *, removed: bool
    ) -> bool | None:
        """See `Elsewhere.leave`."""
        wish = [room, removed]
        found = await self._request(where.node, "leave", client_id, where.token, wish)
        return None if found == _GONE else bool(found)

    async def end(
        self, found: Mapping[str, Whereabouts], users: Collection[str], error: SwitchboardError
    ) -> int:
        """See `Elsewhere.end`."""
        by_node: dict[str, list[tuple[str, str]]] = {}
        for client_id, where in found.items():
            by_node.setdefault(where.node, []).append((client_id, where.token))
        if users and (self._desk.link.up or found):
            for node in await self._desk.ask(self._hosts, *users):
                by_node.setdefault(node.decode(), [])
        elif users:
            raise unavailable(self._desk.link.problem or "other nodes cannot be reached")
        counts = await asyncio.gather(
            *(
                self._request(node, "end", named, [*users], asdict(Failure.of(error)))
                for node, named in by_node.items()
            ),
            return_exceptions=True,
        )
        for each in counts:
            if isinstance(each, BaseException):
                raise each
        return sum(each for each in counts if isinstance(each, int))

    async def look(self, node: str, client_ids: Sequence[str]) -> Mapping[str, Sequence[int]]:
        """How much waits for some connections of a node, and how much they missed; best effort."""
        try:
            found = await self._request(node, "look", [*client_ids])
        except UnavailableError:
            return {}
        return {} if found == _GONE else dict(found)

    def asked_by(self, frame: bytes) -> None:
        """Takes a request of another node."""
        number, node, kind, *args = json.loads(frame)
        task = asyncio.create_task(self._serve(number, node, kind, args), name="realtime request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def answered(self, frame: bytes) -> None:
        """Takes another node's answer."""
        number, found, error = json.loads(frame)
        waiting = self._open.get(number)
        if waiting is not None and not waiting.done():
            if error is None:
                waiting.set_result(found)
            else:
                waiting.set_exception(Failure(**error).error())

    async def close(self) -> None:
        """Serves nobody any more."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _request(self, node: str, kind: str, *args: object) -> Any:
        """Asks a node.

        Raises:
            UnavailableError: It cannot be reached, or does not answer.
            SwitchboardError: Its answer.
        """
        number = f"{self._run}-{next(self._numbers)}"
        waiting = self._open[number] = asyncio.get_running_loop().create_future()
        self.asked += 1
        try:
            frame = b"q" + packed([number, self._desk.node, kind, *args])
            if not await self._desk.publish(node, frame):
                return 0 if kind == "end" else _GONE
            async with asyncio.timeout(2 * self._desk.link.timeout):
                return await waiting
        except LinkError as error:
            raise unavailable(error.problem, sent=error.sent) from error
        except TimeoutError:
            self.unanswered += 1
            problem = "the node that has the connection does not answer"
            raise unavailable(problem, sent=True) from None
        finally:
            del self._open[number]

    async def _serve(self, number: str, node: str, kind: str, args: Sequence[Any]) -> None:
        found, error = None, None
        try:
            found = await self._handlers[kind](*args)
        except SwitchboardError as refused:
            error = asdict(Failure.of(refused))
        except Exception:
            _logger.exception("a request of another node failed: %s", kind)
            failed = unavailable("the node that has the connection failed")
            error = asdict(Failure.of(failed))
        self._floor.settle()
        try:
            await self._desk.publish(node, b"a" + packed([number, found, error]))
        except LinkError as lost:
            _logger.debug("answering another node: %s", lost.problem)

    async def _join_here(self, client_id: str, token: str, wish: Sequence[Any]) -> Any:
        connection = self._named(client_id, token)
        if connection is None:
            return _GONE
        room, place, notices = wish
        join = RoomJoin(room, None if place is None else Position(*place), notices)
        result = await self._floor.join(connection, join)
        self._floor.settle()
        if connection.ended is not None:
            raise connection.ended
        joined = result.joined
        return [
            joined.position,
            joined.recovered,
            joined.replayed,
            joined.connections,
            joined.users,
            result.already_joined,
        ]

    async def _leave_here(self, client_id: str, token: str, wish: Sequence[Any]) -> Any:
        connection = self._named(client_id, token)
        if connection is None:
            return _GONE
        room, removed = wish
        return self._floor.take_out(connection, room, removed=removed)

    async def _end_here(
        self, named: Sequence[Sequence[str]], users: Sequence[str], error: Mapping[str, Any]
    ) -> int:
        chosen = [self._named(client_id, token) for client_id, token in named]
        for user in users:
            chosen += self._floor.directory.of_user(user)
        count = 0
        for connection in chosen:
            if connection is not None and connection.ended is None:
                self._floor.end(connection, Failure(**error).error())
                count += 1
        return count

    async def _look_here(self, client_ids: Sequence[str]) -> Mapping[str, Sequence[int]]:
        return {
            each.client_id: (len(each.outbox), each.outbox.dropped)
            for each in self._floor.directory.named(client_ids)
        }

    def _named(self, client_id: str, token: str) -> Connection | None:
        connection = self._floor.directory.connections.get(client_id)
        if connection is None or self._token(connection) != token:
            return None
        return connection

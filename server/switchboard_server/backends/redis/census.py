"""Who is there on all nodes, as Redis knows it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from switchboard_server.backends.redis import frames
from switchboard_server.backends.redis import realtime_scripts as scripts
from switchboard_server.backends.redis.desk import Desk, texts
from switchboard_server.backends.redis.elsewhere import RedisElsewhere
from switchboard_server.core.realtime.floor import Floor
from switchboard_server.core.realtime.items import Member
from switchboard_server.core.realtime.messages import Delivered, Position
from switchboard_server.core.realtime.names import following, united
from switchboard_server.core.realtime.views import ConnectionView, RoomFacts, UserView
from switchboard_server.core.realtime.wishes import ConnectionsQuery, Transport

_CHUNK = 500


class RedisCensus:
    """See `Census`.

    Args:
        floor: The connections of this node.
        desk: Runs scripts.
        elsewhere: Asks other nodes what only they know.
    """

    def __init__(self, floor: Floor, desk: Desk, elsewhere: RedisElsewhere) -> None:
        self._floor = floor
        self._desk = desk
        self._elsewhere = elsewhere
        script = desk.link.script
        self._room_names, self._rooms = script(scripts.ROOM_NAMES), script(scripts.ROOMS)
        self._members, self._connections = script(scripts.MEMBERS), script(scripts.CONNECTIONS)
        self._user_names, self._users = script(scripts.USER_NAMES), script(scripts.USERS)
        self._after, self._latest = script(scripts.AFTER), script(scripts.LATEST)

    async def room_names(self, after: str, prefix: str) -> AsyncIterator[str]:
        """See `Census.room_names`."""
        start, end = _range(prefix)
        if after and after >= prefix:
            start = b"(" + after.encode()
        while True:
            answer = await self._desk.ask(self._room_names, start, end, _CHUNK)
            sources = [texts(each) for each in answer]
            # Beyond the end of a source that was cut off, the other one is not whole.
            cut = [each[-1] for each in sources if len(each) == _CHUNK]
            last = min(cut, default="")
            for name in united(*sources):
                if last and name > last:
                    break
                yield name
            if not last:
                return
            start = b"(" + last.encode()

    async def rooms(self, names: Sequence[str]) -> Sequence[RoomFacts | None]:
        """See `Census.rooms`."""
        found = []
        for chunk in _chunks(names):
            answer = await self._desk.ask(self._rooms, *chunk)
            found += [_facts(name, each) for name, each in zip(chunk, answer, strict=True)]
        return found

    async def members(self, room: str, after: str, limit: int) -> Sequence[Member]:
        """See `Census.members`."""
        start = b"(" + after.encode() if after else b"-"
        found = await self._desk.ask(self._members, room, start, limit)
        return [Member(name.decode(), user.decode(), int(since)) for name, user, since in found]

    async def user_names(self, room: str, after: str, limit: int) -> Sequence[str]:
        """See `Census.user_names`."""
        start = b"(" + after.encode() if after else b"-"
        names = texts(await self._desk.ask(self._user_names, room, start, limit))
        return list(following(sorted(names), after))[:limit] if room else names

    async def users(self, names: Sequence[str], room: str) -> Sequence[UserView]:
        """See `Census.users`."""
        found: list[UserView] = []
        for chunk in _chunks(names):
            answer = await self._desk.ask(self._users, room, *chunk)
            found += [
                UserView(name, count, int(since) if since else 0)
                for name, (count, since) in zip(chunk, answer, strict=True)
            ]
        return found

    async def connections(
        self, query: ConnectionsQuery, after: str, limit: int
    ) -> tuple[Sequence[ConnectionView], int]:
        """See `Census.connections`."""
        start, end = _range(query.client_id_prefix)
        transport = "" if query.transport is None else query.transport.value
        base, user = _base(query, transport)
        if base.startswith("conns:"):
            transport = ""
        args = (base, start, end, after, limit, user, transport)
        total, found = await self._desk.ask(self._connections, *args)
        nodes: dict[str, list[str]] = {}
        views = []
        for name, fields in found:
            facts = {key.decode(): value for key, value in _pairs(fields)}
            nodes.setdefault(facts["n"].decode(), []).append(name.decode())
            views.append(_view(name.decode(), facts))
        loads = await self._loads(nodes)
        return [_loaded(view, loads) for view in views], total

    async def after(self, room: str, place: Position) -> Sequence[Delivered] | None:
        """See `Census.after`."""
        offset, found = await self._desk.ask(self._after, room, place.epoch, place.offset)
        if found is None:
            return None
        return [each.delivered for each in frames.kept(room, place.epoch, offset, found)]

    async def latest(self, room: str, limit: int) -> Sequence[Delivered]:
        """See `Census.latest`."""
        epoch, offset, found = await self._desk.ask(self._latest, room, limit)
        return [each.delivered for each in frames.kept(room, epoch.decode(), offset, found)]

    async def _loads(self, nodes: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[int]]:
        """How much waits for connections, and how much they missed, as their nodes say."""
        loads: dict[str, Sequence[int]] = {
            each.client_id: (len(each.outbox), each.outbox.dropped)
            for each in self._floor.directory.named(nodes.get(self._desk.node, ()))
        }
        others = [each for each in nodes if each != self._desk.node]
        for found in await asyncio.gather(
            *(self._elsewhere.look(node, nodes[node]) for node in others)
        ):
            loads.update(found)
        return loads


def _base(query: ConnectionsQuery, transport: str) -> tuple[str, str]:
    """The sorted set to look in, and the user that is still to be looked for."""
    if query.room:
        return f"m:{query.room}", query.user
    if query.user:
        return f"user:{query.user}", ""
    return f"conns:{transport}" if transport else "conns", ""


def _view(client_id: str, facts: Mapping[str, bytes]) -> ConnectionView:
    return ConnectionView(
        client_id=client_id,
        user=facts["u"].decode(),
        transport=Transport(facts["t"].decode()),
        peer=facts["p"].decode(),
        node=facts["d"].decode(),
        connect_time_ns=int(facts["s"]),
        rooms=sorted(key[2:] for key in facts if key.startswith("r:")),
        pending_messages=0,
        dropped_messages=0,
    )


def _loaded(view: ConnectionView, loads: Mapping[str, Sequence[int]]) -> ConnectionView:
    pending, dropped = loads.get(view.client_id, (0, 0))
    return replace(view, pending_messages=pending, dropped_messages=dropped)


def _facts(name: str, found: Sequence[Any] | None) -> RoomFacts | None:
    if found is None:
        return None
    connections, users, epoch, offset, length, made = found
    position = Position(name, epoch.decode(), offset)
    return RoomFacts(connections, users, position, length, int(made))


def _range(prefix: str) -> tuple[bytes, bytes]:
    """The names with a prefix, as sorted sets take it. No UTF-8 has a byte 255."""
    if not prefix:
        return b"-", b"+"
    return b"[" + prefix.encode(), b"(" + prefix.encode() + b"\xff"


def _pairs(flat: Sequence[bytes]) -> Sequence[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _chunks(names: Sequence[str]) -> Sequence[Sequence[str]]:
    return [names[start:][:_CHUNK] for start in range(0, len(names), _CHUNK)]

"""Whatever happens, in the end all nodes agree on who is where, and rooms have one order."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.principal import ANONYMOUS
from switchboard_server.core.realtime.items import Joined, Left
from switchboard_server.core.realtime.messages import Delivered, Position
from switchboard_server.core.realtime.wishes import DisconnectWish, RoomJoin
from tests.support.brokers import RedisServer
from tests.support.proxy import TcpProxy
from tests.support.realtime_nodes import PATIENCE, Member, Node, eventually, nodes

ROOMS = ("hall", "den", "chat-1", "chat-2")
NAMES = [f"c{number}" for number in range(12)]
USERS = ("", "ann", "bob")
EXPECTED = {
    "CONNECTION_CLOSED",
    "CONNECTION_NOT_FOUND",
    "CONNECTION_REPLACED",
    "PERMISSION_DENIED",
    "REALTIME_UNAVAILABLE",
    "ROOM_INTERRUPTED",
}
"""Why something may be refused, or end while it is done."""
LEFT_OVER = {"life", "seq", "nodes", "bytes", "kept", "due", "old", "sizes"}


class Play:
    """Clients of several nodes that do this and that.

    Args:
        made: The nodes.
        dice: Decides what.
    """

    def __init__(self, made: list[Node], dice: random.Random) -> None:
        self.made = made
        self.dice = dice
        self.members: list[tuple[Node, Member]] = []
        self.sent = 0

    async def act(self) -> None:
        """Does one thing, which the hub may refuse."""
        acts: list[Callable[[Node], Awaitable[object]]] = [
            *[self.connect] * 4,
            *[self.join] * 4,
            *[self.send] * 4,
            self.close,
            self.leave,
            self.disconnect,
        ]
        try:
            await self.dice.choice(acts)(self.dice.choice(self.made))
        except SwitchboardError as error:
            if error.reason not in EXPECTED:
                raise

    async def connect(self, node: Node) -> None:
        name = self.dice.choice(NAMES)
        user = USERS[NAMES.index(name) % 3]
        rooms = self.dice.sample(ROOMS, self.dice.randrange(3))
        self.members.append((node, await node.connect(name, user, *rooms)))

    async def close(self, _: Node) -> None:
        if self.members:
            node, member = self.members.pop(self.dice.randrange(len(self.members)))
            node.hub.close(member.connection)

    async def join(self, node: Node) -> None:
        join = RoomJoin(self.dice.choice(ROOMS), None, self.dice.random() < 0.5)
        await node.hub.join_room(self.dice.choice(NAMES), join, ANONYMOUS)

    async def leave(self, node: Node) -> None:
        await node.hub.leave_room(self.dice.choice(NAMES), self.dice.choice(ROOMS), ANONYMOUS)

    async def disconnect(self, node: Node) -> None:
        wish = DisconnectWish(clients=self.dice.sample(NAMES, 1), users=["bob"][: self.sent % 2])
        await node.hub.disconnect(wish, ANONYMOUS)

    async def send(self, node: Node) -> None:
        self.sent += 1
        rooms = self.dice.sample(ROOMS, self.dice.randrange(1, 4))
        await node.send(str(self.sent), rooms=rooms, users=["ann"][: self.sent % 2])

    async def agreed(self) -> None:
        """Waits until all nodes tell the same, and it is what their connections say."""
        await eventually(self._agree)
        for _, member in self.members:
            names = [each.message.message_id for each in member.messages]
            assert len(set(names)) == len(names)
            for room in ROOMS[2:]:
                self._check_order(member, room)

    async def _agree(self) -> bool:
        try:
            seen = [await node.sees(*ROOMS) for node in self.made]
        except SwitchboardError:
            return False
        standing = {
            name: (each.user, node.name, tuple(sorted(each.rooms)))
            for node in self.made
            for name, each in node.hub._floor.directory.connections.items()
        }
        counts = sum(len(node.hub._floor.directory.connections) for node in self.made)
        alike = all(each == seen[0] for each in seen)
        return alike and seen[0]["connections"] == standing and seen[0]["total"] == counts

    @staticmethod
    def _check_order(member: Member, room: str) -> None:
        """While it stands in a room, a member gets every message of it, in order and once."""
        last: Position | None = None
        for item in member.items:
            if isinstance(item, Joined) and item.position.room == room:
                last = item.position._replace(offset=item.position.offset - item.replayed)
            elif isinstance(item, Left) and item.room == room:
                last = None
            elif isinstance(item, Delivered):
                for place in item.rooms:
                    if place.room == room:
                        assert last is not None
                        last = last._replace(offset=last.offset + 1)
                        assert place == last


async def _noticed(made: list[Node], losses: list[int]) -> bool:
    return all(node.link.losses > before for node, before in zip(made, losses, strict=True))


async def leave_nothing(play: Play) -> None:
    """All clients go; then nothing of them must be left in Redis."""
    for node in play.made:
        for connection in list(node.hub._floor.directory.connections.values()):
            node.hub.close(connection)
    link = play.made[0].link

    async def clean() -> bool:
        keys = {each.decode() for each in await link.call("KEYS", link.key("rt", "*"))}
        names = {each.removeprefix(link.key("rt", "")) for each in keys}
        return {each for each in names if each[:2] not in ("h:", "l:")} <= LEFT_OVER

    await eventually(clean)


@pytest.mark.parametrize("seed", range(4))
async def test_nodes_agree_on_who_is_where(redis: RedisServer, seed: int) -> None:
    async with nodes([redis.url], 3) as made:
        play = Play(made, random.Random(seed))
        for _ in range(12):
            await asyncio.gather(*(play.act() for _ in range(play.dice.randrange(1, 12))))
        await play.agreed()
        await leave_nothing(play)


@pytest.mark.parametrize("seed", range(3))
async def test_nodes_agree_after_faults(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(RedisServer(tmp_path / "redis", append_only=seed == 2))
        proxies = [await stack.enter_async_context(TcpProxy(server.port)) for _ in range(3)]
        made = []
        for number, proxy in enumerate(proxies):
            found = await stack.enter_async_context(
                nodes([server.url_at(proxy.port)], 1, "faulty", names=[f"node-{number + 1}"])
            )
            made += found
        play = Play(made, dice)

        async def cut() -> None:
            proxy = dice.choice(proxies)
            await proxy.cut()
            await asyncio.gather(*(play.act() for _ in range(6)))
            await proxy.restore()

        async def empty() -> None:
            losses = [node.link.losses for node in made]
            await made[0].link.call("FLUSHALL")
            # Each looks now and then.
            await eventually(lambda: _noticed(made, losses))

        async def restart() -> None:
            server.kill()
            await asyncio.gather(*(play.act() for _ in range(6)))
            server.start()

        async def sweep() -> None:
            node = dice.choice(made)
            swept = node.hub._neighbours.node  # type: ignore[attr-defined]
            await node.link.call("ZADD", node.link.key("rt", "nodes"), 1, swept)
            await node.link.call("ZREM", node.link.key("rt", "nodes"), swept)

        faults = [cut, empty, restart, sweep, cut]
        dice.shuffle(faults)
        for fault in faults:
            doing = asyncio.gather(*(play.act() for _ in range(15)))
            await asyncio.sleep(0)
            await fault()
            await doing
            for node in made:
                await node.link.wait_up(PATIENCE)
        await asyncio.gather(*(play.act() for _ in range(15)))
        await play.agreed()
        await leave_nothing(play)

"""Connections, rooms and messages of several nodes while Redis, a link or a node fails."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.principal import ANONYMOUS
from switchboard_server.core.realtime.items import PresenceNotice
from switchboard_server.core.realtime.wishes import (
    DisconnectWish,
    PresenceQuery,
    RoomJoin,
    RoomQuery,
)
from tests.support.brokers import RedisServer
from tests.support.proxy import TcpProxy
from tests.support.realtime_nodes import PATIENCE, Member, Node, eventually, nodes

pytestmark = pytest.mark.faults


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that this test may kill."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


async def down(*made: Node) -> None:
    """Waits until nodes notice that Redis is away."""
    await until(lambda node: node.hub.problem is not None, *made)


async def until(condition: Callable[[Node], bool], *made: Node) -> None:
    """Waits until something is so of nodes that changes with their problem."""
    for node in made:
        async with asyncio.timeout(PATIENCE):
            while not condition(node):
                node.hub.availability.clear()
                await node.hub.availability.wait()


async def up(*made: Node) -> None:
    """Waits until nodes can reach each other again, and have told what they have."""
    for node in made:
        await node.link.wait_up(PATIENCE)


async def agreed(made: list[Node], *rooms: str) -> dict[str, object]:
    """Waits until all nodes tell the same, and it is what their connections say."""

    async def same() -> bool:
        seen = [await node.sees(*rooms) for node in made]
        standing = {
            name: tuple(sorted(each.rooms))
            for node in made
            for name, each in node.hub._floor.directory.connections.items()
        }
        told = {name: places for name, (_, _, places) in seen[0]["connections"].items()}
        return all(each == seen[0] for each in seen) and told == standing

    await eventually(same)
    return await made[0].sees(*rooms)


async def test_without_redis_a_node_goes_on_with_its_own_and_heals(server: RedisServer) -> None:
    async with nodes([server.url]) as made:
        one, two = made
        ann = await one.connect("ann", "ann", "hall", "chat-1")
        bob = await two.connect("bob", "bob", "hall")
        server.kill()
        await down(one, two)
        assert one.hub.problem is not None
        assert "Redis" in one.hub.problem
        # What is right without others goes on.
        assert (await one.send("near", rooms=["hall"], to_all=True)).connections == 1
        near = await one.connect("near", "", "hall")
        assert (await one.send("both", rooms=["hall"])).connections == 2
        await one.hub.leave_room("near", "hall", ANONYMOUS)
        # The rest is refused, and nothing of it is done.
        for call in (
            one.send("lost", rooms=["hall", "chat-1"]),
            one.connect("late", "", "chat-1"),
            one.hub.join_room("near", RoomJoin("chat-2"), ANONYMOUS),
            one.hub.join_room("bob", RoomJoin("hall"), ANONYMOUS),
            one.hub.disconnect(DisconnectWish(clients=["bob"]), ANONYMOUS),
            one.hub.get_presence(PresenceQuery(), ANONYMOUS),
            one.hub.get_room(RoomQuery("hall"), ANONYMOUS),
        ):
            with pytest.raises(UnavailableError) as caught:
                await call
            assert caught.value.reason == "REALTIME_UNAVAILABLE"
        assert sorted(one.hub._floor.directory.connections) == ["ann", "near"]
        server.start()
        await up(one, two)
        # The history is gone, so nobody can tell what ann has missed.
        assert await ann.until_ended() == "ROOM_INTERRUPTED"
        assert ann.texts == ["near", "both"]
        seen = await agreed(made, "hall", "chat-1")
        assert seen["members of hall"] == ["bob"]
        assert seen["users"] == {"bob": 1}
        back = await one.connect("ann", "ann", "hall", "chat-1")
        assert (await two.send("far", rooms=["hall", "chat-1"])).connections == 2
        await back.until_heard("far")
        await bob.until_heard("far")
        await near.until_heard("both")


async def test_a_redis_that_comes_back_empty_begins_a_new_epoch(server: RedisServer) -> None:
    async with nodes([server.url]) as made:
        one, two = made
        ann = await one.connect("ann", "ann", "chat-1")
        place = (await two.send("1", rooms=["chat-1"])).positions[0]
        await ann.until_heard("1")
        server.restart(empty=True)
        assert await ann.until_ended() == "ROOM_INTERRUPTED"
        await up(one, two)
        back = await two.connect("ann", "ann", RoomJoin("chat-1", place))
        joined = back.joined("chat-1")
        assert not joined.recovered
        assert (joined.position.offset, joined.position.epoch != place.epoch) == (0, True)
        await one.send("2", rooms=["chat-1"])
        await back.until_heard("2")


async def test_a_redis_that_was_restored_from_its_disk_does_not_count_on(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis", append_only=True) as server:
        async with nodes([server.url]) as made:
            one, two = made
            await one.connect("ann", "ann", "hall")
            place = (await two.send("1", rooms=["chat-1"])).positions[0]
            server.restart()
            await down(one, two)
            await up(one, two)
            seen = await agreed(made, "hall", "chat-1")
            assert seen["users"] == {"ann": 1}
            again = (await two.send("2", rooms=["chat-1"])).positions[0]
            assert (again.offset, again.epoch != place.epoch) == (1, True)


async def test_a_redis_that_was_emptied_is_told_everything_again(server: RedisServer) -> None:
    async with nodes([server.url]) as made:
        one, two = made
        await one.connect("ann", "ann", "hall")
        bob = await two.connect("bob", "bob", "hall")
        await one.link.call("FLUSHALL")
        await down(one, two)
        await up(one, two)
        seen = await agreed(made, "hall")
        assert seen["members of hall"] == ["ann", "bob"]
        await one.send("x", rooms=["hall"])
        await bob.until(lambda bob: bob.texts[-1:] == ["x"])


async def test_a_frozen_redis_is_noticed_and_nothing_is_lost_from_histories(
    server: RedisServer,
) -> None:
    async with nodes([server.url]) as made:
        one, two = made
        ann = await one.connect("ann", "ann", "chat-1", "hall")
        await two.connect("bob", "bob", "chat-1", "hall")
        await two.send("1", rooms=["chat-1"])
        server.freeze()
        began = asyncio.get_running_loop().time()
        with pytest.raises(UnavailableError):
            await two.send("2", rooms=["chat-1"])
        await down(one, two)
        assert asyncio.get_running_loop().time() - began < 8
        assert (await one.send("near", rooms=["hall"])).connections == 1
        server.thaw()
        await up(one, two)
        await two.send("3", rooms=["chat-1"])
        await ann.until(lambda ann: ann.texts[-1:] == ["3"])
        offsets = ann.offsets("chat-1")
        assert offsets == list(range(1, len(offsets) + 1))
        assert len(set(ann.texts)) == len(ann.texts)
        seen = await agreed(made, "hall", "chat-1")
        assert seen["members of hall"] == ["ann", "bob"]
        assert ann.connection.ended is None


async def test_what_a_cut_off_node_missed_is_read_from_the_history(server: RedisServer) -> None:
    async with (
        TcpProxy(server.port) as proxy,
        nodes([server.url], 1, prefix="cut") as (one,),
        nodes([server.url_at(proxy.port)], 1, prefix="cut") as (two,),
    ):
        ann = await two.connect("ann", "ann", "chat-1", "chat-2", "hall")
        far = await two.connect("far", "", "chat-2")
        await one.send("1", rooms=["chat-1"])
        await ann.until_heard("1")
        await proxy.cut()
        await down(two)
        await one.send("2", rooms=["chat-1", "chat-2"], exclude_clients=["far"])
        await one.send("lost", rooms=["hall"])
        await one.send("3", rooms=["chat-1"])
        await one.send("4", rooms=["chat-2", "chat-1"])
        await proxy.restore()
        await up(two)
        await one.send("5", rooms=["chat-1"])
        await ann.until_heard("1", "2", "3", "4", "5")
        await far.until_heard("4")
        assert ann.offsets("chat-1") == [1, 2, 3, 4, 5]
        assert ann.offsets("chat-2") == [1, 2]
        # The history holds five: beyond that nobody can tell.
        await proxy.cut()
        await down(two)
        for number in range(6):
            await one.send(str(number), rooms=["chat-1"])
        await proxy.restore()
        assert await ann.until_ended() == "ROOM_INTERRUPTED"
        assert far.connection.ended is None
        back = await two.connect("ann", "ann", RoomJoin("chat-2", ann.messages[-2].rooms[1]))
        assert back.joined("chat-2").recovered
        assert len(ann.texts) == 5


async def test_a_link_that_swallows_everything_is_noticed(server: RedisServer) -> None:
    async with (
        TcpProxy(server.port) as proxy,
        nodes([server.url], 1, prefix="hole") as (one,),
        nodes([server.url_at(proxy.port)], 1, prefix="hole") as (two,),
    ):
        ann = await two.connect("ann", "ann", "chat-1")
        proxy.blackhole()
        await one.send("1", rooms=["chat-1"])
        await down(two)
        await one.send("2", rooms=["chat-1"])
        await proxy.restore()
        await up(two)
        await ann.until_heard("1", "2")
        await agreed([one, two], "chat-1")


async def test_a_dead_nodes_connections_vanish_within_its_lease(server: RedisServer) -> None:
    async with nodes([server.url], 1, prefix="dead") as (one,):
        watcher = await one.connect("watcher", "eve", RoomJoin("hall", None, True))
        async with nodes([server.url], 1, prefix="dead") as (two,):
            for number in range(150):
                await two.connect(f"c{number}", "bob", "hall", "chat-1")
            assert (await one.sees("hall"))["hall"] == (151, 2)
            await two.die()
            began = asyncio.get_running_loop().time()
            await eventually(lambda: _only(one, "watcher"))
            # Six seconds, and what a busy machine adds.
            assert asyncio.get_running_loop().time() - began < 9
            seen = await one.sees("hall", "chat-1")
            assert seen["users"] == {"eve": 1}
            assert "chat-1" not in seen
            await watcher.until(
                lambda _: (
                    len(watcher.items)
                    and isinstance(watcher.items[-1], PresenceNotice)
                    and watcher.items[-1].connections == 1
                )
            )


async def _only(node: Node, *names: str) -> bool:
    return list((await node.sees())["connections"]) == list(names)


async def test_nobody_hears_of_joins_when_a_redis_comes_back_empty(server: RedisServer) -> None:
    async with nodes([server.url]) as made:
        one, two = made
        watcher = await one.connect("watcher", "eve", RoomJoin("hall", None, True))
        await two.connect("bob", "bob", "hall")
        await watcher.until(lambda _: isinstance(watcher.items[-1], PresenceNotice))
        server.restart(empty=True)
        await down(one, two)
        await up(one, two)
        await agreed(made, "hall")
        await two.connect("new", "bob", "hall")
        await watcher.until(lambda _: len(_joined(watcher)) > 1)
        assert _joined(watcher) == ["bob", "new"]
        last = watcher.items[-1]
        assert isinstance(last, PresenceNotice)
        assert (last.connections, last.users) == (3, 2)


def _joined(member: Member) -> list[str]:
    notices = [item for item in member.items if isinstance(item, PresenceNotice)]
    return [each.client_id for notice in notices for each in notice.joined]


async def test_a_node_that_was_taken_for_dead_says_again_what_it_has(server: RedisServer) -> None:
    async with nodes([server.url]) as made:
        one, two = made
        ann = await one.connect("ann", "ann", "hall", "chat-1")
        await two.connect("bob", "bob", "hall")
        node = one.hub._neighbours.node  # type: ignore[attr-defined]
        nodes_key = one.link.key("rt", "nodes")
        await one.link.call("ZADD", nodes_key, 1, node)
        # As the other one sees it: it looks every second.
        await one.link.call("ZREM", nodes_key, node)
        await eventually(lambda: _swept(one))
        seen = await agreed(made, "hall", "chat-1")
        assert seen["members of hall"] == ["ann", "bob"]
        await two.send("x", rooms=["chat-1", "hall"])
        await ann.until_heard("x")


async def test_a_node_that_comes_back_while_it_is_being_forgotten_says_again_what_it_has(
    server: RedisServer,
) -> None:
    async with nodes([server.url]) as made:
        one, two = made
        # More than are forgotten at once.
        for number in range(150):
            await one.connect(f"client-{number}", "", "hall")
        membership = two.hub._neighbours._membership  # type: ignore[attr-defined]
        node = one.hub._neighbours.node  # type: ignore[attr-defined]
        await asyncio.gather(
            two.link.call("ZADD", two.link.key("rt", "nodes"), 1, node),
            membership._renewed(4500),
        )
        await eventually(lambda: _swept(one))
        assert len((await agreed(made, "hall"))["members of hall"]) == 150  # type: ignore[arg-type]


async def _swept(node: Node) -> bool:
    stats = node.hub.stats().neighbours
    return stats is not None and stats.swept == 1


@pytest.mark.parametrize("wanting", ["maxmemory", "min-replicas-to-write"])
async def test_a_redis_that_takes_no_writes_is_a_problem_and_is_told_everything_once_it_does(
    server: RedisServer, wanting: str
) -> None:
    async with nodes([server.url]) as made:
        one, two = made
        ann = await one.connect("ann", "ann", "chat-1", "hall")
        bob = await two.connect("bob", "bob", "hall")
        await one.link.call("CONFIG", "SET", wanting, "1")
        # Both notice, though nobody asks anything of either.
        await down(one, two)
        assert "takes no writes" in str(two.hub.problem)
        assert (await two.send("own", rooms=["hall"])).connections == 1
        await bob.until_heard("own")
        late = await one.connect("late", "", "hall")
        assert (await one.send("ours", rooms=["hall"])).connections == 2
        await late.until_heard("ours")
        with pytest.raises(UnavailableError, match="refused") as caught:
            await one.send("lost", rooms=["chat-1"])
        assert caught.value.reason == "REALTIME_UNAVAILABLE"
        assert "script" not in str(caught.value)
        await one.hub.leave_room("ann", "hall", ANONYMOUS)
        await one.hub.join_room("ann", RoomJoin("den"), ANONYMOUS)
        two.hub.close(bob.connection)
        await two.link.call("PING")
        await one.link.call("CONFIG", "SET", wanting, "0")
        await until(lambda node: node.hub.problem is None, *made)
        seen = await agreed(made, "hall", "den", "chat-1")
        assert seen["members of den"] == ["ann"]
        assert seen["members of hall"] == ["late"]
        await two.send("1", rooms=["chat-1", "hall"])
        await ann.until_heard("ours", "1")
        await late.until_heard("ours", "1")


async def test_names_that_two_nodes_gave_away_while_apart_are_one_connections(
    server: RedisServer,
) -> None:
    async with nodes([server.url]) as made:
        one, two = made
        server.kill()
        await down(one, two)
        early = await one.connect("tab", "ann", "hall")
        other = await one.connect("mine", "ann")
        late = await two.connect("tab", "ann", "den")
        stranger = await two.connect("mine", "bob")
        server.start()
        await up(one, two)
        assert await early.until_ended() == "CONNECTION_REPLACED"
        assert late.connection.ended is None
        seen = await agreed(made, "hall", "den")
        assert seen["members of den"] == ["tab"]
        ended = [each.connection.ended for each in (other, stranger)]
        assert len([each for each in ended if each is not None]) == 1
        assert {each.reason for each in ended if each is not None} == {"PERMISSION_DENIED"}

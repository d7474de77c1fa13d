"""Who joined and who left: told to those who asked, gathered while it waits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.core.realtime import notices
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.items import PresenceNotice
from switchboard_server.core.realtime.notices import (
    CHANGE_BYTES,
    LONGEST,
    MAX_GATHERINGS,
    Gathering,
)
from switchboard_server.core.realtime.outbox import Outbox
from switchboard_server.core.realtime.wishes import RoomJoin
from tests.support.loop import run
from tests.support.realtime import Client, Stage, small

WATCHING = RoomJoin("lobby", presence_notices=True)


def told(client: Client) -> list[tuple[set[str], set[str], int, int]]:
    """Who joined, who left, and the counts, of each notice that has come."""
    items = client.items()
    assert all(isinstance(item, PresenceNotice) for item in items), items
    return [
        (
            {each.client_id for each in item.joined},
            {each.client_id for each in item.left},
            item.connections,
            item.users,
        )
        for item in items
        if isinstance(item, PresenceNotice)
    ]


async def test_only_those_who_asked_are_told_and_nobody_of_itself() -> None:
    stage = Stage()
    watcher = await stage.settled("watcher", "ann", WATCHING)
    other = await stage.settled("other", "ann", "lobby")
    assert told(watcher) == [({"other"}, set(), 2, 1)]
    assert told(other) == []
    stage.hub.close(other.connection)
    assert told(watcher) == [(set(), {"other"}, 1, 1)]


async def test_changes_are_gathered_until_they_are_taken() -> None:
    stage = Stage()
    watcher = await stage.settled("watcher", "", WATCHING)
    stays = await stage.settled("stays", "ann", "lobby")
    passes = await stage.settled("passes", "bob", "lobby")
    await stage.leave(passes, "lobby")
    stage.turn()
    assert watcher.wakes == 1
    assert told(watcher) == [({"stays"}, set(), 2, 1)]
    await stage.leave(stays, "lobby")
    await stage.join(stays, "lobby")
    assert told(watcher) == [], "one that came back is no news"


async def test_the_same_name_under_another_user_is_news() -> None:
    stage = Stage()
    watcher = await stage.settled("watcher", "", WATCHING)
    tab = await stage.settled("tab", "ann", "lobby")
    told(watcher)
    stage.hub.close(tab.connection)
    await stage.settled("tab", "bob", "lobby")
    assert told(watcher) == [({"tab"}, set(), 2, 1)]


async def test_watchers_share_a_notice_and_slower_ones_get_theirs_gathered() -> None:
    stage = Stage()
    quick = await stage.settled("quick", "", WATCHING)
    slow = await stage.settled("slow", "", WATCHING)
    told(quick)
    await stage.settled("a", "", "lobby")
    (shared,) = quick.items()
    await stage.settled("b", "", "lobby")
    assert told(quick) == [({"b"}, set(), 4, 0)]
    assert told(slow) == [({"a", "b"}, set(), 4, 0)]
    await stage.settled("c", "", "lobby")
    (notice,) = quick.items()
    assert [notice] == slow.items()
    assert notice is not shared


async def test_what_one_gathers_the_others_who_share_it_are_told_too() -> None:
    stage = Stage()
    slow = await stage.settled("slow", "", WATCHING)
    quick = await stage.settled("quick", "", WATCHING)
    await stage.settled("a", "", "lobby")
    assert told(slow) == [({"quick", "a"}, set(), 3, 0)]
    assert told(quick) == [({"a"}, set(), 3, 0)]


async def test_one_that_begins_to_watch_is_told_of_what_follows_only() -> None:
    stage = Stage()
    first = await stage.settled("first", "", WATCHING)
    await stage.settled("a", "", "lobby")
    second = await stage.settled("second", "", WATCHING)
    await stage.settled("b", "", "lobby")
    assert told(second) == [({"b"}, set(), 4, 0)]
    assert told(first) == [({"a", "b", "second"}, set(), 4, 0)]


async def test_those_who_come_to_watch_at_once_are_told_of_each_other_in_one_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    watchers = [await stage.settled(f"c{number}") for number in range(LONGEST // 2)]
    asked: list[Gathering] = []
    notify = Outbox.notify

    def counted(outbox: Outbox, number: int, watcher: Connection, gathering: Gathering) -> bool:
        asked.append(gathering)
        return notify(outbox, number, watcher, gathering)

    monkeypatch.setattr(Outbox, "notify", counted)
    for watcher in watchers:
        await stage.join(watcher, "lobby", notices=True)
        # As a door does, which tells one that it stands there before it answers.
        assert len(watcher.items()) == 1
    assert len(asked) == len(watchers) - 1, "and not of each pair"
    for number, watcher in enumerate(watchers[:-1]):
        later = {f"c{each}" for each in range(number + 1, len(watchers))}
        assert told(watcher) == [(later, set(), len(watchers), 0)]


async def test_a_gathering_that_most_never_take_does_not_grow_for_ever() -> None:
    stage = Stage()
    slow = [await stage.settled(f"slow{number}", "", WATCHING) for number in range(3)]
    quick = await stage.settled("quick", "", WATCHING)
    sizes = []
    for number in range(4 * LONGEST):
        other = await stage.settled(f"c{number % 2}", "", "lobby")
        told(quick)
        stage.hub.close(other.connection)
        told(quick)
        sizes.append(slow[0].connection.outbox.size)
    assert max(sizes) < 4 * CHANGE_BYTES * MAX_GATHERINGS
    assert told(slow[0]) == [({"slow1", "slow2", "quick"}, set(), 4, 0)]


class World:
    """Some who stand in a room or do not, and what those who watch know of the others."""

    def __init__(self) -> None:
        self.stage = Stage()
        self.clients: dict[str, Client] = {}
        self.there: set[str] = set()
        self.known: dict[str, set[str]] = {}

    async def do(self, step: str, name: str) -> None:
        client = self.clients.get(name)
        if client is None:
            client = self.clients[name] = await self.stage.settled(name)
        if step == "take":
            self.take(name, client)
        elif step == "gone":
            self.stage.hub.close(client.connection)
            del self.clients[name]
            self.there.discard(name)
            self.known.pop(name, None)
        elif step == "leave":
            self.take(name, client)
            await self.stage.leave(client, "lobby")
            self.there.discard(name)
            self.known.pop(name, None)
            client.items()
        else:
            await self.join(client, name, watching=step == "watch")

    async def join(self, client: Client, name: str, *, watching: bool) -> None:
        self.take(name, client)
        await self.stage.join(client, "lobby", notices=watching)
        self.there.add(name)
        if not watching:
            self.known.pop(name, None)
        elif name not in self.known:
            self.known[name] = self.there - {name}
        self.take(name, client)

    def take(self, name: str, client: Client) -> None:
        """Reads all, after which one knows who is there."""
        for item in client.items():
            if not isinstance(item, PresenceNotice):
                continue
            known = self.known[name]
            joined = {each.client_id for each in item.joined}
            left = {each.client_id for each in item.left}
            assert not joined & known, "told of one that was there"
            assert left <= known, "told of one that was not there"
            self.known[name] = (known | joined) - left
        if name in self.known:
            assert self.known[name] == self.there - {name}


STEPS = st.tuples(
    st.sampled_from(["watch", "watch", "join", "leave", "gone", "take"]),
    st.sampled_from(["a", "b", "c", "d", "e", "f"]),
)


@given(st.lists(STEPS, max_size=60), st.sampled_from([2, 3, LONGEST]))
def test_whoever_reads_knows_who_is_there(steps: list[tuple[str, str]], longest: int) -> None:
    async def scenario() -> None:
        world = World()
        for step in steps:
            await world.do(*step)
        for name, client in world.clients.items():
            world.take(name, client)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notices, "LONGEST", longest)
        run(scenario())


async def test_one_that_stops_watching_is_told_nothing_more() -> None:
    stage = Stage()
    watcher = await stage.settled("watcher", "", WATCHING)
    await stage.settled("a", "", "lobby")
    await stage.join(watcher, "lobby")
    await stage.settled("b", "", "lobby")
    assert told(watcher) == []
    assert watcher.connection.outbox.size == 0
    await stage.join(watcher, "lobby", notices=True)
    await stage.join(watcher, "lobby", notices=True)
    await stage.settled("c", "", "lobby")
    assert told(watcher) == [({"c"}, set(), 4, 0)]


async def test_a_slow_watcher_holds_what_differs_and_not_what_happened() -> None:
    stage = Stage()
    slow = await stage.settled("slow", "", WATCHING)
    quick = await stage.settled("quick", "", WATCHING)
    told(slow)
    for number in range(10 * MAX_GATHERINGS):
        client = await stage.settled(f"c{number % 2}", "", "lobby")
        told(quick)
        stage.hub.close(client.connection)
        told(quick)
    assert slow.connection.outbox.size < CHANGE_BYTES * 2 * MAX_GATHERINGS
    await stage.settled("last", "", "lobby")
    assert told(slow) == [({"last"}, set(), 3, 0)]
    assert slow.connection.outbox.size == 0


async def test_a_watcher_that_never_reads_is_ended_when_it_holds_too_much() -> None:
    stage = Stage(small(100, 20 * CHANGE_BYTES))
    slow = await stage.settled("slow", "", WATCHING)
    quick = await stage.settled("quick", "", WATCHING)
    for number in range(40):
        await stage.settled(f"c{number}", "", "lobby")
        told(quick)
    assert slow.connection.ended is not None
    assert slow.connection.ended.reason == "SLOW_CONSUMER"
    assert quick.connection.ended is None


async def test_a_watcher_whose_outbox_is_full_of_words_is_ended_by_a_notice() -> None:
    stage = Stage(small(2))
    watcher = await stage.settled("watcher", "", WATCHING)
    await stage.join(watcher, "x")
    await stage.leave(watcher, "x")
    await stage.settled("a", "", "lobby")
    assert watcher.connection.ended is not None

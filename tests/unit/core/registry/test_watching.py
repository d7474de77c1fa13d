"""Watchers know what the registry holds, however slowly they read."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.core.errors import (
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from switchboard_server.core.principal import Principal
from switchboard_server.core.registry import watching
from switchboard_server.core.registry.limits import RegistryLimits
from switchboard_server.core.registry.model import Key, RemovalCause, Status
from switchboard_server.core.registry.watching import (
    Compacted,
    Delta,
    Heartbeat,
    History,
    Item,
    Resumed,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPart,
    Watcher,
)
from tests.support.loop import manual_loop, passing, run, turns
from tests.support.registries import Bench, open_registry


class Reader:
    """A watcher and what is known by it."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.known: dict[str, Status] = {}
        self.revision = 0

    def take(self, item: Item) -> None:
        if isinstance(item, SnapshotBegin):
            self.known.clear()
        elif isinstance(item, SnapshotPart):
            self.known |= {e.instance.spec.id: e.instance.status for e in item.entries}
        elif isinstance(item, SnapshotEnd | Heartbeat):
            self.revision = item.revision
        elif isinstance(item, Delta):
            revisions = [change.revision for change in item.changes]
            assert revisions == sorted(revisions)
            for change in item.changes:
                if change.shown(all_statuses=self.watcher.all_statuses) is None:
                    self.known[change.instance.spec.id] = change.instance.status
                else:
                    self.known.pop(change.instance.spec.id, None)
            assert item.revision >= revisions[-1]
            self.revision = item.revision

    async def next(self) -> Item:
        item = await asyncio.wait_for(self.watcher.next(), 1000)
        self.take(item)
        return item

    async def drain(self) -> list[Item]:
        """Everything that can be read without time passing."""
        items: list[Item] = []
        while True:
            task = asyncio.ensure_future(self.watcher.next())
            await turns(3)
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                return items
            items.append(task.result())
            self.take(items[-1])


def kinds(items: list[Item]) -> list[str]:
    return [type(item).__name__ for item in items]


async def test_a_watcher_gets_a_snapshot_and_then_changes() -> None:
    async with open_registry() as bench:
        await bench.register(1)
        await bench.register(1, "others")
        reader = Reader(bench.registry.watch(["users"]))
        assert kinds(await reader.drain()) == ["SnapshotBegin", "SnapshotPart", "SnapshotEnd"]
        assert (reader.known, reader.revision) == ({"i1": Status.SERVING}, 2)
        await bench.register(2, "others")
        await bench.register(2)
        await bench.registry.deregister(Key("users", "i1"))
        (delta,) = await reader.drain()
        assert isinstance(delta, Delta)
        assert reader.known == {"i2": Status.SERVING}
        assert reader.revision == bench.registry.revision == 5
        reader.watcher.close()
        reader.watcher.close()
        assert bench.registry.stats().watchers == 0


async def test_one_that_serves_no_more_is_removed_unless_all_are_shown() -> None:
    async with open_registry() as bench:
        await bench.register(1)
        serving = Reader(bench.registry.watch([]))
        everything = Reader(bench.registry.watch([], all_statuses=True))
        await serving.drain()
        await everything.drain()
        await bench.registry.set_status(Key("users", "i1"), Status.DRAINING, "")
        await bench.registry.set_status(Key("users", "i1"), Status.NOT_SERVING, "")
        await serving.drain()
        await everything.drain()
        assert (serving.known, everything.known) == ({}, {"i1": Status.NOT_SERVING})
        await bench.registry.deregister(Key("users", "i1"))
        # It left for others long ago.
        assert await serving.drain() == []
        (delta,) = await everything.drain()
        assert isinstance(delta, Delta)
        assert delta.changes[0].shown(all_statuses=True) is RemovalCause.DEREGISTERED


async def test_one_that_does_not_read_gets_the_latest_of_each_instance() -> None:
    async with open_registry() as bench:
        reader = Reader(bench.registry.watch([], all_statuses=True))
        await reader.drain()
        for number in (1, 2):
            await bench.register(number)
        for _ in range(10):
            await bench.registry.set_status(Key("users", "i1"), Status.DRAINING, "")
            await bench.registry.set_status(Key("users", "i1"), None, "")
        (delta,) = await reader.drain()
        assert isinstance(delta, Delta)
        assert [change.key.id for change in delta.changes] == ["i2", "i1"]


async def test_one_that_does_not_read_while_too_much_changes_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "MAX_PENDING", 5)
    async with open_registry() as bench:
        reader = Reader(bench.registry.watch([]))
        await reader.drain()
        for number in range(1, 9):
            await bench.register(number)
        items = await reader.drain()
        assert kinds(items) == ["Compacted", "SnapshotBegin", "SnapshotPart", "SnapshotEnd"]
        assert len(reader.known) == 8
        assert bench.registry.stats().compactions == 1


async def test_a_large_snapshot_and_many_changes_come_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "CHUNK", 3)
    async with open_registry() as bench:
        for number in range(1, 8):
            await bench.register(number)
        reader = Reader(bench.registry.watch([]))
        assert [await reader.next() for _ in range(2)][1:] != []
        # What leaves while the snapshot is read is not shown by it.
        await bench.registry.deregister(Key("users", "i7"))
        await bench.registry.set_status(Key("users", "i6"), Status.DRAINING, "")
        items = await reader.drain()
        assert kinds(items) == ["SnapshotPart", "SnapshotEnd", "Delta"]
        assert sorted(reader.known) == [f"i{number}" for number in range(1, 6)]
        for number in range(11, 18):
            await bench.register(number)
        first, second, third = await reader.drain()
        assert isinstance(first, Delta)
        assert first.revision == first.changes[-1].revision < bench.registry.revision
        assert isinstance(second, Delta)
        assert isinstance(third, Delta)
        assert len(reader.known) == 12


async def test_a_watcher_resumes_where_the_history_reaches() -> None:
    async with open_registry() as bench:
        await bench.register(1)
        await bench.register(1, "others")
        await bench.register(2)
        reader = Reader(bench.registry.watch(["use*"], after=1))
        assert await reader.next() == Resumed(1)
        await reader.drain()
        assert (list(reader.known), reader.revision) == (["i2"], 3)
        current = Reader(bench.registry.watch([], after=3))
        assert kinds(await current.drain()) == ["Resumed"]
        unknown = Reader(bench.registry.watch([], after=4))
        items = await unknown.drain()
        assert items[0] == Compacted(0)
        assert len(kinds(items)) == 4


async def test_history_is_bounded() -> None:
    async with open_registry() as bench:
        await bench.register(1)
        await bench.register(2)
        await bench.register(3)
        full = bench.registry._watchers.history.after(0) or []
        history = History(2, 0)
        assert history.oldest == 0
        assert history.after(0) == []
        for change in full:
            history.add(change)
        assert history.oldest == 1
        assert history.after(0) is None
        assert [change.revision for change in history.after(1) or []] == [2, 3]
        assert history.after(3) == []


async def test_a_silent_stream_has_heartbeats() -> None:
    async with open_registry() as bench:
        await bench.register(1)
        reader = Reader(bench.registry.watch([], heartbeat=5))
        await reader.drain()
        waiting = asyncio.ensure_future(reader.watcher.next())
        await passing(4.9)
        assert not waiting.done()
        await passing(0.1)
        assert await waiting == Heartbeat(1)
        manual_loop().advance(5)
        assert await reader.next() == Heartbeat(1)


async def test_services_are_watched_by_name_and_by_prefix_once_each() -> None:
    async with open_registry() as bench:
        reader = Reader(bench.registry.watch(["a.x", "a.*", "b", "b"]))
        await reader.drain()
        for service in ("a.x", "a.", "b", "bb", "c"):
            await bench.register(1, service)
        (delta,) = await reader.drain()
        assert isinstance(delta, Delta)
        assert [change.key.service for change in delta.changes] == ["a.x", "a.", "b"]
        reader.watcher.close()
        assert bench.registry._watchers._exact == bench.registry._watchers._prefixes == {}


async def test_streams_end_when_the_hub_shuts_down() -> None:
    async with open_registry() as bench:
        reader = Reader(bench.registry.watch([]))
        await reader.drain()
        waiting = asyncio.ensure_future(reader.watcher.next())
        await turns(3)
        await bench.registry.begin_shutdown()
        with pytest.raises(UnavailableError):
            await waiting
        with pytest.raises(UnavailableError):
            bench.registry.watch([])


async def test_what_a_watcher_asks_for_is_checked() -> None:
    async with open_registry(limits=RegistryLimits(max_watchers=1)) as bench:
        for patterns, heartbeat in (
            ([""], 15),
            (["a*b"], 15),
            (["a" * 256], 15),
            (["a"] * 1001, 15),
            ([], 0.5),
        ):
            with pytest.raises(InvalidArgumentError):
                bench.registry.watch(patterns, heartbeat=heartbeat)
        scoped = Principal("me", ["services.view:a.*"])
        for patterns in ([], ["b"], ["*"], ["a.x", "b"]):
            with pytest.raises(PermissionDeniedError):
                bench.registry.watch(patterns, principal=scoped)
        bench.registry.watch(["a.x", "a.y*"], principal=scoped)
        with pytest.raises(ResourceExhaustedError):
            bench.registry.watch([])


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["register", "deregister", "drain", "serve", "read", "restart"]),
        st.integers(1, 6),
    ),
    max_size=40,
)


@given(STEPS, st.booleans(), st.integers(1, 5), st.integers(1, 4))
def test_whoever_reads_in_the_end_knows_what_there_is(
    steps: list[tuple[str, int]], all_statuses: bool, pending: int, chunk: int
) -> None:
    async def act(bench: Bench, step: str, key: Key) -> None:
        registry = bench.registry
        known = registry._directory.find(key) is not None
        if step == "register":
            await bench.register(int(key.id[1:]))
        elif known and step == "deregister":
            await registry.deregister(key)
        elif known and step in ("drain", "serve"):
            status = Status.DRAINING if step == "drain" else None
            await registry.set_status(key, status, "")

    async def scenario() -> None:
        async with open_registry() as bench:
            reader = Reader(bench.registry.watch([], all_statuses=all_statuses))
            for step, number in steps:
                await act(bench, step, Key("users", f"i{number}"))
                if step == "read":
                    reader.take(await reader.watcher.next())
                elif step == "restart" and reader.revision:
                    reader.watcher.close()
                    reader.watcher = bench.registry.watch(
                        [], all_statuses=all_statuses, after=reader.revision
                    )
                    await reader.drain()
                manual_loop().advance(100)
            await reader.drain()
            assert reader.known == {
                entry.instance.spec.id: entry.instance.status
                for entry in bench.registry._directory
                if all_statuses or entry.instance.status is Status.SERVING
            }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watching, "MAX_PENDING", pending)
        patch.setattr(watching, "CHUNK", chunk)
        run(scenario())

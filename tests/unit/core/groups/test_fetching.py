"""Single events of a log that reads ranges."""

import asyncio

from switchboard_server.backends.embedded.store import Retention
from switchboard_server.core.events import Limits
from switchboard_server.core.groups.fetching import Fetcher
from switchboard_server.core.ports import ReadResult
from tests.support.events import numbered
from tests.support.logs import memory_hub


async def test_events_are_found_in_the_tail_in_the_log_and_in_what_was_read_of_it() -> None:
    reads: list[ReadResult] = []
    async with memory_hub(Limits(tail_bytes=10_000)) as (hub, store):
        store.after["read"] = reads.append
        for number in range(40):
            await hub.publish(numbered(5, number * 5))
        floor = hub.tail.floor
        assert 20 < floor < 190
        fetcher = Fetcher(hub)
        wanted = [1, 2, 19, floor, floor + 1, 200, 201]
        found = (await fetcher.read_each(wanted)).batches
        assert sorted(found) == wanted[:-1]
        for sequence, batch in found.items():
            assert batch.first <= sequence <= batch.last
        assert len(reads) == 2  # One for what does not exist.
        reads.clear()
        assert sorted((await fetcher.read_each([3, 100, floor + 1, 200])).batches)
        assert reads == []


async def test_no_more_is_kept_than_is_allowed() -> None:
    reads: list[ReadResult] = []
    async with memory_hub(Limits(tail_bytes=1)) as (hub, store):
        store.after["read"] = reads.append
        for number in range(40):
            await hub.publish(numbered(5, number * 5))
        fetcher = Fetcher(hub, kept_bytes=hub.tail.bytes * 2)
        assert set((await fetcher.read_each([1, 2, 100])).batches) == {1, 2, 100}
        assert len(reads) == 1
        # Only the last ones that were read are there yet.
        await fetcher.read_each([193])
        assert len(reads) == 1
        await fetcher.read_each([1])
        assert len(reads) == 2


async def test_what_is_not_retained_is_not_found() -> None:
    async with memory_hub(Limits(tail_bytes=1), Retention(bytes=3000)) as (hub, store):
        for number in range(40):
            await hub.publish(numbered(5, number * 5))
        store.trim(0)
        first = hub.log.window.first
        found = (await Fetcher(hub).read_each([1, 2, first, 200])).batches
        assert {200} <= set(found) <= {first, 200}


async def test_what_leaves_the_tail_while_the_log_is_read_is_found_all_the_same() -> None:
    async with memory_hub(Limits(tail_bytes=10_000)) as (hub, _):
        for number in range(40):
            await hub.publish(numbered(5, number * 5))
        floor = hub.tail.floor
        reading = asyncio.create_task(Fetcher(hub).read_each([1, floor + 1]))
        for number in range(20):
            await hub.publish(numbered(5, number * 5))
        assert hub.tail.floor > floor + 1
        assert set((await reading).batches) == {1, floor + 1}

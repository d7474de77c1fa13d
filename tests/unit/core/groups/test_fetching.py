"""Single events of a log that reads ranges."""

import asyncio

from switchboard_server.backends.embedded.store import Retention
from switchboard_server.core.events import Limits
from switchboard_server.core.groups.fetching import read_each
from switchboard_server.core.ports import ReadResult
from tests.support.events import numbered
from tests.support.logs import memory_hub


async def test_events_are_found_in_the_tail_and_in_the_log() -> None:
    reads: list[ReadResult] = []
    async with memory_hub(Limits(tail_bytes=2000)) as (hub, store):
        store.after["read"] = reads.append
        for number in range(40):
            await hub.publish(numbered(5, number * 5))
        floor = hub.tail.floor
        assert 20 < floor < 190
        wanted = [1, 2, 19, floor, floor + 1, 200, 201]
        found = (await read_each(wanted, hub.tail, hub.log)).batches
        assert sorted(found) == wanted[:-1]
        for sequence, batch in found.items():
            assert batch.first <= sequence <= batch.last
        assert len(reads) <= 2
        reads.clear()
        await read_each([floor + 1, 200], hub.tail, hub.log)
        assert reads == []


async def test_what_is_not_retained_is_not_found() -> None:
    async with memory_hub(Limits(tail_bytes=1), Retention(bytes=3000)) as (hub, store):
        for number in range(40):
            await hub.publish(numbered(5, number * 5))
        store.trim(0)
        first = hub.log.window.first
        found = (await read_each([1, 2, first, 200], hub.tail, hub.log)).batches
        assert {200} <= set(found) <= {first, 200}


async def test_what_leaves_the_tail_while_the_log_is_read_is_found_all_the_same() -> None:
    async with memory_hub(Limits(tail_bytes=2000)) as (hub, _):
        for number in range(40):
            await hub.publish(numbered(5, number * 5))
        floor = hub.tail.floor
        reading = asyncio.create_task(read_each([1, floor + 1], hub.tail, hub.log))
        for number in range(20):
            await hub.publish(numbered(5, number * 5))
        assert hub.tail.floor > floor + 1
        assert set((await reading).batches) == {1, floor + 1}

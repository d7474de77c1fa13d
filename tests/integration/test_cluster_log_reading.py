"""What the stream holds of the log: far history, retention, and a stream that is lost."""

import asyncio

import pytest

from switchboard_server.backends.rabbitmq import index as index_module
from switchboard_server.backends.rabbitmq.declaring import StreamLimits
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.log import ClusterLogSettings
from switchboard_server.core.events import AfterSequence
from switchboard_server.core.filters import EVERYTHING
from switchboard_server.core.ports import Window
from switchboard_server.core.subscription import Gap
from switchboard_server.core.tail import Chunk
from tests.integration.cluster_hubs import hubs
from tests.integration.cluster_load import Member
from tests.support.brokers import RabbitServer
from tests.support.cluster_logs import LogNode, a_prefix
from tests.support.events import numbered, sequences, some

MUCH = 1 << 30
SMALL = ClusterLogSettings(limits=StreamLimits(bytes=4_000_000), look_interval=0.2)
"""Keeps four segments of a megabyte, about."""


async def delete(rabbit: RabbitServer, queue: str) -> None:
    """Deletes a queue, as an operator would."""
    link = Link(rabbit.url, "operator")
    await link.start()
    await link.wait_connected(10)
    await (await link.channel()).delete_queue(queue)
    await link.close()


async def an_open(rabbit: RabbitServer, prefix: str, settings: ClusterLogSettings) -> Member:
    member = Member(LogNode(rabbit.url, prefix, settings=settings))
    await member.node.open(member.told)
    return member


async def test_a_node_that_has_not_read_the_past_finds_any_part_of_it(
    rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = a_prefix()
    first = await an_open(rabbit, prefix, ClusterLogSettings())
    answers = [await first.node.log.append(numbered(3, 3 * number)) for number in range(600)]
    times = [each.time_ns for each in answers]
    monkeypatch.setattr(index_module, "SPACING_RECORDS", 1 << 30)  # It notes nothing by itself.
    other = await an_open(rabbit, prefix, ClusterLogSettings())
    log = other.node.log
    try:
        for number in (0, 1, 299, 300, 598, 599):
            result = await log.read(3 * number, 1)
            assert [batch.first for batch in result.batches] == [3 * number + 1]
            backward = await log.read_backward(3 * number + 4, 1)
            assert [batch.first for batch in backward.batches] == [3 * number + 1]
            assert await log.sequence_before(times[number]) == 3 * number
        assert sequences(batch.frames for batch in (await log.read(1000, MUCH)).batches) == list(
            range(1000, 1801)
        )
        found = (await log.read_backward(1001, MUCH)).batches
        assert sequences(batch.frames for batch in found) == list(range(1, 1003))
        assert len(log._history.index) > 0
    finally:
        await other.node.close()
        await first.node.close()


async def test_retention_removes_segments_and_a_reader_is_told_of_the_gap(
    rabbit: RabbitServer,
) -> None:
    async with hubs(rabbit, 1, settings=SMALL) as (hub,):
        log = hub.node.log
        while log.window.first == 1 or log.size > 8_000_000:
            await log.append(some("x" * 100_000))
        window = log.window
        assert 1 < window.first < window.last
        result, gone = await log.read(0, 1), 0
        while not result.batches:
            # RabbitMQ 4 removes segments a moment later: what is gone since is told once more.
            assert result.lost is not None or result.window.first > window.first
            gone = result.lost[1] if result.lost is not None else gone
            result = await log.read(gone, 1)
        assert result.batches[0].first >= max(result.window.first, gone + 1)
        assert result.window.first >= window.first
        assert await log.sequence_before(0) >= window.first - 1
        assert list((await log.read_backward(window.first, MUCH)).batches) == []
        late = await hub.events.subscribe(EVERYTHING, AfterSequence(0))
        await late.next()
        gap = await late.next()
        assert isinstance(gap, Gap)
        assert gap.first == 1
        item = await late.next()
        assert isinstance(item, Chunk)
        assert sequences(item.frames)[0] == gap.last + 1


async def test_a_stream_that_is_deleted_is_made_anew_and_numbers_go_on(
    rabbit: RabbitServer,
) -> None:
    # So many that what is known of where they stood lies far beyond the end of the new stream.
    many = 300
    async with hubs(rabbit, 3, settings=ClusterLogSettings(look_interval=3600)) as nodes:
        here = nodes[0].node
        running = [await hub.events.subscribe(EVERYTHING) for hub in nodes]
        for number in range(many):
            await here.log.append(some(str(number)))
        log_id = here.log.log_id
        channel = await here.link.channel()
        await channel.delete_queue(here.topology.log)
        await channel.close()
        answers = [await hub.node.log.append(some("new", ids=[hub.node.name])) for hub in nodes]
        assert [each.first for each in answers] == [many + 1, many + 2, many + 3]
        new = [many + 1, many + 2, many + 3]
        for hub, subscription in zip(nodes, running, strict=True):
            log = hub.node.log
            assert log.log_id == log_id
            seen = await hub.texts(subscription, many + 3)
            assert seen == [*map(str, range(many)), *["new"] * 3]
            async with asyncio.timeout(10):
                while log.window.first != many + 1:
                    await hub.node.round_trip()
            # RabbitMQ says nothing to a reader that begins beyond the end.
            async with asyncio.timeout(5):
                result = await log.read(0, MUCH)
                assert result.window == Window(many + 1, many + 3)
                assert sequences(batch.frames for batch in result.batches) == new
                backward = (await log.read_backward(many + 4, MUCH)).batches
                assert sequences(batch.frames for batch in backward) == new
                assert await log.sequence_before(answers[0].time_ns) == many
                assert await log.sequence_before(answers[2].time_ns + 1) == many + 3
                recent = await log.recent_ids(0, 10)
                assert [each.sequence for each in recent] == new


async def test_a_stream_that_begins_anew_without_its_nodes_is_another_log(
    rabbit: RabbitServer,
) -> None:
    prefix = a_prefix()
    ids = []
    for _ in range(2):
        async with hubs(rabbit, 1, prefix) as (hub,):
            assert (await hub.events.publish(some("first"))).first == 1
            ids.append(hub.node.log.log_id)
        await delete(rabbit, hub.node.topology.log)
    assert ids[0] != ids[1]


async def test_a_stream_with_other_limits_is_taken_as_it_is_and_told(
    rabbit: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = a_prefix()
    async with hubs(rabbit, 1, prefix, settings=SMALL) as (hub,):
        await hub.events.publish(some("a"))
    other = ClusterLogSettings(limits=StreamLimits(age_seconds=3600, bytes=64_000_000))
    async with hubs(rabbit, 1, prefix, settings=other) as (hub,):
        assert (await hub.events.publish(some("b"))).first == 2
    assert "the log keeps what it was made to keep" in caplog.text
    assert '{"max-age":"3600s","max-length-bytes":64000000}' in caplog.text

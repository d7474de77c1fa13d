"""The log of many nodes while nodes, links and RabbitMQ itself fail under load."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from switchboard_server.backends.rabbitmq.log import ClusterLogSettings
from switchboard_server.core.clock import SECOND_NS, wall_clock
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.records import Extra
from tests.integration.cluster_load import Load, Member, caught_up
from tests.support.brokers import RabbitServer
from tests.support.cluster_logs import LogNode, a_prefix
from tests.support.events import some
from tests.support.proxy import TcpProxy
from tests.support.rabbit import control

pytestmark = pytest.mark.faults

PATIENT = ClusterLogSettings(timeout=60)
"""Appends wait for whatever these tests do."""


@asynccontextmanager
async def nodes(*urls: str) -> AsyncIterator[list[Member]]:
    """Open nodes of one cluster, each at a URL of its own."""
    prefix = a_prefix()
    async with AsyncExitStack() as stack:
        members = []
        for number, url in enumerate(urls):
            member = Member(LogNode(url, prefix, f"n{number}", settings=PATIENT))
            stack.push_async_callback(member.node.close)
            await member.node.open(member.told)
            members.append(member)
        yield members


def numbering(members: list[Member]) -> Member:
    """The node that numbers events now."""
    (found,) = [member for member in members if member.node.numbers]
    return found


async def test_a_sequencer_that_loses_its_connection_costs_a_pause_and_nothing_else(
    rabbit: RabbitServer,
) -> None:
    async with nodes(*[rabbit.url] * 3) as members:
        load = Load(members)
        load.start()
        for _ in range(4):
            await load.more(100)
            numbering(members).node.link.reset("the test says so")
            await load.more(1)
        await load.more(100)
        await load.stop()
        await caught_up(members)
        assert load.failed == []
        load.check()


@pytest.fixture
def own_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A RabbitMQ of the test's own, to be killed."""
    with RabbitServer(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


async def until_streams_are_known(server: RabbitServer, load: Load) -> None:
    """Waits until RabbitMQ has written down that it has streams at all.

    It does so some seconds after its first one was made (DETS writes late); killed before that, it
    does not find any of them again.
    """
    (names,) = server.folder.glob("mnesia/*/coordination/*/names.dets")
    while b"rabbit_stream_coordinator" not in names.read_bytes():
        await load.more(1)


async def test_rabbitmq_that_is_killed_and_comes_back_costs_a_pause_and_nothing_else(
    own_rabbit: RabbitServer,
) -> None:
    async with nodes(*[own_rabbit.url] * 2) as members:
        load = Load(members)
        load.start()
        await until_streams_are_known(own_rabbit, load)
        await load.more(50)
        soon = {0: Extra(deliver_at_ns=wall_clock() + 2 * SECOND_NS)}
        await members[0].node.log.schedule(some("scheduled", extras=soon))
        await asyncio.to_thread(own_rabbit.restart)
        await load.more(100)
        await members[1].told.until(lambda _: "scheduled" in members[1].bodies)
        await load.stop()
        await caught_up(members)
        assert load.failed == []
        load.check(others=1)
        for member in members:
            await member.told.until(lambda told: told.problems[-1] is None)
            problems = member.told.problems
            assert [problem is None for problem in problems] == [False, True]
            assert "the log cannot be reached: RabbitMQ" in str(problems[0])


async def test_a_sequencer_that_is_cut_off_is_replaced_and_what_it_still_writes_is_not_stored(
    rabbit: RabbitServer,
) -> None:
    async with TcpProxy(rabbit.port) as proxy:
        url = rabbit.url_at(proxy.port)
        async with nodes(url, rabbit.url, rabbit.url) as members:
            load = Load(members)
            load.start()
            await load.more(50)
            others = [member.node for member in members[1:]]
            proxy.blackhole()
            while not any(node.numbers for node in others):
                await load.more(1)
            await load.more(50)
            await proxy.restore()
            await load.more(200)
            await load.stop()
            await caught_up(members)
            assert load.failed == []
            load.check()


async def test_while_rabbitmq_is_away_appends_fail_in_time_and_say_what_became_of_them(
    rabbit: RabbitServer,
) -> None:
    async with TcpProxy(rabbit.port) as proxy:
        settings = ClusterLogSettings(timeout=2)
        member = Member(LogNode(rabbit.url_at(proxy.port), a_prefix(), settings=settings))
        log = member.node.log
        await member.node.open(member.told)
        assert (await log.append(some("a"))).first == 1
        await proxy.cut()
        await member.told.until(lambda told: bool(told.problems))
        assert "the log cannot be reached: RabbitMQ: " in str(member.told.problems[0])
        waiting = log.append(some("b"))
        assert log.pending_bytes == 1
        with pytest.raises(UnavailableError, match=r"within 2 s .*; nothing was stored") as caught:
            await waiting
        assert caught.value.reason == "LOG_UNAVAILABLE"
        for call in (log.append(some("b")), log.read(0, 1), log.sequence_before(1)):
            with pytest.raises(UnavailableError):
                await call
        assert log.pending_bytes == 0
        await proxy.restore()
        await member.told.until(lambda told: told.problems[-1] is None)
        assert (await log.append(some("c"))).first == 2
        assert member.bodies == ["a", "c"]
        await member.node.close()


async def test_while_rabbitmq_has_an_alarm_appends_fail_at_once_and_it_is_told_once(
    own_rabbit: RabbitServer,
) -> None:
    settings = ClusterLogSettings(timeout=2)
    prefix = a_prefix()
    members = [
        Member(LogNode(own_rabbit.url, prefix, f"n{number}", settings=settings))
        for number in range(2)
    ]
    loop = asyncio.get_running_loop()
    try:
        for member in members:
            await member.node.open(member.told)
            await member.node.log.append(some("before"))
        await control(own_rabbit, "set_vm_memory_high_watermark", "0.00001")
        for member in members:
            await member.told.until(lambda told: bool(told.problems))
        # For longer than anything waits, so that nothing open shows that the log is stuck.
        began = loop.time()
        while loop.time() < began + 2 * settings.timeout:
            for member in members:
                asked = loop.time()
                with pytest.raises(UnavailableError, match="it has an alarm") as caught:
                    await member.node.log.append(some("meanwhile"))
                assert caught.value.reason == "LOG_UNAVAILABLE"
                assert loop.time() - asked < 1
            assert (await members[0].node.log.read(0, 1)).batches
        assert [len(member.told.problems) for member in members] == [1, 1]
        await control(own_rabbit, "set_vm_memory_high_watermark", "absolute", "1GB")
        for member in members:
            await member.told.until(lambda told: told.problems[-1] is None)
            await member.node.log.append(some("after"))
            assert len(member.told.problems) == 2
        await caught_up(members)
        assert members[0].bodies == ["before", "before", "after", "after"]
    finally:
        for member in members:
            await member.node.close()


async def test_who_has_read_further_than_a_lost_stream_goes_makes_numbers_go_on_after_that(
    rabbit: RabbitServer,
) -> None:
    prefix = a_prefix()
    async with TcpProxy(rabbit.port) as proxy:
        old = Member(LogNode(rabbit.url_at(proxy.port), prefix, settings=PATIENT))
        await old.node.open(old.told)
        for number in range(5):
            await old.node.log.append(some(f"old {number}"))
        log_id = old.node.log.log_id
        await proxy.cut()
        operator = LogNode(rabbit.url, prefix)
        await operator.link.start()
        await operator.link.wait_connected(10)
        await (await operator.link.channel()).delete_queue(operator.topology.log)
        await operator.link.close()
        new = Member(LogNode(rabbit.url, prefix, settings=PATIENT))
        await new.node.open(new.told)
        assert (await new.node.log.append(some("new"))).first == 1
        await proxy.restore()
        await old.told.until(lambda told: told.problems[-1] is None)
        appended = await old.node.log.append(some("later"))
        assert appended.first > 5
        await new.told.until(lambda told: told.batches[-1].last == appended.first)
        assert old.node.log.log_id == new.node.log.log_id != log_id
        assert old.bodies[-1] == new.bodies[-1] == "later"
        assert old.sequences == sorted(set(old.sequences))
        result = await new.node.log.read(1, 1)
        assert result.lost == (2, appended.first - 1)
        await old.node.close()
        await new.node.close()

"""Groups of a cluster: any node serves them, and a seat that moves loses nothing."""

import asyncio

import pytest

from switchboard_server.core.cluster.seats import all_seats, seat_of
from switchboard_server.core.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    UnavailableError,
)
from switchboard_server.core.events import AfterSequence, AfterTime, Begin
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.config import Mode, RetryPolicy
from switchboard_server.core.groups.entries import Cause, Outcome, Rejection
from switchboard_server.core.groups.letters import LettersQuery
from switchboard_server.core.principal import ANONYMOUS, Principal
from tests.support.deliveries import Got
from tests.support.events import a_route, some
from tests.support.loop import passing, turns
from tests.unit.core.cluster.world import a_cluster

SEAT = seat_of("g")


async def test_a_member_on_another_node_gets_and_settles_what_is_published_on_a_third() -> None:
    async with a_cluster() as world:
        _, there, third = world.nodes
        worker = await there.join(credit=2)
        assert worker.started.position == 0
        await third.publish("a", "b", "c")
        got = await worker.take(2)
        assert [each.body for each in got] == ["a", "b"]
        assert await worker.silent()
        assert await worker.acknowledge(got) == [Outcome.OK, Outcome.OK]
        (last,) = await worker.take(1)
        # Anywhere else does as well.
        assert await third.groups.acknowledge("g", [last.ack_id, "nonsense"]) == [
            Outcome.OK,
            Outcome.UNKNOWN,
        ]
        assert await worker.acknowledge([last]) == [Outcome.ALREADY_SETTLED]
        await turns()
        assert (await third.groups.view("g")).lag_events == 0
        worker.member.close()
        await turns()
        assert (await third.groups.view("g")).members == []


async def test_members_of_all_nodes_share_the_work_within_their_credit() -> None:
    async with a_cluster() as world:
        workers = [await node.join(credit=3) for node in world.nodes]
        await world.nodes[1].publish(*map(str, range(20)))
        got = [await worker.take(3) for worker in workers]
        assert sorted(int(each.body) for part in got for each in part) == list(range(9))
        for worker in workers:
            assert await worker.silent()
        told = await world.nodes[2].groups.view("g")
        assert sorted(each.identity.node for each in told.members) == ["n0", "n1", "n2"]
        assert [each.in_flight for each in told.members] == [3, 3, 3]
        for worker in workers:
            worker.member.close()


async def test_what_a_slow_client_has_not_read_was_never_delivered() -> None:
    async with a_cluster(2) as world:
        here, there = world.nodes
        slow = await there.join(credit=100, retry=RetryPolicy(1, 0, 0))
        for number in range(10):
            await here.publish(str(number))
            await turns()
        # Four parcels are on their way or wait, and the others are for whoever has room.
        assert (await here.groups.view("g")).in_flight == 4
        (first,) = await slow.take(1)
        slow.member.close()
        await turns()
        # The one that was read had its only attempt.
        told = await here.groups.view("g")
        assert (told.ready, told.in_flight, told.dead_letters) == (9, 0, 1)
        quick = await here.join(retry=RetryPolicy(1, 0, 0))
        got = await quick.take(9)
        assert [each.attempt for each in got] == [1] * 9
        (letter,) = (await there.letters.page("g")).letters
        assert letter.sequence == first.sequence
        assert letter.cause is Cause.MEMBER_LOST
        assert letter.holder.node == "n1"
        quick.member.close()


async def test_reject_extend_and_dead_letters_work_from_any_node() -> None:
    async with a_cluster() as world:
        _, there, third = world.nodes
        worker = await there.join(deadline=10)
        await third.publish("a", "b", "c")
        a, b, c = await worker.take(3)
        assert await third.groups.extend("g", [a.ack_id], extension_ns=60 * 10**9) == [Outcome.OK]
        assert await third.groups.reject(
            "g", [b.ack_id], how=Rejection(dead_letter=True, reason="no stöck")
        ) == [Outcome.OK]
        assert await there.groups.reject("g", [c.ack_id], how=Rejection(wait_ns=5 * 10**9)) == [
            Outcome.OK
        ]
        page = await third.letters.page("g", LettersQuery(Filter(types=("order.*",))))
        assert [each.reason for each in page.letters] == ["no stöck"]
        await passing(6)
        (again,) = await worker.take(1)
        assert (again.body, again.attempt) == ("c", 2)
        await passing(30)
        assert await worker.acknowledge([a]) == [Outcome.OK]
        done = await third.letters.redrive("g", sequences=[b.sequence, 99])
        assert (done.redriven, done.remaining, list(done.unknown)) == (1, 0, [99])
        assert "b" in [each.body for each in await worker.take(2)]
        with pytest.raises(InvalidArgumentError):
            await third.groups.reject("g", [b.ack_id], how=Rejection(reason="x" * 2000))
        worker.member.close()


async def test_errors_say_on_every_node_what_they_say_on_one() -> None:
    nobody = Principal("nobody", ("events.subscribe:other.*", "events.view:other.*"))
    async with a_cluster(2) as world:
        for node in world.nodes:
            with pytest.raises(NotFoundError) as missing:
                await node.groups.acknowledge("none", ["x"])
            assert missing.value.reason == "GROUP_NOT_FOUND"
            with pytest.raises(InvalidArgumentError):
                await node.groups.acknowledge("", ["x"])
            with pytest.raises(InvalidArgumentError) as empty:
                await node.groups.acknowledge("g", [])
            assert empty.value.violations[0].field == "ack_ids"
            joining = asyncio.create_task(node.join("ahead", start=AfterSequence(77)))
            await turns()
            await passing(2)
            with pytest.raises(OutOfRangeError) as beyond:
                await joining
            assert beyond.value.metadata == {"last_sequence": "0"}
            with pytest.raises(PermissionDeniedError):
                await node.join("theirs", principal=nobody)
        worker = await world.nodes[1].join()
        for node in world.nodes:
            with pytest.raises(FailedPreconditionError) as mismatch:
                await node.join(mode=Mode.KEY_SHARED)
            assert mismatch.value.metadata == {"mode": "QUEUE / KEY_SHARED"}
            with pytest.raises(PermissionDeniedError):
                await node.groups.acknowledge("g", ["x"], nobody)
            with pytest.raises(PermissionDeniedError):
                await node.groups.seek("g", Begin.LATEST, nobody)
            with pytest.raises(FailedPreconditionError):
                await node.groups.delete("g", ANONYMOUS, require_no_members=True)
            assert await node.groups.page("", 0, "", nobody) == ([], "")
        worker.member.close()


async def test_groups_of_all_seats_are_listed_in_order_and_in_pages() -> None:
    async with a_cluster() as world:
        for seat, node in zip(all_seats(), [*world.nodes, world.nodes[0]], strict=True):
            await world.give(seat, node)
        names = [f"g{number:02}" for number in range(12)]
        for name in names:
            (await world.nodes[1].join(name)).member.close()
        found, token = [], ""
        while True:
            page, token = await world.nodes[2].groups.page("g", 5, token)
            found += [each.record.name for each in page]
            if not token:
                break
        assert found == names
        held = [len(node.groups.stats()) for node in world.nodes]
        assert sum(held) == 12
        assert all(held)


async def test_seek_and_delete_work_from_any_node() -> None:
    async with a_cluster() as world:
        _, there, third = world.nodes
        worker = await there.join()
        await third.publish("a", "b")
        got = await worker.take(2)
        await worker.acknowledge(got)
        told = await third.groups.seek("g", Begin.EARLIEST, ANONYMOUS)
        assert told.position == 0
        assert [each.body for each in await worker.take(2)] == ["a", "b"]
        told = await third.groups.seek("g", AfterTime(1), ANONYMOUS)
        assert [each.body for each in await worker.take(2)] == ["a", "b"]
        await there.groups.delete("g", ANONYMOUS)
        with pytest.raises(NotFoundError):
            await worker.take(1)
        worker.member.close()
        with pytest.raises(NotFoundError):
            await third.groups.view("g")


async def test_a_stream_follows_its_group_to_another_node() -> None:
    async with a_cluster() as world:
        workers = [await node.join(credit=4) for node in world.nodes]
        await world.nodes[1].publish(*map(str, range(12)))
        before = [await worker.take(4) for worker in workers]
        await workers[0].acknowledge(before[0])
        workers[0].member.close()
        await passing(1)  # What was delivered is saved.
        again: list[list[Got]] = []
        for target in (1, 2, 0):
            taking = [asyncio.create_task(worker.take(4)) for worker in workers[1:]]
            await world.give(SEAT, world.nodes[target])
            await passing(1)
            again = [await each for each in taking]
            assert sorted(int(each.body) for part in again for each in part) == sorted(
                int(each.body) for part in before[1:] for each in part
            )
            assert min(each.attempt for part in again for each in part) == 2 + (1, 2, 0).index(
                target
            )
            # As after a restart of a hub on its own.
            assert await workers[1].acknowledge([before[0][0], before[1][0]]) == [
                Outcome.ALREADY_SETTLED,
                Outcome.EXPIRED,
            ]
        assert await workers[1].acknowledge(again[0]) == [Outcome.OK] * 4
        told = await world.nodes[1].groups.view("g")
        assert len(told.members) == 2
        for worker in workers:
            worker.member.close()


async def test_a_seat_that_is_given_up_takes_everything_along() -> None:
    async with a_cluster(2) as world:
        here, there = world.nodes
        worker = await here.join()
        await here.publish("a", "b")
        a, b = await worker.take(2)
        await worker.acknowledge([a])
        await world.give(SEAT, there, politely=True)
        await passing(1)
        (again,) = await worker.take(1)
        assert (again.body, again.attempt) == ("b", 2)
        assert await worker.acknowledge([again, b]) == [Outcome.OK, Outcome.ALREADY_SETTLED]
        worker.member.close()


async def test_the_members_of_a_node_that_is_gone_leave_at_once() -> None:
    async with a_cluster() as world:
        here, there, third = world.nodes
        lost = await there.join(credit=2)
        await here.publish("a", "b")
        await lost.take(2)
        stays = await third.join()
        await world.kill(there)
        assert [each.attempt for each in await stays.take(2)] == [2, 2]
        assert len((await here.groups.view("g")).members) == 1
        stays.member.close()
        with pytest.raises(UnavailableError):
            await lost.take(1)
        lost.member.close()


async def test_a_node_that_was_cut_off_joins_again_by_itself() -> None:
    async with a_cluster() as world:
        here, there, _ = world.nodes
        worker = await there.join(credit=2)
        await here.publish("a", "b")
        first = await worker.take(2)
        world.cut(there)
        taking = asyncio.create_task(worker.take(2))
        await turns()
        assert (await here.groups.view("g")).members == []
        settling = asyncio.create_task(worker.acknowledge(first))
        await passing(20)
        assert not taking.done()
        assert not settling.done()
        world.connect(there)
        world.post.hold(SEAT, here.carrier.address)
        again = await taking
        assert [each.body for each in again] == ["a", "b"]
        assert [each.attempt for each in again] == [2, 2]
        assert await settling == [Outcome.EXPIRED] * 2
        worker.member.close()


async def test_a_stream_ends_where_its_group_is_not_taken_over_in_time() -> None:
    async with a_cluster() as world:
        _, there, _ = world.nodes
        worker = await there.join()
        world.vacate(SEAT)
        taking = asyncio.create_task(worker.take(1))
        settling = asyncio.create_task(there.groups.acknowledge("g", ["x"]))
        joining = asyncio.create_task(there.join())
        await turns()
        await passing(29)
        assert worker.beats == 1  # The stream says that it lives.
        for each in (taking, settling, joining):
            assert not each.done()
        await passing(2)
        for each in (settling, joining):
            with pytest.raises(UnavailableError) as caught:
                await each
            assert caught.value.reason == "LOG_UNAVAILABLE"
        await passing(28)
        assert not taking.done()
        await passing(2)
        with pytest.raises(UnavailableError):
            await taking
        worker.member.close()


async def test_a_stream_follows_its_group_while_its_client_reads_nothing() -> None:
    async with a_cluster() as world:
        here, there, third = world.nodes
        worker = await there.join(credit=10)
        for text in "abcdef":
            await here.publish(text)
            await turns()
        await world.give(SEAT, third)
        await passing(1)
        assert sorted(each.body for each in await worker.take(6)) == list("abcdef")
        worker.member.close()


async def test_a_deleted_group_is_not_made_again_by_a_stream_that_follows_it() -> None:
    async with a_cluster() as world:
        here, there, third = world.nodes
        worker = await there.join()
        world.vacate(SEAT)
        (stored,) = await world.kept.load(SEAT)
        await world.kept.delete(stored.record.number)
        await world.seize(SEAT, third)
        await passing(1)
        with pytest.raises(NotFoundError):
            await worker.take(1)
        worker.member.close()
        with pytest.raises(NotFoundError):
            await here.groups.view("g")


async def test_shutting_a_node_down_ends_its_own_streams_and_moves_the_others() -> None:
    async with a_cluster() as world:
        here, there, third = world.nodes
        own, other = await here.join(), await there.join()
        here.groups.begin_shutdown(UnavailableError("SHUTTING_DOWN", "later"))
        with pytest.raises(UnavailableError, match="later"):
            await own.take(1)
        own.member.close()
        with pytest.raises(UnavailableError, match="later"):
            await here.join()
        await third.publish("a")
        (a,) = await other.take(1)
        assert await other.acknowledge([a]) == [Outcome.OK]
        await world.give(SEAT, third, politely=True)
        await world.kill(here)
        await passing(1)
        await third.publish("b")
        (b,) = await other.take(1)
        assert (b.body, b.attempt) == ("b", 1)
        other.member.close()


async def test_an_instance_that_drains_gets_nothing_new_wherever_its_stream_is() -> None:
    draining: set[str] = set()
    async with a_cluster() as world:
        here, there, third = world.nodes
        # Only the node of the client has heard of it so far.
        there.groups.follow_draining(draining.__contains__)
        worker = await there.join(instance="desk/1")
        draining.add("desk/1")
        there.groups.drain("desk/1")
        await turns()
        await here.publish("a")
        assert await worker.silent()
        late = await there.join(instance="desk/1")
        assert await late.silent()
        await world.give(SEAT, third)
        await passing(1)
        assert await worker.silent()
        assert [each.draining for each in (await here.groups.view("g")).members] == [True, True]
        draining.clear()
        there.groups.drain("desk/1")
        hearing = [asyncio.create_task(each.take(1)) for each in (worker, late)]
        await asyncio.wait(hearing, return_when=asyncio.FIRST_COMPLETED)
        for each in hearing:
            each.cancel()
        worker.member.close()
        late.member.close()


async def test_a_new_holder_waits_until_it_has_read_as_far_as_the_one_before() -> None:
    async with a_cluster(2) as world:
        here, there = world.nodes
        worker = await here.join()
        await here.publish("a")
        await worker.acknowledge(await worker.take(1))
        there.log.holding = []
        await here.publish("b", "c")
        b, _ = await worker.take(2)
        await worker.acknowledge([b])
        giving = asyncio.create_task(world.give(SEAT, there))
        await turns()
        assert not giving.done()
        there.log.catch_up()
        await giving
        await passing(1)
        (again,) = await worker.take(1)
        assert again.body == "c"
        assert await worker.acknowledge([again]) == [Outcome.OK]
        assert await worker.silent()
        worker.member.close()


async def test_a_group_begins_with_what_comes_after_its_first_member_asked() -> None:
    async with a_cluster(2) as world:
        here, there = world.nodes
        here.log.holding = []
        await there.publish("a")
        joining = asyncio.create_task(there.join())
        await turns()
        assert not joining.done()
        here.log.catch_up()
        worker = await joining
        assert worker.started.position == 1
        assert await worker.silent()
        worker.member.close()


async def test_a_position_that_another_node_has_told_of_is_waited_for() -> None:
    async with a_cluster(2) as world:
        here, there = world.nodes
        here.log.holding = []
        await there.publish("a", "b")
        joining = asyncio.create_task(here.join(start=AfterSequence(1)))
        subscribing = asyncio.create_task(here.events.subscribe(Filter(), AfterSequence(1)))
        await turns()
        assert not joining.done()
        assert not subscribing.done()
        here.log.catch_up()
        worker = await joining
        assert [each.body for each in await worker.take(1)] == ["b"]
        worker.member.close()
        here.events.unsubscribe(await subscribing)


async def test_cancelling_a_join_leaves_no_member_behind() -> None:
    async with a_cluster(2) as world:
        here, there = world.nodes
        joining = asyncio.create_task(there.join())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        joining.cancel()
        await asyncio.wait([joining])
        await turns()
        assert (await here.groups.view("g")).members == []
        assert there.events.members == 0


async def test_streams_count_where_their_clients_are() -> None:
    async with a_cluster(2) as world:
        here, there = world.nodes
        worker = await there.join()
        assert (here.events.members, there.events.members) == (0, 1)
        await world.give(SEAT, there)
        await passing(1)
        assert (here.events.members, there.events.members) == (0, 1)
        worker.member.close()
        worker.member.close()
        assert there.events.members == 0


async def test_priorities_and_filters_hold_across_nodes() -> None:
    async with a_cluster(2) as world:
        here, there = world.nodes
        worker = await there.join(wish=Filter(types=("order.*",), attributes={}))
        await here.publish(
            drafts=some(
                "low",
                "other",
                "critical",
                routes=[a_route(priority=1), a_route("user.login"), a_route(priority=4)],
            )
        )
        assert [each.body for each in await worker.take(2)] == ["critical", "low"]
        worker.member.close()


async def test_keys_keep_their_order_over_a_move() -> None:
    async with a_cluster() as world:
        workers = [await node.join(mode=Mode.KEY_SHARED) for node in world.nodes]
        for text in "abc":
            await world.nodes[0].publish(text, key="k")
        seen: list[str] = []
        for target in (1, 2, 0):
            await world.give(SEAT, world.nodes[target])
            await passing(1)
            hearing = {asyncio.create_task(each.take(1)): each for each in workers}
            done, rest = await asyncio.wait(hearing, return_when=asyncio.FIRST_COMPLETED)
            (first,) = done
            for each in rest:
                each.cancel()
            await asyncio.wait(rest)
            (got,) = await first
            seen.append(got.body)
            assert await hearing[first].acknowledge([got]) == [Outcome.OK]
        assert seen == ["a", "b", "c"]
        for worker in workers:
            worker.member.close()

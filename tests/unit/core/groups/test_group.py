"""Groups at work: what becomes of deliveries when disks fail, members stall and time passes."""

import asyncio

import pytest

from switchboard_server.backends.embedded.store import Retention
from switchboard_server.core.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from switchboard_server.core.events import AfterSequence, Begin
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.config import Mode, RetryPolicy
from switchboard_server.core.groups.entries import Cause, Outcome, Rejection
from switchboard_server.core.groups.hub import GroupLimits
from switchboard_server.core.groups.letters import LetterPage, LettersQuery
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.subscription import Gap, Heartbeat
from switchboard_server.core.tail import Chunk
from tests.support.deliveries import deliveries
from tests.support.loop import manual_loop, passing, turns
from tests.unit.core.groups.world import AT_ONCE, GIVE_UP, World, a_world

HOUR = 3600.0


async def progress(world: World, name: str = "g") -> tuple[int, int, int, int]:
    """Ready, in flight, retrying and dead letters of a group."""
    told = await world.groups.report(world.groups.find(name))
    return told.ready, told.in_flight, told.retrying, told.dead_letters


async def letters(world: World, name: str = "g") -> LetterPage:
    return await world.letters.page(name)


async def test_a_member_that_does_not_read_loses_its_deliveries_at_the_deadline() -> None:
    async with a_world() as world:
        slow = await world.join()
        await world.publish("a")
        asking = asyncio.create_task(slow.member.next())
        await turns()
        assert asking.done()
        # It never asks again, and nothing else happens.
        fresh = await world.join()
        taking = asyncio.create_task(fresh.take(1))
        await passing(31)
        (got,) = await taking
        assert got.attempt == 2
        slow.member.close()
        fresh.member.close()


async def test_an_acknowledgement_is_answered_when_it_is_durable_and_not_before() -> None:
    async with a_world() as world:
        worker = await world.join()
        await world.publish("a", "b")
        got = await worker.take(2)
        world.fail("commit")
        with pytest.raises(UnavailableError, match="the disk is full"):
            await world.acknowledge(got[:1])
        # What is not durable yet is no settled event: the answer is the same, not an early yes.
        with pytest.raises(UnavailableError):
            await world.acknowledge(got[:1])
        world.heal()
        assert await world.acknowledge(got) == [Outcome.ALREADY_SETTLED, Outcome.OK]
        worker.member.close()


async def test_a_thousand_acknowledgements_are_one_transaction() -> None:
    async with a_world() as world:
        worker = await world.join(credit=1000)
        await world.publish(*map(str, range(1000)))
        got = await worker.take(1000)
        await passing(1)  # That they were delivered is kept by then.
        commits: list[None] = []
        world.store.before["commit"] = lambda: commits.append(None)
        assert set(await world.acknowledge(got)) == {Outcome.OK}
        assert len(commits) == 1
        await passing(1)
        assert len(commits) == 1
        worker.member.close()


async def test_nothing_is_given_out_while_nothing_can_be_saved() -> None:
    async with a_world() as world:
        worker = await world.join(credit=1)
        await world.publish("a", "b")
        got = await worker.take(1)
        world.fail("commit")
        with pytest.raises(UnavailableError):
            await world.acknowledge(got)
        taking = asyncio.create_task(worker.take(1))
        await turns()
        assert not taking.done()
        world.heal()
        await passing(1.1)
        assert (await taking)[0].body == "b"
        worker.member.close()


async def test_a_stream_says_that_it_lives() -> None:
    async with a_world() as world:
        worker = await world.join()
        hearing = asyncio.create_task(worker.member.next())
        await passing(15)
        assert isinstance(await hearing, Heartbeat)
        worker.member.close()
        worker.member.close()


async def test_what_was_assigned_and_not_sent_is_no_attempt() -> None:
    async with a_world() as world:
        one = await world.join()
        big = "x" * 300_000
        await world.publish("sent" + big, "assigned" + big)
        await one.take(1)
        one.member.close()
        two = await world.join()
        assert {(each.body[:4], each.attempt) for each in await two.take(2)} == {
            ("sent", 2),
            ("assi", 1),
        }
        two.member.close()


async def test_large_deliveries_are_sent_one_after_the_other() -> None:
    async with a_world() as world:
        worker = await world.join()
        big = "x" * 300_000
        await world.publish(big, big, big)
        chunk = await worker.member.next()
        assert len(chunk.frames) < 400_000  # type: ignore[union-attr]
        await worker.take(2)
        worker.member.close()


async def test_rejected_events_come_back_after_their_wait_and_die_in_the_end() -> None:
    async with a_world() as world:
        retry = RetryPolicy(max_attempts=2, min_backoff_ns=10**9, max_backoff_ns=10**9)
        worker = await world.join(retry=retry)
        await world.publish("a")
        (got,) = await worker.take(1)
        assert await world.groups.reject("g", [got.ack_id], how=Rejection(reason="no")) == [
            Outcome.OK
        ]
        assert await progress(world) == (0, 0, 1, 0)
        taking = asyncio.create_task(worker.take(1))
        await passing(2)
        (got,) = await taking
        assert await world.groups.reject("g", [got.ack_id], how=Rejection(reason="never")) == [
            Outcome.OK
        ]
        (letter,) = (await letters(world)).letters
        assert (letter.cause, letter.reason, letter.attempts) == (
            Cause.ATTEMPTS_REJECTED,
            "never",
            2,
        )
        assert await progress(world) == (0, 0, 0, 1)
        worker.member.close()


async def test_a_burial_that_cannot_be_done_is_told_and_made_up_for() -> None:
    async with a_world() as world:
        worker = await world.join()
        await world.publish("a")
        (got,) = await worker.take(1)
        world.fail("read_each")
        with pytest.raises(UnavailableError):
            await world.groups.reject("g", [got.ack_id], how=GIVE_UP)
        world.heal()
        await passing(1.1)
        assert [each.cause for each in (await letters(world)).letters] == [Cause.REJECTED]
        worker.member.close()


async def test_what_cannot_be_fetched_now_is_fetched_later() -> None:
    async with a_world() as world:
        one = await world.join()
        await world.publish("a")
        await one.take(1)
        world.fail("read_each")
        one.member.close()
        two = await world.join()
        taking = asyncio.create_task(two.take(1))
        await turns()
        assert not taking.done()
        world.heal()
        await passing(1.1)
        assert (await taking)[0].attempt == 2
        two.member.close()


async def test_members_are_told_of_events_that_retention_removed_first() -> None:
    async with a_world(tail_bytes=0, retention=Retention(age_ns=10 * 10**9)) as world:
        (await world.join()).member.close()
        await world.publish("old")
        await passing(20)
        await world.publish("new")
        worker = await world.join()
        (got,) = await worker.take(1)
        assert got.body == "new"
        assert worker.gaps == [Gap(1, 1)]
        await passing(20)
        # It is gone while the member holds it, so that it cannot be tried again.
        await world.groups.reject("g", [got.ack_id])
        await world.publish("newest")
        (got,) = await worker.take(1)
        assert got.body == "newest"
        assert worker.gaps[-1] == Gap(2, 2)
        assert await world.acknowledge([got]) == [Outcome.OK]
        assert await progress(world) == (0, 0, 0, 0)
        worker.member.close()


async def test_an_event_that_is_gone_cannot_be_buried() -> None:
    async with a_world(tail_bytes=0, retention=Retention(age_ns=10 * 10**9)) as world:
        worker = await world.join()
        await world.publish("old")
        (got,) = await worker.take(1)
        await passing(20)
        assert await world.groups.reject("g", [got.ack_id], how=GIVE_UP) == [Outcome.OK]
        assert not (await letters(world)).letters
        await world.publish("new")
        assert (await worker.take(1))[0].body == "new"
        assert worker.gaps == [Gap(1, 1)]
        worker.member.close()


@pytest.mark.parametrize("tail_bytes", [0, 1 << 20])
@pytest.mark.parametrize("mode", list(Mode))
async def test_a_backlog_is_read_in_pieces_and_whole(mode: Mode, tail_bytes: int) -> None:
    async with a_world(tail_bytes=tail_bytes) as world:
        (await world.join(mode=mode)).member.close()
        for start in range(0, 2000, 100):
            await world.publish(*map(str, range(start, start + 100)))
        assert await progress(world) == (2000, 0, 0, 0)
        worker = await world.join(mode=mode)
        seen: list[str] = []
        while len(seen) < 2000:
            got = await worker.take(min(64, 2000 - len(seen)))
            assert await world.acknowledge(got) == [Outcome.OK] * len(got)
            seen += [each.body for each in got]
        assert seen == [str(number) for number in range(2000)]
        told = await world.groups.view("g")
        assert (told.position, told.lag_events, told.exact, told.lag_ns) == (2000, 0, True, 0)
        worker.member.close()


async def test_urgent_events_overtake_a_backlog_that_is_not_in_memory() -> None:
    async with a_world(tail_bytes=0) as world:
        worker = await world.join(credit=1)
        await world.publish("first")
        got = await worker.take(1)
        for start in range(0, 1000, 100):
            await world.publish(*map(str, range(start, start + 100)), priority=1)
        await world.publish("urgent", priority=4)
        await world.acknowledge(got)
        assert (await worker.take(1))[0].body == "urgent"
        worker.member.close()


async def test_the_lag_is_an_upper_bound_until_it_is_counted() -> None:
    async with a_world() as world:
        await world.publish(*map(str, range(10)), kind="other")
        await world.publish("a")
        worker = await world.join(wish=Filter(types=("order.*",)), start=AfterSequence(0))
        worker.member.close()
        # Nobody has read yet which of the eleven match.
        fresh = await world.join("h", wish=Filter(types=("order.*",)), start=AfterSequence(0))
        (got,) = await fresh.take(1)
        assert got.body == "a"
        await passing(3)
        told = await world.groups.view("h")
        assert (told.lag_events, told.exact, told.lag_ns) == (1, True, 3 * 10**9)
        fresh.member.close()


async def test_seek_needs_a_place_that_there_is() -> None:
    async with a_world() as world:
        worker = await world.join()
        await world.publish("a", "b")
        got = await worker.take(2)
        with pytest.raises(OutOfRangeError):
            await world.groups.seek("g", AfterSequence(3), ANONYMOUS)
        with pytest.raises(FailedPreconditionError):
            await world.groups.seek("g", Begin.LATEST, ANONYMOUS, require_no_members=True)
        told = await world.groups.seek("g", AfterSequence(1), ANONYMOUS)
        assert (told.position, told.in_flight) == (1, 0)
        assert await world.acknowledge(got) == [Outcome.EXPIRED] * 2
        assert [each.body for each in await worker.take(1)] == ["b"]
        worker.member.close()


async def test_redriven_events_are_tried_anew_and_seek_shelves_them() -> None:
    async with a_world() as world:
        worker = await world.join(credit=2)
        await world.publish(*map(str, range(6)))
        for _ in range(3):
            got = await worker.take(2)
            await world.groups.reject("g", [each.ack_id for each in got], how=GIVE_UP)
        assert await progress(world) == (0, 0, 0, 6)
        done = await world.letters.redrive("g")
        assert (done.redriven, done.remaining) == (6, 0)
        got = await worker.take(2)
        assert [(each.body, each.attempt) for each in got] == [("0", 1), ("1", 1)]
        assert await progress(world) == (4, 2, 0, 0)
        assert await world.acknowledge(got[:1]) == [Outcome.OK]
        await world.groups.reject("g", [got[1].ack_id])
        again = await worker.take(2)
        # The rejected one is fetched meanwhile, and its turn comes later.
        assert {each.body for each in again} == {"2", "3"}
        await world.groups.seek("g", Begin.LATEST, ANONYMOUS)
        assert await progress(world) == (0, 0, 0, 5)
        page = await letters(world)
        assert {each.sequence for each in page.letters} == {2, 3, 4, 5, 6}
        worker.member.close()


async def test_dead_letters_come_a_page_at_a_time_the_latest_first() -> None:
    async with a_world() as world:
        worker = await world.join()
        await world.publish(*"abcde")
        got = await worker.take(5)
        for each in got:
            await world.groups.reject("g", [each.ack_id], how=GIVE_UP)
            await passing(1)
        first = await world.letters.page("g", LettersQuery(page_size=2))
        assert [each.sequence for each in first.letters] == [5, 4]
        second = await world.letters.page(
            "g", LettersQuery(page_size=3, page_token=first.next_page_token)
        )
        assert [each.sequence for each in second.letters] == [3, 2, 1]
        third = await world.letters.page("g", LettersQuery(page_token=second.next_page_token))
        assert (third.letters, third.next_page_token) == ([], "")
        nothing = await world.letters.page("g", LettersQuery(Filter(types=("none",))))
        assert (nothing.letters, nothing.next_page_token) == ([], "")
        with pytest.raises(InvalidArgumentError, match="page_token"):
            await world.letters.page(
                "g", LettersQuery(page_token=first.next_page_token[:-4] + "AAAA")
            )
        with pytest.raises(InvalidArgumentError, match="page_size"):
            await world.letters.page("g", LettersQuery(page_size=1001))
        with pytest.raises(InvalidArgumentError, match="sequences"):
            await world.letters.redrive("g", sequences=range(10_001))
        worker.member.close()


async def test_old_dead_letters_and_idle_groups_go_where_settings_say_so() -> None:
    second = 10**9
    limits = GroupLimits(idle_ns=600 * second, dead_letter_ns=60 * second)
    async with a_world(limits) as world:
        worker = await world.join()
        await world.publish("a")
        (got,) = await worker.take(1)
        await world.groups.reject("g", [got.ack_id], how=GIVE_UP)
        assert await progress(world) == (0, 0, 0, 1)
        for _ in range(14):
            await passing(5)
        assert await progress(world) == (0, 0, 0, 0)
        worker.member.close()
        for _ in range(121):
            await passing(5)
        with pytest.raises(NotFoundError):
            world.groups.find("g")


async def test_looking_after_groups_goes_on_after_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with a_world(GroupLimits(idle_ns=10**9)) as world:
        (await world.join()).member.close()
        world.fail("commit")
        await passing(5.1)
        assert "groups cannot be looked after now" in caplog.text
        world.heal()
        await passing(5.1)
        assert world.groups.names() == []


async def test_there_are_only_so_many_groups_and_members() -> None:
    async with a_world(GroupLimits(max_groups=1), max_subscriptions=2) as world:
        one = await world.join()
        with pytest.raises(ResourceExhaustedError, match="SWITCHBOARD_MAX_GROUPS"):
            await world.join("h")
        two = await world.join()
        with pytest.raises(ResourceExhaustedError, match="SWITCHBOARD_MAX_SUBSCRIPTIONS"):
            await world.join()
        two.member.close()
        three = await world.join()
        one.member.close()
        three.member.close()


async def test_two_that_make_a_group_at_once_are_in_one_group() -> None:
    async with a_world() as world:
        one, two = await asyncio.gather(world.join(), world.join())
        assert world.groups.names() == ["g"]
        assert len(world.groups.find("g").members) == 2
        one.member.close()
        two.member.close()


async def test_a_group_that_cannot_be_stored_is_not_made() -> None:
    async with a_world() as world:
        world.fail("commit")
        with pytest.raises(UnavailableError):
            await world.join()
        world.heal()
        assert world.groups.names() == []
        (await world.join()).member.close()


async def test_scopes_limit_what_is_seen_settled_and_managed() -> None:
    desk = Principal(
        "desk", ["events.view:order.*", "events.subscribe:order.*", "groups.manage:o*"]
    )
    async with a_world() as world:
        orders = await world.join("orders", wish=Filter(types=("order.created",)), principal=desk)
        every = await world.join("every")
        await world.publish("a")
        (got,) = await orders.take(1)
        (other,) = await every.take(1)
        listed, token = await world.groups.page("", 0, "", desk)
        assert ([each.record.name for each in listed], token) == (["orders"], "")
        with pytest.raises(PermissionDeniedError):
            await world.groups.acknowledge("every", [other.ack_id], desk)
        with pytest.raises(PermissionDeniedError):
            await world.groups.view("every", desk)
        with pytest.raises(PermissionDeniedError):
            await world.groups.delete("every", desk)
        with pytest.raises(PermissionDeniedError):
            await world.letters.redrive("every", principal=desk)
        assert await world.groups.acknowledge("orders", [got.ack_id], desk) == [Outcome.OK]
        await world.groups.delete("orders", desk)
        with pytest.raises(NotFoundError):
            await orders.member.next()
        orders.member.close()
        every.member.close()


async def test_groups_are_listed_a_page_at_a_time() -> None:
    async with a_world() as world:
        for name in ("a1", "a2", "a3", "b"):
            (await world.join(name)).member.close()
        first, token = await world.groups.page("a", 2, "", ANONYMOUS)
        assert [each.record.name for each in first] == ["a1", "a2"]
        second, token = await world.groups.page("a", 2, token, ANONYMOUS)
        assert ([each.record.name for each in second], token) == (["a3"], "")
        with pytest.raises(InvalidArgumentError, match="page_size"):
            await world.groups.page("", 1001, "", ANONYMOUS)


async def test_bad_input_names_its_field() -> None:
    async with a_world() as world:
        worker = await world.join()
        for names in ([], ["x"] * 10_001):
            with pytest.raises(InvalidArgumentError, match="ack_ids"):
                await world.groups.acknowledge("g", names)
        with pytest.raises(InvalidArgumentError, match="reason"):
            await world.groups.reject("g", ["x"], how=Rejection(reason="x" * 1025))
        with pytest.raises(InvalidArgumentError, match="retry_after"):
            await world.groups.reject("g", ["x"], how=Rejection(wait_ns=25 * 3600 * 10**9))
        for extension in (1, 13 * 3600 * 10**9):
            with pytest.raises(InvalidArgumentError, match="extension"):
                await world.groups.extend("g", ["x"], extension_ns=extension)
        with pytest.raises(NotFoundError, match="no group 'h'"):
            await world.groups.acknowledge("h", ["x"])
        worker.member.close()


async def test_draining_instances_get_nothing_new() -> None:
    draining: set[str] = set()
    async with a_world() as world:
        world.groups.follow_draining(draining.__contains__)
        one = await world.join(instance="desk/1", credit=1)
        two = await world.join(instance="desk/2", credit=1)
        draining.add("desk/1")
        world.groups.drain("desk/1")
        await world.publish("a", "b")
        assert (await two.take(1))[0].body == "a"
        taking = asyncio.create_task(one.take(1))
        await turns()
        assert not taking.done()
        told = await world.groups.view("g")
        assert [each.draining for each in told.members] == [True, False]
        assert world.groups.deaf(Filter()) == 0
        draining.clear()
        world.groups.drain("desk/1")
        assert (await taking)[0].body == "b"
        one.member.close()
        two.member.close()
        assert world.groups.deaf(Filter()) == 1


async def test_shutting_down_ends_the_streams_and_takes_no_new_ones() -> None:
    async with a_world() as world:
        worker = await world.join()
        hearing = asyncio.create_task(worker.member.next())
        await turns()
        error = world.events.begin_shutdown()
        world.groups.begin_shutdown(error)
        with pytest.raises(UnavailableError) as caught:
            await hearing
        assert caught.value.reason == "SHUTTING_DOWN"
        with pytest.raises(UnavailableError):
            await world.join()
        worker.member.close()


async def test_the_place_of_a_group_that_nothing_matches_is_kept_now_and_then() -> None:
    async with a_world() as world:
        worker = await world.join(wish=Filter(types=("none",)))
        for _ in range(3):
            await world.publish(*map(str, range(4000)))
        hearing = asyncio.create_task(worker.member.next())
        await turns()
        told = await world.groups.view("g")
        assert (told.position, told.ready, told.exact) == (12_000, 0, True)
        await passing(5.1)
        hearing.cancel()
        await asyncio.wait([hearing])
        worker.member.close()


async def test_groups_tell_what_they_count() -> None:
    async with a_world() as world:
        worker = await world.join(retry=AT_ONCE)
        await world.publish("a", "b")
        one, two = await worker.take(2)
        await world.acknowledge([one])
        await world.groups.reject("g", [two.ack_id])
        await worker.take(1)
        await passing(2)
        (told,) = world.groups.stats()
        counted = told.counters
        assert (told.name, told.ready, told.in_flight, told.members) == ("g", 0, 1, 1)
        assert told.oldest_ns == 2 * 10**9
        assert (counted.delivered, counted.acknowledged, counted.redelivered) == (3, 1, 1)
        worker.member.close()


async def test_a_defect_is_told_and_the_group_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world() as world:
        one = await world.join()
        await world.publish("a")
        await one.take(1)

        def defect() -> None:
            raise ZeroDivisionError

        world.store.before["read_each"] = defect
        one.member.close()
        two = await world.join()
        taking = asyncio.create_task(two.take(1))
        await turns()
        assert "group 'g' could not go on" in caplog.text
        world.heal()
        await passing(1.1)
        assert (await taking)[0].body == "a"
        two.member.close()


@pytest.mark.parametrize("mode", list(Mode))
async def test_what_came_back_goes_out_when_it_is_its_turn_though_others_wait(mode: Mode) -> None:
    async with a_world() as world:
        worker = await world.join(mode=mode, credit=1)
        await world.publish("urgent", priority=4)
        await world.publish(*map(str, range(100)))
        (got,) = await worker.take(1)
        assert got.body == "urgent"
        await world.groups.reject("g", [got.ack_id])
        # One may be out before the bytes of the urgent one are there again.
        (got,) = await worker.take(1)
        if got.body != "urgent":
            await world.acknowledge([got])
            (got,) = await worker.take(1)
        assert (got.body, got.attempt) == ("urgent", 2)
        worker.member.close()


async def test_no_event_has_a_sequence_beyond_64_bits() -> None:
    async with a_world() as world:
        worker = await world.join()
        done = await world.letters.redrive("g", sequences=[2**64 - 1, 1])
        assert (done.redriven, done.unknown) == (0, [2**64 - 1, 1])
        worker.member.close()


async def test_redrives_at_once_bring_each_dead_letter_back_once() -> None:
    async with a_world() as world:
        worker = await world.join(credit=100)
        await world.publish(*map(str, range(20)))
        got = await worker.take(20)
        await world.groups.reject("g", [each.ack_id for each in got], how=GIVE_UP)
        worker.member.close()
        done = await asyncio.gather(
            *(world.letters.redrive("g") for _ in range(3)),
            *(world.letters.redrive("g", sequences=range(1, 11)) for _ in range(3)),
        )
        assert sum(each.redriven for each in done) == 20
        assert await progress(world) == (20, 0, 0, 0)
        told = await world.groups.view("g")
        assert told.position == 0
        await passing(7)
        assert (await world.groups.view("g")).lag_ns == 7 * 10**9


async def test_a_group_that_everybody_left_tells_how_old_its_oldest_event_is() -> None:
    async with a_world() as world:
        (await world.join()).member.close()
        await world.publish("a")
        await passing(3)
        await world.publish("b")
        (told,) = world.groups.stats()
        assert (told.ready, told.oldest_ns) == (2, 3 * 10**9)


async def test_after_a_seek_no_more_is_counted_than_lies_beyond_the_position() -> None:
    async with a_world() as world:
        worker = await world.join(credit=50)
        for start in range(0, 300, 10):
            await world.publish(*map(str, range(start, start + 10)))
        await worker.take(50)
        told = await world.groups.seek("g", AfterSequence(100), ANONYMOUS)
        assert (told.position, told.lag_events) == (100, 200)
        await worker.take(50)
        told = await world.groups.view("g")
        assert told.lag_events == 200
        worker.member.close()


async def test_redriven_events_come_in_the_order_of_the_log_however_many_they_are() -> None:
    async with a_world() as world:
        worker = await world.join(credit=1000)
        await world.publish(*map(str, range(600)))
        for each in await worker.take(600):
            await world.groups.reject("g", [each.ack_id], how=GIVE_UP)
        assert (await world.letters.redrive("g")).redriven == 600
        assert [each.sequence for each in await worker.take(600)] == list(range(1, 601))
        worker.member.close()


async def test_what_is_acknowledged_while_others_come_back_is_not_delivered_again() -> None:
    async with a_world() as world:
        worker = await world.join(credit=5000)
        await world.publish(*map(str, range(800)))
        got = await worker.take(800)
        await world.groups.reject("g", [each.ack_id for each in got], how=GIVE_UP)
        assert (await world.letters.redrive("g")).redriven == 800
        came: list[int] = []

        async def work() -> None:
            while True:
                item = await worker.member.next()
                if isinstance(item, Chunk):
                    told = deliveries(item.frames)
                    came.extend(each.sequence for each in told)
                    names = [each.ack_id for each in told]
                    settling.append(asyncio.create_task(world.groups.acknowledge("g", names)))

        settling: list[asyncio.Task[list[Outcome]]] = []
        working = asyncio.create_task(work())
        for _ in range(100):
            await passing(0.01)
        working.cancel()
        await asyncio.wait([working, *settling])
        assert sorted(came) == list(range(1, 801))
        assert await progress(world) == (0, 0, 0, 0)
        worker.member.close()


async def test_groups_that_are_deleted_while_they_expire_keep_nobody_from_expiring() -> None:
    async with a_world(GroupLimits(idle_ns=10**9)) as world:
        for number in range(20):
            (await world.join(f"g{number:02}")).member.close()
        manual_loop().advance(5.1)
        await turns(3)
        await asyncio.gather(
            *(world.groups.delete(name, ANONYMOUS) for name in world.groups.names()[1:]),
            return_exceptions=True,
        )
        (await world.join("late")).member.close()
        await passing(5.1)
        await passing(5.1)
        assert world.groups.names() == []


async def test_a_member_that_settles_nothing_does_not_use_up_the_attempts_of_all() -> None:
    async with a_world() as world:
        stalled = await world.join(credit=1000)
        await world.publish(*map(str, range(300)))
        await stalled.take(300)
        healthy = await world.join(credit=10)
        asking = asyncio.create_task(stalled.member.next())
        done: set[int] = set()
        taking = asyncio.create_task(healthy.member.next())
        await passing(31)
        while len(done) < 300:
            await turns()
            if not taking.done():
                break
            item = taking.result()
            if isinstance(item, Chunk):
                told = deliveries(item.frames)
                assert await world.acknowledge(told) == [Outcome.OK] * len(told)
                done |= {each.sequence for each in told}
            taking = asyncio.create_task(healthy.member.next())
        assert len(done) == 300
        assert not asking.done() or isinstance(asking.result(), Heartbeat)
        for each in (asking, taking):
            each.cancel()
        await asyncio.wait([asking, taking])
        stalled.member.close()
        healthy.member.close()


async def test_a_lone_member_gets_back_what_it_was_too_slow_for() -> None:
    async with a_world() as world:
        worker = await world.join()
        await world.publish("a")
        await worker.take(1)
        taking = asyncio.create_task(worker.take(1))
        await passing(31)
        assert (await taking)[0].attempt == 2
        worker.member.close()


async def test_what_avoids_a_member_goes_to_it_when_nobody_else_takes_it_for_long() -> None:
    async with a_world() as world:
        one = await world.join()
        await world.publish("a")
        await one.take(1)
        other = await world.join()  # It never asks.
        taking = asyncio.create_task(one.take(1))
        await passing(31)
        assert not taking.done()
        for _ in range(4):
            await passing(15)
        assert (await taking)[0].attempt == 2
        one.member.close()
        other.member.close()

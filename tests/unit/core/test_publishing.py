"""Taking events in: refused, known, scheduled, accepted; and what a failing log leaves behind."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.backends.embedded.store import Retention, StoreError
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import (
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
    invalid_field,
)
from switchboard_server.core.ports import Appended, Lane, RecentId
from switchboard_server.core.principal import ANONYMOUS, HUB, Principal
from switchboard_server.core.publishing import Published, Publisher, PublishLimits
from switchboard_server.core.records import Drafts, Extra, build_batches
from switchboard_server.core.validation import (
    HUB_SOURCE,
    MAX_DELIVER_AHEAD_NS,
    RESERVED_SOURCE,
)
from tests.support.events import PlainCodec, a_route, bodies, numbered, some
from tests.support.logs import ScriptedLog, memory_hub
from tests.support.loop import EPOCH_NS, manual_loop, passing, run, turns

FULL = UnavailableError("LOG_UNAVAILABLE", "the disk is full")
WINDOW_NS = PublishLimits().idempotency_ns


class Door:
    """A publisher over a log that answers when the test says so."""

    def __init__(self, limits: PublishLimits | None = None) -> None:
        self.log = ScriptedLog()
        self.publisher = Publisher(self.log, limits or PublishLimits(), manual_loop().clock)
        self.last = 0

    async def publish(
        self, drafts: Drafts, principal: Principal = ANONYMOUS, lane: Lane | None = None
    ) -> asyncio.Task[Published]:
        """Begins a call, and lets it come as far as it comes without the log."""
        task = asyncio.create_task(self.publisher.publish(drafts, principal, lane=lane))
        await turns()
        return task

    async def accept(self) -> None:
        """Answers everything that waits."""
        for drafts, future in self.log.appends:
            if not future.done():
                now = manual_loop().clock()
                for batch in build_batches([drafts], self.last + 1, now, PlainCodec()):
                    self.publisher.appended(batch)
                future.set_result(Appended(self.last + 1, now))
                self.last += len(drafts)
        for _, waiting in self.log.schedules:
            if not waiting.done():
                waiting.set_result({})
        await turns()

    async def fail(self) -> None:
        """Has the log take nothing of what waits."""
        futures: list[asyncio.Future[Any]] = [future for _, future in self.log.appends]
        futures += [future for _, future in self.log.schedules]
        for future in futures:
            if not future.done():
                future.set_exception(FULL)
        await turns()

    def appended(self) -> list[list[bytes]]:
        return [drafts.bodies for drafts, _ in self.log.appends]


async def test_plain_events_are_handed_to_the_log_as_they_are() -> None:
    door = Door()
    drafts = some("a", "b")
    call = await door.publish(drafts)
    assert door.log.appends[0][0] is drafts
    assert not call.done()
    await door.accept()
    outcome = call.result()
    assert (outcome.first, outcome.accepted, outcome.time_ns) == (1, 2, EPOCH_NS)
    assert outcome.plain


async def test_calls_reach_the_log_in_the_order_in_which_they_begin() -> None:
    door = Door()
    calls = [
        asyncio.create_task(
            door.publisher.publish(
                some(str(number), ids=[str(number)] if number % 2 else None), ANONYMOUS
            )
        )
        for number in range(6)
    ]
    await turns()
    assert door.appended() == [[b"%d" % number] for number in range(6)]
    await door.accept()
    assert [call.result().first for call in calls] == [1, 2, 3, 4, 5, 6]


async def test_good_events_are_accepted_though_others_are_not() -> None:
    door = Door(PublishLimits(max_event_bytes=10))
    routes = [a_route()] * 7
    routes[1] = a_route("")
    routes[5] = a_route(priority=9)
    drafts = some(
        "good1",
        "no type",
        "longer than ten bytes",
        "bad id",
        "bad ttl",
        "bad prio",
        "good2",
        routes=routes,
        ids=["", "", "", "x" * 256, "", "", "mine"],
        extras={4: Extra(ttl_ns=-1)},
    )
    call = await door.publish(drafts)
    assert door.appended() == [[b"good1", b"good2"]]
    await door.accept()
    outcome = call.result()
    assert {index: error.reason for index, error in outcome.refused.items()} == {
        1: "FIELD_MISSING",
        2: "TOO_LARGE",
        3: "TOO_LARGE",
        4: "INVALID_FIELD",
        5: "INVALID_FIELD",
    }
    assert (outcome.first, outcome.accepted) == (1, 2)
    assert not outcome.plain
    assert door.publisher.refused == {"FIELD_MISSING": 1, "TOO_LARGE": 2, "INVALID_FIELD": 2}


async def test_what_the_door_refused_is_not_judged_anew() -> None:
    door = Door(PublishLimits(max_event_bytes=3))
    told = invalid_field("ttl", "is malformed")
    drafts = some("long body", "a", routes=[a_route(""), a_route()], refused={0: told})
    call = await door.publish(drafts)
    await door.accept()
    assert call.result().refused == {0: told}
    assert door.appended() == [[b"a"]]


async def test_where_all_are_refused_the_log_is_not_asked() -> None:
    door = Door()
    call = await door.publish(some("a", "b", routes=a_route("a*")))
    assert set(call.result().refused) == {0, 1}
    assert door.log.appends == []
    assert call.result().accepted == 0


async def test_events_out_of_the_callers_scope_are_refused_one_by_one() -> None:
    door = Door()
    shop = Principal("shop", ["events.publish:order.*"])
    routes = [a_route("order.created"), a_route("user.login"), a_route("order.paid")]
    call = await door.publish(some("a", "b", "c", routes=routes), shop)
    await door.accept()
    (error,) = call.result().refused.values()
    assert isinstance(error, PermissionDeniedError)
    assert error.metadata == {"permission": "events.publish", "resource": "user.login"}
    assert door.appended() == [[b"a", b"c"]]
    assert door.publisher.refused == {"PERMISSION_DENIED": 1}


@pytest.mark.parametrize("principal", [ANONYMOUS, Principal("shop", ["events.publish"])])
async def test_nobody_publishes_as_the_hub_but_the_hub(principal: Principal) -> None:
    door = Door()
    routes = [a_route("system_event", HUB_SOURCE), a_route("system_event", "shop")]
    call = await door.publish(some("a", "b", routes=routes), principal)
    await door.accept()
    assert call.result().refused == {0: RESERVED_SOURCE}
    alone = await door.publish(some("c", routes=routes[0]), principal)
    assert alone.result().refused == {0: RESERVED_SOURCE}
    await door.publish(some("d", routes=routes[0]), HUB)
    await door.accept()
    assert door.appended() == [[b"b"], [b"d"]]


async def test_publishing_again_returns_the_first_result_and_stores_nothing() -> None:
    door = Door()
    await door.publish(some("a", "b", ids=["1", "2"]))
    await door.accept()
    call = await door.publish(some("a again", "new", "b again", ids=["1", "3", "2"]))
    assert door.appended()[1:] == [[b"new"]]
    await door.accept()
    outcome = call.result()
    assert outcome.duplicates == {0: 1, 2: 2}
    assert (outcome.first, outcome.accepted) == (3, 1)
    assert door.publisher.duplicates == 2
    again = await door.publish(some("a", ids=["1"]))
    assert again.result().duplicates == {0: 1}
    assert again.result().accepted == 0


async def test_a_single_duplicate_is_told_when_it_first_entered_the_log() -> None:
    async with memory_hub(retention=Retention(age_ns=5 * SECOND_NS)) as (hub, _):
        await hub.publish(some("other"))
        await hub.publish(some("x", "a", ids=["", "1"]))
        manual_loop().advance(1)
        again = await hub.publish(some("a", ids=["1"]))
        assert (again.duplicates, again.time_ns) == ({0: 3}, EPOCH_NS)
        await passing(5)
        again = await hub.publish(some("a", ids=["1"]))
        assert (again.duplicates, again.time_ns) == ({0: 3}, 0)
        await hub.publish(some("new"))
        again = await hub.publish(some("a", ids=["1"]))
        assert (again.duplicates, again.time_ns) == ({0: 3}, 0)
        later = {0: Extra(deliver_at_ns=manual_loop().clock() + SECOND_NS)}
        first = await hub.publish(some("b", ids=["2"], extras=later))
        again = await hub.publish(some("b", ids=["2"], extras=later))
        assert (first.time_ns, again.duplicates, again.time_ns) == (0, {0: 0}, 0)


async def test_an_id_is_its_sources_own() -> None:
    door = Door()
    routes = [a_route(source="shop"), a_route(source="desk")]
    call = await door.publish(some("a", "b", routes=routes, ids=["1", "1"]))
    await door.accept()
    assert call.result().duplicates == {}
    assert call.result().accepted == 2


async def test_an_id_twice_in_one_call_is_stored_once() -> None:
    door = Door()
    call = await door.publish(some("a", "b", "c", "d", ids=["1", "", "1", "1"]))
    assert door.appended() == [[b"a", b"b"]]
    await door.accept()
    assert call.result().duplicates == {2: 1, 3: 1}
    assert (call.result().first, call.result().accepted) == (1, 2)


async def test_a_duplicate_of_an_event_on_its_way_waits_for_it() -> None:
    door = Door()
    first = await door.publish(some("a", ids=["1"]))
    second = await door.publish(some("a", ids=["1"]))
    assert door.appended() == [[b"a"]]
    assert not second.done()
    await door.accept()
    assert first.result().duplicates == {}
    assert second.result().duplicates == {0: 1}


async def test_a_duplicate_is_told_though_who_published_first_gave_up() -> None:
    door = Door()
    first = await door.publish(some("a", ids=["1"]))
    second = await door.publish(some("a", ids=["1"]))
    first.cancel()
    await turns()
    assert first.cancelled()
    await door.accept()
    assert second.result().duplicates == {0: 1}
    third = await door.publish(some("a", ids=["1"]))
    assert third.result().duplicates == {0: 1}


async def test_who_gives_up_waiting_for_a_duplicate_disturbs_nobody() -> None:
    door = Door()
    first = await door.publish(some("a", ids=["1"]))
    second = await door.publish(some("a", ids=["1"]))
    second.cancel()
    await turns()
    third = await door.publish(some("a", ids=["1"]))
    await door.accept()
    assert first.result().accepted == 1
    assert third.result().duplicates == {0: 1}


async def test_an_id_is_remembered_for_the_window_and_no_longer() -> None:
    door = Door()
    await door.publish(some("a", ids=["1"]))
    await door.accept()
    manual_loop().advance((WINDOW_NS - 1) / SECOND_NS)
    call = await door.publish(some("a", ids=["1"]))
    assert call.result().duplicates == {0: 1}
    manual_loop().advance(1)
    call = await door.publish(some("a", ids=["1"]))
    await door.accept()
    assert call.result().accepted == 1
    assert door.last == 2


async def test_an_event_for_later_is_scheduled_and_known_by_its_id() -> None:
    door = Door()
    later = Extra(deliver_at_ns=EPOCH_NS + 5 * SECOND_NS)
    past = Extra(deliver_at_ns=EPOCH_NS)
    drafts = some("now", "later", "past", ids=["1", "2", "3"], extras={1: later, 2: past})
    call = await door.publish(drafts)
    assert door.appended() == [[b"now", b"past"]]
    assert [drafts.bodies for drafts, _ in door.log.schedules] == [[b"later"]]
    assert door.log.schedules[0][0].extras == {0: later}
    await door.accept()
    outcome = call.result()
    assert list(outcome.scheduled) == [1]
    assert (outcome.first, outcome.accepted) == (1, 2)
    assert door.publisher.scheduled == 1
    again = await door.publish(some("later", ids=["2"], extras={0: later}))
    assert again.result().duplicates == {0: 0}
    assert len(door.log.schedules) == 1


async def test_an_event_may_wait_for_a_leap_year_at_most() -> None:
    door = Door()
    far = [EPOCH_NS + MAX_DELIVER_AHEAD_NS + over for over in (0, 1)]
    extras = {index: Extra(deliver_at_ns=each) for index, each in enumerate(far)}
    call = await door.publish(some("a", "b", extras=extras))
    await door.accept()
    assert list(call.result().scheduled) == [0]
    assert call.result().refused[1].violations[0].field == "deliver_at"


@pytest.mark.parametrize("ids", [None, ["1", "", "2"]])
async def test_a_failing_log_fails_all_and_leaves_nothing_behind(ids: Sequence[str] | None) -> None:
    door = Door()
    later = {2: Extra(deliver_at_ns=EPOCH_NS + SECOND_NS)} if ids else None
    first = await door.publish(some("a", "b", "c", ids=ids, extras=later))
    second = await door.publish(some("a", "b", "c", ids=ids, extras=later))
    await door.fail()
    for call in (first, second):
        with pytest.raises(UnavailableError) as caught:
            call.result()
        assert caught.value is FULL
    assert door.publisher.refused == {"LOG_UNAVAILABLE": 6}
    assert len(door.publisher.ids) == 0
    again = await door.publish(some("a", "b", "c", ids=ids, extras=later))
    await door.accept()
    assert again.result().duplicates == {}
    assert again.result().accepted == (2 if ids else 3)
    assert (door.publisher.duplicates, door.publisher.scheduled) == (0, 1 if ids else 0)


async def test_a_failure_that_nobody_waits_for_any_more_is_not_an_error_unheard() -> None:
    door = Door()
    call = await door.publish(some("a", ids=["1"]))
    call.cancel()
    await door.fail()
    again = await door.publish(some("a", ids=["1"]))
    await door.accept()
    assert again.result().accepted == 1


async def test_a_duplicate_of_what_fails_fails_with_it() -> None:
    door = Door()
    calls = [await door.publish(some("a", ids=["1"])) for _ in range(3)]
    await door.fail()
    for call in calls:
        with pytest.raises(UnavailableError):
            call.result()
    assert door.publisher.duplicates == 0


async def test_what_was_accepted_is_told_though_a_duplicate_of_it_failed_elsewhere() -> None:
    door = Door()
    first = await door.publish(some("a", ids=["1"]))
    second = await door.publish(some("new", "a", ids=["", "1"]))
    (_, failing), (_, storing) = door.log.appends
    storing.set_result(Appended(1, EPOCH_NS))
    failing.set_exception(FULL)
    await turns()
    with pytest.raises(UnavailableError):
        first.result()
    outcome = second.result()
    assert (outcome.first, outcome.accepted) == (1, 1)
    assert outcome.refused == {1: FULL}


@pytest.mark.parametrize("ids", [None, ["1"]])
async def test_behind_what_has_failed_in_a_lane_nothing_comes_to_the_log(
    ids: Sequence[str] | None,
) -> None:
    door, lane = Door(), Lane()
    lane.fail(FULL)
    call = await door.publish(some("a", ids=ids), lane=lane)
    assert call.exception() is FULL
    assert door.appended() == []
    assert door.publisher.refused == {"LOG_UNAVAILABLE": 1}


async def test_in_a_lane_what_another_call_fails_to_store_is_stored_in_its_place() -> None:
    door, lane = Door(), Lane()
    other = await door.publish(some("b", "c", ids=["2", "3"]))
    call = await door.publish(some("a", "b", "b", "d", ids=["1", "2", "2", "4"]), lane=lane)
    assert door.appended() == [[b"b", b"c"]]
    await door.fail()
    assert other.exception() is FULL
    assert door.appended()[1:] == [[b"a", b"b", b"d"]]
    await door.accept()
    assert (call.result().accepted, call.result().duplicates) == (3, {2: 2})


async def test_in_a_lane_what_another_call_stores_is_a_duplicate() -> None:
    door, lane = Door(), Lane()
    await door.publish(some("b", ids=["2"]))
    call = await door.publish(some("a", "b", ids=["1", "2"]), lane=lane)
    await door.accept()
    await door.accept()
    assert (call.result().first, call.result().duplicates) == (2, {1: 1})


async def test_a_call_whose_lane_fails_while_it_waits_for_another_stores_nothing() -> None:
    door, lane = Door(), Lane()
    await door.publish(some("a", ids=["1"]))
    call = await door.publish(some("a", ids=["1"]), lane=lane)
    lane.fail(FULL)
    await door.fail()
    assert call.exception() is FULL
    assert door.appended() == [[b"a"]]
    again = await door.publish(some("a", ids=["1"]))
    await door.accept()
    assert again.result().accepted == 1


async def test_too_much_that_waits_refuses_all_and_is_counted() -> None:
    door = Door(PublishLimits(max_pending_bytes=100))
    door.log.pending_bytes = 100
    assert not door.publisher.overloaded
    door.log.pending_bytes = 101
    with pytest.raises(ResourceExhaustedError) as caught:
        await door.publisher.publish(numbered(3), ANONYMOUS)
    assert caught.value.reason == "OVERLOADED"
    assert caught.value.metadata == {"limit": "100"}
    assert door.log.appends == []
    assert door.publisher.refused == {"OVERLOADED": 3}


async def test_who_has_waited_for_room_is_not_turned_away_by_others_that_waited_too() -> None:
    door = Door(PublishLimits(max_pending_bytes=100))
    door.log.pending_bytes = 101
    call = asyncio.create_task(door.publisher.publish(numbered(3), ANONYMOUS, waited=True))
    await turns()
    await door.accept()
    assert (await call).accepted == 3


async def test_ids_of_before_a_restart_are_known() -> None:
    door = Door(PublishLimits(idempotency_ns=10 * SECOND_NS, idempotency_keys=50))
    door.log.recent = [
        RecentId("shop", "1", 4, EPOCH_NS - 5 * SECOND_NS),
        RecentId("shop", "2", 0, EPOCH_NS - 4 * SECOND_NS),
    ]
    await door.publisher.recall()
    assert door.log.asked_ids == [(EPOCH_NS - 10 * SECOND_NS, 50)]
    call = await door.publish(some("a", "b", ids=["1", "2"]))
    assert call.result().duplicates == {0: 4, 1: 0}
    manual_loop().advance(5)
    call = await door.publish(some("a", "b", ids=["1", "2"]))
    await door.accept()
    assert call.result().duplicates == {1: 0}
    assert call.result().accepted == 1


async def test_an_id_that_the_log_holds_twice_is_known_for_a_window_from_the_second_on() -> None:
    door = Door(PublishLimits(idempotency_ns=10 * SECOND_NS))
    door.log.recent = [
        RecentId("shop", "1", number, EPOCH_NS - age * SECOND_NS)
        for number, age in ((1, 9), (2, 1))
    ]
    await door.publisher.recall()
    manual_loop().advance(2)
    call = await door.publish(some("a", ids=["1"]))
    assert call.result().duplicates == {0: 2}


async def test_a_clock_that_was_set_back_forgets_no_id_early() -> None:
    door = Door(PublishLimits(idempotency_ns=10 * SECOND_NS))
    await door.publish(some("a", ids=["1"]))
    await door.accept()
    manual_loop().advance(-60)
    await door.publish(some("b", ids=["2"]))
    await door.accept()
    manual_loop().advance(65)
    call = await door.publish(some("a", "b", ids=["1", "2"]))
    assert call.result().duplicates == {0: 1, 1: 2}


_CALLS = st.lists(
    st.lists(st.sampled_from(["", "", "1", "2", "3", "x" * 300]), min_size=1, max_size=5),
    min_size=1,
    max_size=8,
)


@given(_CALLS, st.lists(st.booleans(), min_size=8, max_size=8), st.booleans())
def test_every_id_is_in_the_log_once_and_every_call_told_where(
    calls: list[list[str]], failures: list[bool], together: bool
) -> None:
    """Calls side by side or one by one, with a log that fails now and then."""

    async def scenario() -> None:
        async with memory_hub() as (hub, store):
            outcomes: list[Published | BaseException] = []
            batch: list[asyncio.Task[Published]] = []
            for number, ids in enumerate(calls):
                names = [f"{number}.{index}" for index in range(len(ids))]
                failing = failures[number] and not together
                store.before["commit"] = _raise_disk_full if failing else lambda: None
                batch.append(asyncio.create_task(hub.publish(some(*names, ids=ids))))
                if not together:
                    await turns()
            outcomes += await asyncio.gather(*batch, return_exceptions=True)
            events = (await hub.log.read(0, 1 << 30)).batches
            held = [body for each in events for body in bodies(each.frames)]
            ids_held = [each.ids.get(i, "") for each in events for i in range(len(each))]
            given = [each for each in ids_held if each]
            assert len(given) == len(set(given))
            for number, (ids, outcome) in enumerate(zip(calls, outcomes, strict=True)):
                if isinstance(outcome, BaseException):
                    assert isinstance(outcome, UnavailableError)
                    assert not [body for body in held if body.startswith(f"{number}.")]
                    continue
                following = outcome.first
                for index, each in enumerate(ids):
                    if len(each) > 255:
                        assert index in outcome.refused
                    elif index in outcome.duplicates:
                        assert ids_held[outcome.duplicates[index] - 1] == each
                    else:
                        assert held[following - 1] == f"{number}.{index}"
                        following += 1
                assert following == outcome.first + outcome.accepted

    run(scenario())


def _raise_disk_full() -> None:
    raise StoreError("the disk is full")


async def test_what_another_node_accepted_first_is_told_by_the_log_and_remembered() -> None:
    door = Door()
    drafts = some("a", "b", "c", ids=["1", "", "3"])
    call = await door.publish(drafts)
    again = await door.publish(some("x", ids=["1"]))
    (stored,) = build_batches([drafts.select([1, 2])], 8, EPOCH_NS, PlainCodec())
    door.publisher.appended(stored)
    door.log.appends[0][1].set_result(Appended(8, EPOCH_NS, {0: 5}))
    await turns()
    outcome = call.result()
    assert (outcome.first, outcome.accepted, outcome.duplicates) == (8, 2, {0: 5})
    assert again.result().duplicates == {0: 5}
    later = await door.publish(some("y", "z", ids=["1", "3"]))
    assert later.result().duplicates == {0: 5, 1: 9}


async def test_ids_that_batches_of_other_nodes_tell_of_are_known() -> None:
    door = Door()
    (stored,) = build_batches([some("a", "b", ids=["1", ""])], 3, EPOCH_NS, PlainCodec())
    door.publisher.appended(stored)
    door.publisher.remembered([RecentId("shop", "2", 0, EPOCH_NS)])
    assert door.publisher.known(some("x", "y", "z", ids=["2", "7", "1"])) == {0: 0, 2: 3}
    manual_loop().advance(WINDOW_NS / SECOND_NS)
    assert door.publisher.known(some("x", ids=["1"])) == {}


async def test_what_another_node_has_accepted_is_not_scheduled_again() -> None:
    door = Door()
    now = manual_loop().clock()
    extras = {0: Extra(deliver_at_ns=now + 1), 1: Extra(deliver_at_ns=now + 1)}
    call = await door.publish(some("a", "b", ids=["1", "2"], extras=extras))
    door.log.schedules[0][1].set_result({0: 7})
    await turns()
    outcome = call.result()
    assert (outcome.scheduled, outcome.duplicates, outcome.accepted) == ([1], {0: 7}, 0)
    assert door.publisher.known(some("x", "y", ids=["1", "2"])) == {0: 7, 1: 0}

"""Consumer groups over gRPC: sharing, settling, redelivery, and what comes of it in the end."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from switchboard.v1.event_pb2 import PRIORITY_CRITICAL, PRIORITY_LOW, Filter
from switchboard.v1.group_pb2 import (
    DEAD_LETTER_CAUSE_ATTEMPTS_REJECTED,
    DEAD_LETTER_CAUSE_DEADLINE_PASSED,
    DEAD_LETTER_CAUSE_MEMBER_LOST,
    DEAD_LETTER_CAUSE_REJECTED,
)
from switchboard.v1.subscription_pb2 import (
    DELIVERY_MODE_FAN_OUT,
    DELIVERY_MODE_KEY_SHARED,
    DELIVERY_MODE_QUEUE,
    START_AT_EARLIEST,
    START_AT_LATEST,
    Delivery,
)
from tests.integration.client import Client, an_event, failing, numbered, texts
from tests.integration.group_client import Groups, Member, at_once, events_of, ids_of, seconds
from tests.integration.hubs import MEMORY, cluster_settings, running, running_two
from tests.support.hub import HubProcess

HUBS = {
    "memory": MEMORY,
    "sqlite": {},
    "from_the_log": {"SWITCHBOARD_TAIL_BYTES": "0"},
    "cluster": {},
}
"""Hubs that keep groups in memory and in a file, one that reads its file for everything, and one of
a cluster."""


@pytest.fixture(scope="module", params=HUBS)
def hub(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HubProcess]:
    if request.param == "cluster":
        settings = cluster_settings(
            request.getfixturevalue("rabbit"), request.getfixturevalue("redis")
        )
        # The other one has about half of the groups.
        with running_two(tmp_path_factory.mktemp("hubs"), settings) as hubs:
            yield hubs[0]
    else:
        with running(tmp_path_factory.mktemp("hub"), HUBS[request.param]) as hub:
            yield hub


@pytest.fixture
def groups(client: Client) -> Groups:
    return Groups(client)


async def test_each_event_goes_to_one_member_and_comes_no_more_once_acknowledged(
    client: Client, groups: Groups, kind: str
) -> None:
    async with groups.join("work", kind) as one, groups.join("work", kind) as two:
        await client.publish_batch(numbered(kind, 40))
        mine, yours = await one.deliveries(20), await two.deliveries(20)
        assert sorted(map(int, texts(events_of([*mine, *yours])))) == list(range(40))
        assert {each.attempt for each in (*mine, *yours)} == {1}
        await groups.acknowledge("work", [*mine, *yours])
        told, members = await groups.get("work")
        assert (told.progress.lag_events, told.progress.in_flight) == (0, 0)
        assert told.progress.position == told.progress.last_sequence
        assert [each.identity.member_id for each in members] == [one.member_id, two.member_id]
    await groups.delete("work")


async def test_a_member_holds_no_more_than_its_credit_and_a_new_one_gets_work_at_once(
    client: Client, groups: Groups, kind: str
) -> None:
    async with groups.join("credit", kind, max_in_flight=3) as slow:
        await client.publish_batch(numbered(kind, 10))
        held = await slow.deliveries(3)
        async with groups.join("credit", kind, max_in_flight=4) as fresh:
            assert texts(events_of(await fresh.deliveries(4))) == ["3", "4", "5", "6"]
            told, members = await groups.get("credit")
            assert [each.in_flight for each in members] == [3, 4]
            assert (told.progress.in_flight, told.progress.ready) == (7, 3)
            await groups.acknowledge("credit", held)
            assert texts(events_of(await slow.deliveries(3))) == ["7", "8", "9"]
    await groups.delete("credit")


async def test_what_a_member_leaves_unacknowledged_returns_at_once_when_its_stream_ends(
    client: Client, groups: Groups, kind: str
) -> None:
    async with groups.join("leave", kind) as gone:
        await client.publish_batch(numbered(kind, 5))
        held = await gone.deliveries(5)
        await groups.acknowledge("leave", held[:2])
    async with groups.join("leave", kind) as heir:
        again = await heir.deliveries(3)
        assert texts(events_of(again)) == ["2", "3", "4"]
        assert {each.attempt for each in again} == {2}
        assert await groups.outcomes("leave", [*ids_of(held), again[0].ack_id, "no-such-id"]) == [
            "ALREADY_SETTLED",
            "ALREADY_SETTLED",
            "EXPIRED",
            "EXPIRED",
            "EXPIRED",
            "OK",
            "UNKNOWN",
        ]
    await groups.delete("leave")


async def test_a_delivery_returns_at_its_deadline_which_can_be_extended(
    client: Client, groups: Groups, kind: str
) -> None:
    request = {"ack_deadline": seconds(1), "retry_policy": at_once()}
    async with groups.join("deadline", kind, **request) as member:
        await client.publish_batch(numbered(kind, 2))
        late, kept = await member.deliveries(2)
        assert await groups.extend("deadline", kept.ack_id, extension=seconds(3600)) == ["OK"]
        again = await member.delivery()
        assert (again.event.text, again.attempt) == ("0", 2)
        assert await groups.outcomes("deadline", [late.ack_id, kept.ack_id, again.ack_id]) == [
            "EXPIRED",
            "OK",
            "OK",
        ]
    await groups.delete("deadline")


async def test_rejected_events_are_tried_again_until_the_dead_letters_take_them(
    client: Client, groups: Groups, kind: str
) -> None:
    async with groups.join("reject", kind, retry_policy=at_once(3)) as member:
        await client.publish(an_event(kind, text="poison", attributes={"a": "b"}))
        tried = Delivery()
        for attempt in (1, 2, 3):
            tried = await member.delivery()
            assert tried.attempt == attempt
            assert await groups.reject("reject", tried.ack_id, reason=f"no {attempt}") == ["OK"]
        (letter,) = await groups.dead_letters("reject")
        assert letter.event == tried.event
        assert letter.cause == DEAD_LETTER_CAUSE_ATTEMPTS_REJECTED
        assert (letter.reason, letter.attempts) == ("no 3", 3)
        assert letter.last_member.member_id == member.member_id
        assert (await groups.get("reject"))[0].progress.dead_letters == 1
        assert (await groups.redrive("reject", all=True)).redriven == 1
        back = await member.delivery()
        assert (back.event, back.attempt) == (tried.event, 1)
        assert await groups.reject("reject", back.ack_id, dead_letter=True) == ["OK"]
        (letter,) = await groups.dead_letters("reject")
        assert (letter.cause, letter.redrives) == (DEAD_LETTER_CAUSE_REJECTED, 1)
    await groups.delete("reject")


async def test_dead_letters_tell_a_passed_deadline_from_a_lost_member(
    client: Client, groups: Groups, kind: str
) -> None:
    request = {"ack_deadline": seconds(1), "retry_policy": at_once(1)}
    async with groups.join("causes", kind, **request) as member:
        await client.publish(an_event(kind, text="late"))
        await member.delivery()
        await _until(groups, "causes", dead_letters=1)
        await client.publish(an_event(kind, text="lost"))
        await member.delivery()
    await _until(groups, "causes", dead_letters=2)
    lost, late = await groups.dead_letters("causes")
    assert (lost.event.text, lost.cause) == ("lost", DEAD_LETTER_CAUSE_MEMBER_LOST)
    assert (late.event.text, late.cause) == ("late", DEAD_LETTER_CAUSE_DEADLINE_PASSED)
    await groups.delete("causes")


async def test_events_of_one_key_go_to_one_member_one_after_the_other(
    client: Client, groups: Groups, kind: str
) -> None:
    request = {"mode": DELIVERY_MODE_KEY_SHARED}
    seen: dict[str, list[str]] = {}
    by: dict[str, set[str]] = {}

    async def work(member: Member, count: int) -> None:
        for _ in range(count):
            got = await member.delivery()
            key = got.event.ordering_key
            seen.setdefault(key, []).append(got.event.text)
            by.setdefault(key, set()).add(member.member_id)
            await groups.acknowledge("keys", [got])

    async with (
        groups.join("keys", kind, **request) as one,
        groups.join("keys", kind, **request) as two,
    ):
        await client.publish_batch(
            [
                an_event(kind, text=str(number), ordering_key=f"k{number % 7}")
                for number in range(70)
            ]
        )
        tasks = [asyncio.create_task(work(each, 70)) for each in (one, two)]
        await _until(groups, "keys", lag_events=0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert seen == {f"k{key}": [str(key + 7 * each) for each in range(10)] for key in range(7)}
    assert all(len(each) == 1 for each in by.values())
    await groups.delete("keys")


async def test_a_critical_event_overtakes_those_that_wait(
    client: Client, groups: Groups, kind: str
) -> None:
    async with groups.join("urgent", kind, max_in_flight=1) as member:
        await client.publish_batch(numbered(kind, 300))
        first = await member.delivery()
        await client.publish(an_event(kind, text="low", priority=PRIORITY_LOW))
        await client.publish(an_event(kind, text="urgent", priority=PRIORITY_CRITICAL))
        await groups.acknowledge("urgent", [first])
        assert (await member.delivery()).event.text == "urgent"
    await groups.delete("urgent")


async def test_seek_reads_again_and_skips(client: Client, groups: Groups, kind: str) -> None:
    async with groups.join("seek", kind) as member:
        answers = await client.publish_batch(numbered(kind, 4))
        old = await member.deliveries(4)
        await groups.acknowledge("seek", old[:3])
        position = await groups.seek("seek", after_sequence=answers[1].sequence)
        assert position == answers[1].sequence
        again = await member.deliveries(2)
        assert [(each.event.text, each.attempt) for each in again] == [("2", 1), ("3", 1)]
        assert await groups.outcomes("seek", [old[3].ack_id]) == ["EXPIRED"]
        await groups.acknowledge("seek", again)
        await groups.seek("seek", start_at=START_AT_EARLIEST)
        assert texts(events_of(await member.deliveries(4))) == ["0", "1", "2", "3"]
        await groups.seek("seek", start_at=START_AT_LATEST)
        await client.publish(an_event(kind, text="new"))
        assert (await member.delivery()).event.text == "new"
    await groups.delete("seek")


async def test_a_group_goes_on_where_it_stands_whatever_a_later_member_says(
    client: Client, groups: Groups, kind: str
) -> None:
    await client.publish(an_event(kind, text="before"))
    async with groups.join("stands", kind, start_at=START_AT_EARLIEST) as member:
        await groups.acknowledge("stands", [await member.delivery()])
    await client.publish(an_event(kind, text="between"))
    async with groups.join("stands", kind, start_at=START_AT_EARLIEST) as member:
        assert (await member.delivery()).event.text == "between"
    await groups.delete("stands")


async def test_a_member_that_differs_is_told_how(groups: Groups, kind: str) -> None:
    async with groups.join("same", kind):
        other = groups.join("same", [kind, "more"], mode=DELIVERY_MODE_KEY_SHARED)
        failure = await failing(other.next())
        assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
        assert failure.reason == "GROUP_MISMATCH"
        assert failure.metadata == {
            "mode": "QUEUE / KEY_SHARED",
            "filter.types": f"{kind} / {', '.join(sorted([kind, 'more']))}",
        }
        failure = await failing(groups.delete("same", require_no_members=True))
        assert failure.reason == "GROUP_IN_USE"
    await groups.delete("same", require_no_members=True)


async def test_deleting_a_group_ends_its_streams(groups: Groups, kind: str) -> None:
    async with groups.join("gone", kind) as member:
        await groups.delete("gone")
        failure = await failing(member.next())
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "GROUP_NOT_FOUND")
    failure = await failing(groups.get("gone"))
    assert failure.reason == "GROUP_NOT_FOUND"


async def test_redriving_tells_what_is_no_dead_letter(
    client: Client, groups: Groups, kind: str
) -> None:
    async with groups.join("redrive", kind) as member:
        await client.publish_batch(numbered(kind, 3))
        held = await member.deliveries(3)
        await groups.reject("redrive", *ids_of(held), dead_letter=True, reason="all bad")
        first = held[0].event.sequence
        told = await groups.redrive("redrive", sequences=[first, 10**12])
        assert (told.redriven, told.remaining) == (1, 2)
        assert list(told.unknown_sequences) == [10**12]
        assert (await member.delivery()).event.sequence == first
        told = await groups.redrive("redrive", filter=Filter(types=["none"]))
        assert (told.redriven, told.remaining) == (0, 2)
        told = await groups.redrive("redrive", filter=Filter(types=[kind]))
        assert (told.redriven, told.remaining) == (2, 0)
        assert texts(events_of(await member.deliveries(2))) == ["1", "2"]
    await groups.delete("redrive")


@pytest.mark.parametrize("credit", [64, 256, 5000])
async def test_many_that_are_redriven_come_once_each_in_the_order_of_the_log(
    hub: HubProcess, client: Client, groups: Groups, kind: str, credit: int
) -> None:
    if "SWITCHBOARD_BACKEND" in hub.settings and credit != 256:
        pytest.skip("takes long over RabbitMQ, and differs in nothing that a broker knows of")
    name = f"many{credit}"
    # What waits to be settled on a busy machine is not to expire.
    hold = seconds(600)
    async with groups.join(name, kind, max_in_flight=credit, ack_deadline=hold) as member:
        await client.publish_batch(numbered(kind, 600))
        for _ in range(0, 600, 60):
            held = await member.deliveries(60)
            assert set(await groups.reject(name, *ids_of(held), dead_letter=True)) == {"OK"}
        done = await asyncio.gather(*(groups.redrive(name, all=True) for _ in range(3)))
        assert sum(each.redriven for each in done) == 600
        came: list[str] = []
        while len(came) < 600:
            # Settled as they come, while others are still on their way back.
            one = await member.delivery()
            came.append(one.event.text)
            await groups.acknowledge(name, [one])
        assert came == [str(number) for number in range(600)]
        progress = (await groups.get(name))[0].progress
        assert (progress.lag_events, progress.dead_letters) == (0, 0)
        # Nothing follows: what is published next is what comes next.
        await client.publish(an_event(kind, text="next"))
        assert (await member.delivery()).event.text == "next"
    await groups.delete(name)


@pytest.mark.parametrize(
    ("field", "request_fields"),
    [
        ("group", {"mode": DELIVERY_MODE_QUEUE}),
        ("group", {"group": "g", "mode": DELIVERY_MODE_FAN_OUT}),
        ("group", {"group": "x" * 256}),
        ("max_in_flight", {"group": "g", "max_in_flight": 10_001}),
        ("max_in_flight", {"max_in_flight": 1}),
        ("ack_deadline", {"group": "g", "ack_deadline": seconds(0.5)}),
        ("retry_policy.max_attempts", {"group": "g", "retry_policy": {"max_attempts": 101}}),
        (
            "retry_policy.min_backoff",
            {"group": "g", "retry_policy": {"min_backoff": seconds(3601)}},
        ),
        (
            "retry_policy.max_backoff",
            {"group": "g", "retry_policy": {"min_backoff": seconds(2), "max_backoff": seconds(1)}},
        ),
        ("mode", {"group": "g", "mode": 9}),
        ("instance", {"group": "g", "instance": "desk"}),
        ("instance", {"group": "g", "instance": "desk/"}),
        ("instance", {"group": "g", "instance": "/1"}),
        ("instance", {"group": "g", "instance": "desk/1/2"}),
        ("instance", {"group": "g", "instance": "desk/\x01"}),
        ("instance", {"group": "g", "instance": "desk/" + "x" * 256}),
    ],
)
async def test_what_makes_no_group_is_refused_by_its_field(
    client: Client, field: str, request_fields: dict[str, Any]
) -> None:
    failure = await failing(client.subscribe(**request_fields).next())
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.fields == [field]


async def _until(groups: Groups, name: str, **wanted: int) -> None:
    """Waits until a group's progress is as wanted."""
    async with asyncio.timeout(20):
        while True:
            progress = (await groups.get(name))[0].progress
            if all(getattr(progress, field) == value for field, value in wanted.items()):
                return
            await asyncio.sleep(0.02)

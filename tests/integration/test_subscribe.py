"""Subscribing over gRPC: where a subscription begins, what it matches, and what it says."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from switchboard.v1.event_pb2 import (
    PRIORITY_CRITICAL,
    PRIORITY_HIGH,
    PRIORITY_LOW,
    PRIORITY_NORMAL,
    Event,
    Filter,
)
from switchboard.v1.subscription_pb2 import START_AT_EARLIEST, START_AT_LATEST
from tests.integration.client import Client, an_event, as_sent, failing, numbered, texts
from tests.integration.hubs import MEMORY, connect, running
from tests.support.hub import HubProcess

HUBS = {"from_memory": MEMORY, "from_the_log": {"SWITCHBOARD_TAIL_BYTES": "0"}}
"""One hub that serves everything from memory, and one that reads its file for everything."""


@pytest.fixture(scope="module", params=HUBS)
def hub(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HubProcess]:
    with running(tmp_path_factory.mktemp("hub"), HUBS[request.param]) as hub:
        yield hub


async def test_what_is_published_after_started_is_received_as_it_was_sent(
    client: Client, kind: str
) -> None:
    await client.publish(an_event(kind, text="before"))
    async with client.subscribe(kind) as subscriber:
        event = an_event(kind, correlation_id="c", attributes={"a": "b"}, priority=PRIORITY_HIGH)
        event.data["n"] = 1.5
        answer = await client.publish(event)
        (received,) = await subscriber.events(1)
    assert as_sent(received) == event
    assert (received.id, received.sequence) == (answer.id, answer.sequence)
    assert received.publish_time == answer.publish_time
    assert subscriber.position == answer.sequence - 1


async def test_deliveries_without_a_group_have_nothing_to_acknowledge(
    client: Client, kind: str
) -> None:
    async with client.subscribe(kind) as subscriber:
        await client.publish(an_event(kind))
        (delivery,) = (await subscriber.next()).deliveries
    assert (delivery.ack_id, delivery.attempt) == ("", 0)


async def test_every_subscriber_gets_every_event_in_order(client: Client, kind: str) -> None:
    async with (
        client.subscribe(kind) as one,
        client.subscribe(kind) as two,
        client.subscribe([kind, "other"]) as three,
    ):
        for start in range(0, 60, 20):
            await client.publish_batch(numbered(kind, 20, start))
        for subscriber in (one, two, three):
            assert texts(await subscriber.events(60)) == [str(n) for n in range(60)]


async def test_latest_begins_after_what_is_in_the_log(client: Client, kind: str) -> None:
    last = (await client.publish_batch(numbered(kind, 3)))[-1].sequence
    async with client.subscribe(kind, start_at=START_AT_LATEST) as subscriber:
        assert subscriber.position == last
        await client.publish(an_event(kind, text="new"))
        assert texts(await subscriber.events(1)) == ["new"]


async def test_earliest_begins_with_the_oldest_and_says_once_when_it_has_caught_up(
    client: Client, kind: str
) -> None:
    await client.publish_batch(numbered(kind, 10))
    async with client.subscribe(kind, start_at=START_AT_EARLIEST) as subscriber:
        assert subscriber.position == 0
        assert texts(await subscriber.until_caught_up()) == [str(n) for n in range(10)]
        await client.publish_batch(numbered(kind, 3, 10))
        # Of what follows, nothing may be another caught_up.
        assert texts(await subscriber.events(3)) == ["10", "11", "12"]


async def test_a_start_after_a_sequence_is_exact_within_a_batch(client: Client, kind: str) -> None:
    results = await client.publish_batch(numbered(kind, 10))
    position = results[6].sequence
    async with client.subscribe(kind, after_sequence=position) as subscriber:
        assert subscriber.position == position
        assert texts(await subscriber.until_caught_up()) == ["7", "8", "9"]


async def test_a_start_at_the_end_has_nothing_to_catch_up_with(client: Client, kind: str) -> None:
    answer = await client.publish(an_event(kind))
    async with client.subscribe(kind, after_sequence=answer.sequence) as subscriber:
        await client.publish(an_event(kind, text="next"))
        assert texts(await subscriber.events(1)) == ["next"]


async def test_a_start_after_a_time_leaves_out_what_entered_the_log_by_then(
    client: Client, kind: str
) -> None:
    await client.publish(an_event(kind, text="before"))
    moment = (await client.publish(an_event(kind, text="then"))).publish_time
    await client.publish(an_event(kind, text="after"))
    async with client.subscribe(kind, after_time=moment) as subscriber:
        assert texts(await subscriber.until_caught_up()) == ["after"]
    beginning = Timestamp(seconds=1)
    async with client.subscribe(kind, after_time=beginning) as subscriber:
        assert texts(await subscriber.until_caught_up()) == ["before", "then", "after"]


async def test_a_position_beyond_the_end_is_of_another_log(client: Client) -> None:
    last = (await client.publish(an_event())).sequence
    for position in (last + 1, 2**64 - 1):
        subscriber = client.subscribe(after_sequence=position)
        failure = await failing(subscriber.next())
        assert failure.code is grpc.StatusCode.OUT_OF_RANGE
        assert failure.reason == "SEQUENCE_OUT_OF_RANGE"
        assert failure.metadata == {"last_sequence": str(last)}


def variety(kind: str) -> list[Event]:
    return [
        an_event(f"{kind}.created", "shop", text="0"),
        an_event(f"{kind}.created", "shop-eu", text="1", priority=PRIORITY_LOW),
        an_event(f"{kind}.paid", "shop", text="2", target_service="billing"),
        an_event(f"{kind}.paid", "till", text="3", priority=PRIORITY_CRITICAL),
        an_event(f"{kind}", "till", text="4", attributes={"tenant": "a"}),
        an_event(f"{kind}.created", "till", text="5", attributes={"tenant": "a", "x": ""}),
        an_event(f"{kind}.created", "till", text="6", attributes={"tenant": "b", "x": "y"}),
        an_event(f"{kind}x.created", "shop", text="7", priority=PRIORITY_HIGH),
        an_event(f"{kind}.created", "shop", text="8", target_service="billing-eu"),
    ]


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({"types": [".created"]}, "01568"),
        ({"types": [".created", ".paid"]}, "0123568"),
        ({"types": [".*"]}, "0123568"),
        ({"types": ["*"]}, "012345678"),
        ({"types": [".nothing"]}, ""),
        ({"types": ["*"], "source_services": ["shop"]}, "0278"),
        ({"types": ["*"], "source_services": ["shop*"]}, "01278"),
        ({"types": ["*"], "source_services": ["shop-*", "till"]}, "13456"),
        ({"types": ["*"], "target_services": ["billing"]}, "2"),
        ({"types": ["*"], "target_services": ["billing*"]}, "28"),
        ({"types": ["*"], "target_services": ["*"]}, "012345678"),
        ({"types": ["*"], "min_priority": PRIORITY_LOW}, "012345678"),
        ({"types": ["*"], "min_priority": PRIORITY_NORMAL}, "02345678"),
        ({"types": ["*"], "min_priority": PRIORITY_HIGH}, "37"),
        ({"types": ["*"], "min_priority": PRIORITY_CRITICAL}, "3"),
        ({"types": ["*"], "attributes": {"tenant": "a"}}, "45"),
        ({"types": ["*"], "attributes": {"tenant": "a", "x": ""}}, "5"),
        ({"types": ["*"], "attributes": {"tenant": "c"}}, ""),
        ({"types": [".*"], "source_services": ["till"], "attributes": {"tenant": "b"}}, "6"),
        ({"types": [".paid"], "min_priority": PRIORITY_HIGH, "source_services": ["t*"]}, "3"),
    ],
    ids=str,
)
async def test_a_filter_matches_alike_live_from_the_past_and_in_a_listing(
    client: Client, kind: str, wish: dict[str, Any], expected: str
) -> None:
    wish = {**wish, "types": [f"{kind}{each}" for each in wish["types"]]}
    filter_ = Filter(**wish)
    async with client.subscribe(filter=filter_) as live:
        await client.publish_batch(variety(kind))
        await client.publish(fitting(filter_))
        expected += "."
        assert "".join(texts(await live.events(len(expected)))) == expected
    async with client.subscribe(filter=filter_, start_at=START_AT_EARLIEST) as past:
        assert "".join(texts(await past.until_caught_up())) == expected
    listed = await client.list_events(filter=filter_)
    assert "".join(reversed(texts(listed.events))) == expected


def fitting(wish: Filter) -> Event:
    """An event that a filter matches: after it, nothing that was published before can come."""
    kind, source, target = (
        next(iter(patterns), "any").replace("*", "end")
        for patterns in (wish.types, wish.source_services, wish.target_services)
    )
    return an_event(
        kind,
        source,
        target_service=target,
        attributes=wish.attributes,
        priority=PRIORITY_CRITICAL,
        text=".",
    )


async def test_one_event_a_time_is_filtered_as_a_batch_is(client: Client, kind: str) -> None:
    wish = Filter(types=[f"{kind}*"], attributes={"tenant": "a"}, min_priority=PRIORITY_NORMAL)
    async with client.subscribe(filter=wish) as subscriber:
        for event in variety(kind):
            await client.publish(event)
        assert texts(await subscriber.events(2)) == ["4", "5"]


async def test_a_resumed_subscription_neither_loses_nor_repeats(client: Client, kind: str) -> None:
    position, received = 0, []
    async with client.subscribe(kind) as subscriber:
        position = subscriber.position
    for start in range(0, 100, 10):
        await client.publish_batch(
            [event for n in range(start, start + 10) for event in (*numbered(kind, 1, n), noise())]
        )
        async with client.subscribe(kind, after_sequence=position) as subscriber:
            # It leaves after the first response, wherever that ends, and comes back for the rest.
            for delivery in (await subscriber.next()).deliveries:
                received.append(delivery.event.text)
                position = delivery.event.sequence
    async with client.subscribe(kind, after_sequence=position) as subscriber:
        await client.publish(an_event(kind, text="100"))
        while received[-1] != "100":
            received += [each.event.text for each in (await subscriber.next()).deliveries]
    assert received == [str(n) for n in range(101)]


def noise() -> Event:
    return an_event("noise", text="not wanted")


async def test_a_backlog_of_many_megabytes_arrives_whole_and_in_order(
    client: Client, kind: str
) -> None:
    for start in range(0, 1200, 100):
        await client.publish_batch(
            [an_event(kind, text=f"{n:04}" * 2000) for n in range(start, start + 100)]
        )
    async with client.subscribe(kind, start_at=START_AT_EARLIEST) as subscriber:
        events = await subscriber.until_caught_up()
    assert [event.text[:4] for event in events] == [f"{n:04}" for n in range(1200)]
    assert all(len(event.text) == 8000 for event in events)


async def test_events_of_a_megabyte_arrive(client: Client, kind: str) -> None:
    envelope = an_event(kind, binary=b"").ByteSize()
    # Two bytes more, for a length of three bytes where it was one.
    largest = [an_event(kind, binary=bytes([n]) * (2**20 - envelope - 2)) for n in range(5)]
    assert largest[0].ByteSize() == 2**20
    async with client.subscribe(kind) as live:
        for event in largest:
            await client.publish(event)
        received = await live.events(5)
    assert [as_sent(event) for event in received] == largest
    async with client.subscribe(kind, start_at=START_AT_EARLIEST) as past:
        assert await past.until_caught_up() == received
    listed: list[Event] = []
    token = ""
    while len(listed) < 5:
        page = await client.list_events(kind, page_token=token)
        listed += page.events
        token = page.next_page_token
    assert listed == received[::-1]


async def test_one_that_reads_late_gets_its_few_large_events_among_many_small_ones(
    hub: HubProcess, kind: str
) -> None:
    large, small = f"{kind}.large", [an_event(f"{kind}.small") for _ in range(1000)]
    # A window so small that almost everything waits in the hub, and is then joined at once.
    narrow = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536))
    async with (
        connect(hub) as publisher,
        connect(hub, options=narrow) as late,
        late.subscribe(large) as subscriber,
    ):
        for number in range(40):
            event = an_event(large, text=f"{number:02}" * 95_000)
            await publisher.publish_batch([event, *small])
        events = await subscriber.events(40)
    assert [event.text[:2] for event in events] == [f"{number:02}" for number in range(40)]


async def test_a_subscriber_that_goes_away_leaves_the_others_alone(
    client: Client, kind: str
) -> None:
    async with client.subscribe(kind) as stays:
        async with client.subscribe(kind):
            await client.publish(an_event(kind, text="0"))
        await client.publish(an_event(kind, text="1"))
        assert texts(await stays.events(2)) == ["0", "1"]

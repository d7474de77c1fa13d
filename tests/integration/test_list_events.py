"""Reading the history a page at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from switchboard.v1.event_pb2 import Event, Filter
from switchboard.v1.event_service_pb2 import (
    LIST_ORDER_NEWEST_FIRST,
    LIST_ORDER_OLDEST_FIRST,
    LIST_ORDER_UNSPECIFIED,
    ListOrder,
)
from switchboard.v1.subscription_pb2 import START_AT_EARLIEST
from tests.integration.client import Client, an_event, numbered, texts
from tests.integration.hubs import MEMORY, connect, running
from tests.support.hub import HubProcess

ORDERS = [LIST_ORDER_NEWEST_FIRST, LIST_ORDER_OLDEST_FIRST]
MAX_RESPONSE = 4 * 1024 * 1024
"""What gRPC clients take unless told otherwise."""


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def hub(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HubProcess]:
    settings = {"SWITCHBOARD_LOG": request.param}
    with running(tmp_path_factory.mktemp("hub"), settings) as hub:
        yield hub


async def pages(client: Client, kinds: str, **request: Any) -> list[list[Event]]:
    """All pages of a listing."""
    found, token = [], None
    while token != "":
        page = await client.list_events(kinds, page_token=token or "", **request)
        assert page.ByteSize() < MAX_RESPONSE
        found.append(list(page.events))
        token = page.next_page_token
    return found


def joined(found: list[list[Event]]) -> list[str]:
    return texts(event for page in found for event in page)


def a_nanosecond_after(moment: Timestamp) -> Timestamp:
    later = Timestamp()
    later.FromNanoseconds(moment.ToNanoseconds() + 1)
    return later


async def test_the_newest_event_comes_first_unless_asked_otherwise(
    client: Client, kind: str
) -> None:
    await client.publish_batch(numbered(kind, 5))
    await client.publish(an_event(kind, text="5"))
    newest = ["5", "4", "3", "2", "1", "0"]
    assert texts((await client.list_events(kind)).events) == newest
    for order, expected in (
        (LIST_ORDER_UNSPECIFIED, newest),
        (LIST_ORDER_NEWEST_FIRST, newest),
        (LIST_ORDER_OLDEST_FIRST, newest[::-1]),
    ):
        page = await client.list_events(kind, order=order)
        assert texts(page.events) == expected
        assert not page.next_page_token


async def test_what_was_never_published_is_an_empty_page(client: Client) -> None:
    page = await client.list_events("nothing.of.this.kind")
    assert not page.events
    assert not page.next_page_token


async def test_a_page_holds_a_hundred_events_unless_asked_otherwise(
    client: Client, kind: str
) -> None:
    await client.publish_batch(numbered(kind, 1500))
    assert len((await client.list_events(kind)).events) == 100
    assert len((await client.list_events(kind, page_size=1)).events) == 1
    assert len((await client.list_events(kind, page_size=1000)).events) == 1000


@pytest.mark.parametrize("order", ORDERS, ids=["newest", "oldest"])
@pytest.mark.parametrize("size", [1, 7, 50])
async def test_pages_follow_each_other_without_loss_or_repetition(
    client: Client, kind: str, order: ListOrder.ValueType, size: int
) -> None:
    for start in range(0, 50, 10):
        await client.publish_batch(
            [each for n in range(start, start + 10) for each in (an_event(), *numbered(kind, 1, n))]
        )
    found = await pages(client, kind, order=order, page_size=size)
    assert all(len(page) <= size for page in found)
    expected = [str(n) for n in range(50)]
    assert joined(found) == (expected if order == LIST_ORDER_OLDEST_FIRST else expected[::-1])


async def test_the_size_of_pages_may_change_on_the_way(client: Client, kind: str) -> None:
    await client.publish_batch(numbered(kind, 20))
    first = await client.list_events(kind, page_size=3)
    rest = await client.list_events(kind, page_size=17, page_token=first.next_page_token)
    assert texts([*first.events, *rest.events]) == [str(n) for n in range(19, -1, -1)]


@pytest.mark.parametrize("order", ORDERS, ids=["newest", "oldest"])
async def test_what_is_published_meanwhile_appears_at_the_newest_end_only(
    client: Client, kind: str, order: ListOrder.ValueType
) -> None:
    await client.publish_batch(numbered(kind, 10))
    first = await client.list_events(kind, order=order, page_size=4)
    await client.publish(an_event(kind, text="10"))
    rest = await client.list_events(kind, order=order, page_token=first.next_page_token)
    numbers = [int(text) for text in texts([*first.events, *rest.events])]
    assert numbers == (list(range(11)) if order == LIST_ORDER_OLDEST_FIRST else [*range(9, -1, -1)])


async def test_a_time_range_includes_its_start_and_not_its_end(client: Client, kind: str) -> None:
    answers = [await client.publish(an_event(kind, text=str(number))) for number in range(5)]
    times = [answer.publish_time for answer in answers]

    async def between(**bounds: Timestamp) -> str:
        page = await client.list_events(kind, order=LIST_ORDER_OLDEST_FIRST, **bounds)
        newest = await client.list_events(kind, **bounds)
        assert list(newest.events) == page.events[::-1]
        return "".join(texts(page.events))

    assert await between(start_time=times[2]) == "234"
    assert await between(end_time=times[2]) == "01"
    assert await between(start_time=times[1], end_time=times[3]) == "12"
    assert await between(start_time=times[1], end_time=a_nanosecond_after(times[1])) == "1"
    assert await between(start_time=a_nanosecond_after(times[1])) == "234"
    assert await between(start_time=times[2], end_time=times[2]) == ""
    assert await between(start_time=Timestamp(), end_time=Timestamp(seconds=253402300799)) == (
        "01234"
    )
    assert await between(start_time=Timestamp(seconds=253402300799)) == ""


async def test_a_time_range_holds_across_pages(client: Client, kind: str) -> None:
    answers = [await client.publish(an_event(kind, text=str(number))) for number in range(9)]
    bounds = {"start_time": answers[1].publish_time, "end_time": answers[8].publish_time}
    assert joined(await pages(client, kind, page_size=2, **bounds)) == list("7654321")


@pytest.mark.parametrize("order", ORDERS, ids=["newest", "oldest"])
async def test_pages_of_large_events_stay_within_what_a_client_takes(
    client: Client, kind: str, order: ListOrder.ValueType
) -> None:
    for number in range(9):
        await client.publish(an_event(kind, text=str(number) * 1_000_000))
    found = await pages(client, kind, order=order, page_size=1000)
    assert len(found) > 1
    expected = [str(number) for number in range(9)]
    firsts = [text[0] for text in joined(found)]
    assert firsts == (expected if order == LIST_ORDER_OLDEST_FIRST else expected[::-1])


async def test_a_listing_says_the_same_as_a_subscription(client: Client, kind: str) -> None:
    events = [
        an_event(kind, attributes={"a": "b"}, text="x"),
        an_event(kind, binary=b"\0\xff"),
        an_event(kind),
    ]
    await client.publish_batch(events)
    wish = Filter(types=[kind])
    async with client.subscribe(filter=wish, start_at=START_AT_EARLIEST) as subscriber:
        received = await subscriber.until_caught_up()
    page = await client.list_events(filter=wish, order=LIST_ORDER_OLDEST_FIRST)
    assert list(page.events) == received


async def test_paging_goes_on_over_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            await client.publish_batch(numbered("order.created", 10))
            first = await client.list_events(page_size=4)
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            rest = await client.list_events(page_token=first.next_page_token)
    assert texts([*first.events, *rest.events]) == [str(n) for n in range(9, -1, -1)]


async def test_what_retention_removes_while_pages_are_read_is_left_out(tmp_path: Path) -> None:
    with running(tmp_path, {**MEMORY, "SWITCHBOARD_RETENTION_BYTES": "50000"}) as hub:
        async with connect(hub) as client:
            for start in range(10):
                await client.publish(an_event(text=f"{start}" * 4000))
            old = await client.list_events(order=LIST_ORDER_OLDEST_FIRST, page_size=2)
            for _ in range(20):
                await client.publish(an_event("more", text="." * 4000))
            async with client.subscribe("alarm") as subscriber:
                # The hub looks once a second for what need not be retained.
                due = Timestamp()
                due.FromNanoseconds(old.events[0].publish_time.ToNanoseconds() + 3_000_000_000)
                await client.publish(an_event("alarm", deliver_at=due))
                await subscriber.events(1)
            rest = await client.list_events(
                order=LIST_ORDER_OLDEST_FIRST, page_token=old.next_page_token
            )
    assert len(old.events) == 2
    assert {event.type for event in rest.events} == {"more", "alarm"}
    assert not rest.next_page_token

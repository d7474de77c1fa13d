"""The history, a page at a time, against a plain list of events."""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.backends.embedded.store import Retention
from switchboard_server.core import listing, records
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import InvalidArgumentError, UnavailableError
from switchboard_server.core.events import EventHub
from switchboard_server.core.filters import Filter, Route
from switchboard_server.core.listing import Page, Query, list_page
from switchboard_server.core.paging import MAX_PAGE
from switchboard_server.core.ports import ReadResult, Window
from switchboard_server.core.records import Batch, Drafts, Extra, build_batches
from tests.support.events import PlainCodec, a_route, bodies, numbered, sequences, some
from tests.support.logs import ScriptedLog, memory_hub
from tests.support.loop import EPOCH_NS, manual_loop, run
from tests.unit.core.strategies import ATTRIBUTES, FILTERS, ROUTES, brute_force

OLDEST_FIRST = Query(newest_first=False)


async def all_pages(hub: EventHub, query: Query, most: int = 1000) -> list[Page]:
    """Every page of a listing."""
    pages = []
    for _ in range(most):
        pages.append(await hub.list_events(query))
        token = pages[-1].next_page_token
        if not token:
            return pages
        query = replace(query, page_token=token)
    raise AssertionError(f"no end after {most} pages")


def listed(pages: Sequence[Page]) -> list[int]:
    return [sequence for page in pages for sequence in sequences(page.frames)]


async def test_the_newest_come_first_unless_asked_otherwise() -> None:
    async with memory_hub() as (hub, _):
        await hub.publish(numbered(3))
        await hub.publish(numbered(2, 3))
        page = await hub.list_events(Query())
        assert bodies(page.frames) == ["4", "3", "2", "1", "0"]
        assert page.next_page_token == ""
        page = await hub.list_events(OLDEST_FIRST)
        assert bodies(page.frames) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_an_empty_log_has_one_empty_page(newest_first: bool) -> None:
    async with memory_hub() as (hub, _):
        assert await hub.list_events(Query(newest_first=newest_first)) == Page()


@pytest.mark.parametrize(("size", "expected"), [(0, 100), (1, 1), (MAX_PAGE, 1000)])
async def test_a_page_holds_as_many_as_asked_for(size: int, expected: int) -> None:
    async with memory_hub() as (hub, _):
        await hub.publish(numbered(1100))
        page = await hub.list_events(Query(page_size=size))
        assert listed([page]) == list(range(1100, 1100 - expected, -1))
        assert page.next_page_token


@pytest.mark.parametrize("size", [-1, MAX_PAGE + 1])
async def test_other_page_sizes_are_refused(size: int) -> None:
    async with memory_hub() as (hub, _):
        with pytest.raises(InvalidArgumentError) as caught:
            await hub.list_events(Query(page_size=size))
        assert caught.value.violations[0].field == "page_size"


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_page_ends_when_its_bytes_are_many(newest_first: bool) -> None:
    async with memory_hub() as (hub, _):
        large = "x" * (900 * 1024)
        for _ in range(7):
            await hub.publish(some(large))
        pages = await all_pages(hub, Query(newest_first=newest_first))
        assert [len(page.frames) for page in pages] == [3, 3, 1]
        assert sorted(listed(pages)) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_page_looks_through_so_much_of_the_log_only(newest_first: bool) -> None:
    async with memory_hub() as (hub, store):
        for _ in range(20):
            await hub.publish(some("x" * 100))
        await hub.publish(some("found", routes=a_route("rare")))
        for _ in range(20):
            await hub.publish(some("x" * 100))
        read: list[ReadResult] = []
        store.after["read"] = store.after["read_backward"] = read.append
        query = Query(filter=Filter(types=("rare",)), newest_first=newest_first)
        with (
            mock.patch.object(listing, "MAX_SCAN_BYTES", 1000),
            mock.patch.object(listing, "READ_BYTES", 200),
        ):
            pages = await all_pages(hub, query)
        assert 3 < len(pages) < 10
        assert listed(pages) == [21]
        assert sum(len(page.frames) for page in pages) == 1
        assert sum(len(result.batches) for result in read) == 41, "nothing is read twice"


async def test_a_time_range_takes_its_start_in_and_leaves_its_end_out() -> None:
    async with memory_hub() as (hub, _):
        for number in range(5):
            await hub.publish(some(str(number)))
            manual_loop().advance(1)

        def at(second: int) -> int:
            return EPOCH_NS + second * SECOND_NS

        async def found(start: int | None, end: int | None) -> list[str]:
            query = replace(OLDEST_FIRST, start_ns=start, end_ns=end)
            return bodies((await hub.list_events(query)).frames)

        assert await found(at(1), at(3)) == ["1", "2"]
        assert await found(at(1) + 1, at(3) + 1) == ["2", "3"]
        assert await found(None, at(1)) == ["0"]
        assert await found(at(4), None) == ["4"]
        assert (
            await found(at(5), None) == await found(None, at(0)) == await found(at(3), at(3)) == []
        )


async def test_events_published_meanwhile_appear_at_the_newest_end_only() -> None:
    async with memory_hub() as (hub, _):
        await hub.publish(numbered(4))
        newest = await hub.list_events(Query(page_size=2))
        oldest = await hub.list_events(replace(OLDEST_FIRST, page_size=2))
        await hub.publish(numbered(2, 4))
        newest = await hub.list_events(Query(page_token=newest.next_page_token))
        assert bodies(newest.frames) == ["1", "0"]
        oldest = await hub.list_events(replace(OLDEST_FIRST, page_token=oldest.next_page_token))
        assert bodies(oldest.frames) == ["2", "3", "4", "5"]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_listing_ends_though_retention_removes_what_it_has_not_reached(
    newest_first: bool,
) -> None:
    async with memory_hub(retention=Retention(bytes=100)) as (hub, store):
        for number in range(10):
            await hub.publish(some(str(number)))
        page = await hub.list_events(Query(page_size=7, newest_first=newest_first))
        assert store.trim(0) is not None
        query = Query(page_token=page.next_page_token, newest_first=newest_first)
        pages = await all_pages(hub, query, most=2)
        assert listed(pages) == ([] if newest_first else [8, 9, 10])


async def test_expired_events_are_not_listed() -> None:
    async with memory_hub() as (hub, _):
        await hub.publish(some("a", "b", "c", extras={1: Extra(ttl_ns=SECOND_NS)}))
        assert bodies((await hub.list_events(OLDEST_FIRST)).frames) == ["a", "b", "c"]
        manual_loop().advance(1)
        assert bodies((await hub.list_events(OLDEST_FIRST)).frames) == ["a", "c"]
        assert bodies((await hub.list_events(Query())).frames) == ["c", "a"]


def _log_with_a_hole() -> ScriptedLog:
    """Events 1 to 9 in batches of three, of which the middle one cannot be read back."""
    batches = build_batches([numbered(3)], 1, EPOCH_NS, PlainCodec())
    batches += build_batches([numbered(3, 6)], 7, EPOCH_NS, PlainCodec())
    log = ScriptedLog()
    log.window = Window(1, 9)

    def reading(place: int, max_bytes: int) -> ReadResult:
        found: list[Batch] = []
        if max_bytes < 0:
            found = [batch for batch in batches if batch.first < place][-1:]
        else:
            found = [batch for batch in batches if batch.last > place][:1]
        return ReadResult(found, log.window)

    def forward(after: int, _max_bytes: int) -> ReadResult:
        if 3 <= after < 6:
            return ReadResult((), log.window, lost=(4, 6))
        return reading(after, 1)

    def backward(before: int, _max_bytes: int) -> ReadResult:
        if 4 < before <= 7:
            return ReadResult((), log.window, lost=(4, 6))
        return reading(before, -1)

    log.reading = forward
    log.reading_backward = backward
    return log


@pytest.mark.parametrize("newest_first", [True, False])
async def test_what_cannot_be_read_back_is_passed_over(newest_first: bool) -> None:
    log = _log_with_a_hole()
    query = Query(newest_first=newest_first, page_size=2)
    found: list[int] = []
    for _ in range(10):
        page = await list_page(log, query, manual_loop().clock)
        found += sequences(page.frames)
        if not page.next_page_token:
            break
        query = replace(query, page_token=page.next_page_token)
    expected = [1, 2, 3, 7, 8, 9]
    assert found == (expected[::-1] if newest_first else expected)


async def test_a_log_that_cannot_be_read_says_so() -> None:
    log = ScriptedLog()
    log.window = Window(1, 5)

    def reading(_place: int, _max_bytes: int) -> ReadResult:
        raise UnavailableError("LOG_UNAVAILABLE", "the disk is away")

    log.reading = reading
    with pytest.raises(UnavailableError):
        await list_page(log, OLDEST_FIRST, manual_loop().clock)


@pytest.mark.parametrize(
    "token",
    ["x", "!!!", "é", "AAAA", "A" * 22, "A" * 23, "A" * 10_000, "\x00", "====", " "],
)
@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_token_from_elsewhere_is_refused(token: str, newest_first: bool) -> None:
    async with memory_hub() as (hub, _):
        await hub.publish(numbered(5))
        with pytest.raises(InvalidArgumentError) as caught:
            await hub.list_events(Query(page_token=token, newest_first=newest_first))
        assert caught.value.reason == "INVALID_PAGE_TOKEN"
        assert caught.value.violations[0].field == "page_token"


async def test_a_token_belongs_to_its_query_and_to_its_log() -> None:
    async with memory_hub() as (hub, _), memory_hub() as (other, _):
        query = Query(Filter(types=("order.*",), attributes={}), None, None, True, 2)
        for each in (hub, other):
            await each.publish(numbered(5))
        token = (await hub.list_events(query)).next_page_token
        query = replace(query, page_token=token)
        for wrong in (
            replace(query, filter=Filter()),
            replace(query, filter=Filter(types=("order.*",), attributes={"a": "b"})),
            replace(query, start_ns=0),
            replace(query, end_ns=EPOCH_NS + SECOND_NS),
            replace(query, newest_first=False),
        ):
            with pytest.raises(InvalidArgumentError, match="page_token"):
                await hub.list_events(wrong)
        with pytest.raises(InvalidArgumentError, match="page_token"):
            await other.list_events(query)
        other_size = replace(query, page_size=1, filter=Filter(types=("order.*", "order.*")))
        assert bodies((await hub.list_events(other_size)).frames) == ["2"]


async def test_a_token_cannot_be_bent_to_another_place() -> None:
    async with memory_hub() as (hub, _):
        await hub.publish(numbered(5))
        query = Query(page_size=2)
        token = (await hub.list_events(query)).next_page_token
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        for index in range(len(raw)):
            bent = raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1 :]
            text = base64.urlsafe_b64encode(bent).decode().rstrip("=")
            with pytest.raises(InvalidArgumentError):
                await hub.list_events(replace(query, page_token=text))


@contextmanager
def small_bounds() -> Iterator[None]:
    with (
        mock.patch.object(records, "MAX_BATCH_EVENTS", 3),
        mock.patch.object(listing, "READ_BYTES", 120),
        mock.patch.object(listing, "MAX_SCAN_BYTES", 400),
        mock.patch.object(listing, "MAX_PAGE_BYTES", 200),
    ):
        yield


_CALLS = st.lists(
    st.lists(st.tuples(ROUTES, ATTRIBUTES, st.sampled_from([0, 0, 3])), min_size=1, max_size=6),
    max_size=6,
)
_TIMES = st.one_of(st.none(), st.integers(-1, 7))


def at(second: int | None) -> int | None:
    """The wall clock after so many seconds."""
    return None if second is None else EPOCH_NS + second * SECOND_NS


_QUERIES = st.builds(
    Query,
    filter=FILTERS,
    start_ns=_TIMES.map(at),
    end_ns=_TIMES.map(at),
    newest_first=st.booleans(),
    page_size=st.integers(0, 5),
)


@given(_CALLS, _QUERIES)
def test_pages_hold_all_that_matches_once_in_either_order(
    calls: list[list[tuple[Route, dict[str, str], int]]], query: Query
) -> None:
    start, end = query.start_ns, query.end_ns

    async def scenario() -> None:
        async with memory_hub() as (hub, _):
            expected, sequence = [], 0
            for second, call in enumerate(calls):
                now = manual_loop().clock()
                await hub.publish(
                    Drafts(
                        [b""] * len(call),
                        [route for route, _, _ in call],
                        extras={
                            index: Extra(attributes, ttl_ns=ttl * SECOND_NS)
                            for index, (_, attributes, ttl) in enumerate(call)
                        },
                    )
                )
                for route, attributes, ttl in call:
                    sequence += 1
                    in_time = (start is None or now >= start) and (end is None or now < end)
                    alive = not ttl or len(calls) < second + ttl
                    if in_time and alive and brute_force(query.filter, route, attributes):
                        expected.append(sequence)
                manual_loop().advance(1)
            pages = await all_pages(hub, query)
            assert listed(pages) == (expected[::-1] if query.newest_first else expected)
            assert all(len(page.frames) <= (query.page_size or 100) for page in pages)

    with small_bounds():
        run(scenario())

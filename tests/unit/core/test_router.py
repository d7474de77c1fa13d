"""Who wants an event, against asking everybody."""

from collections.abc import Sequence
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.core import router as module
from switchboard_server.core.filters import EVERYTHING, Filter, Route
from switchboard_server.core.router import Router
from tests.support.events import a_route
from tests.unit.core.strategies import ATTRIBUTES, FILTERS, ROUTES, brute_force


class Entry:
    """Somebody with a filter."""

    def __init__(self, wish: Filter) -> None:
        self.filter = wish

    def __repr__(self) -> str:
        return f"Entry({self.filter})"


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), FILTERS),
        st.tuples(st.just("remove"), st.integers(0, 1000)),
        st.tuples(st.just("find"), st.tuples(ROUTES, ATTRIBUTES)),
    ),
    max_size=40,
)


@pytest.mark.parametrize(
    ("remembered", "updated"), [(65_536, 1024), (2, 1024), (65_536, 1), (1, 0)]
)
def test_it_finds_whom_asking_everybody_finds(remembered: int, updated: int) -> None:
    @given(_STEPS)
    def check(steps: Sequence[tuple[str, object]]) -> None:
        router: Router[Entry] = Router()
        present: list[Entry] = []
        for what, value in steps:
            if isinstance(value, Filter):
                present.append(Entry(value))
                router.add(present[-1])
            elif isinstance(value, int):
                if present:
                    router.remove(present.pop(value % len(present)))
            elif isinstance(value, tuple):
                route, attributes = value
                found = [*router.by_route(route), *router.by_attributes(route, attributes)]
                expected = [each for each in present if brute_force(each.filter, route, attributes)]
                assert len(found) == len(expected), what
                assert set(found) == set(expected)

    with (
        mock.patch.object(module, "MAX_REMEMBERED_ROUTES", remembered),
        mock.patch.object(module, "MAX_UPDATED_ROUTES", updated),
    ):
        check()


class Counted:
    """Counts how often its filter is looked at."""

    looks = 0

    def __init__(self, wish: Filter) -> None:
        self._filter = wish

    @property
    def filter(self) -> Filter:
        Counted.looks += 1
        return self._filter


def test_an_event_costs_what_it_matches_and_not_what_is_subscribed() -> None:
    router: Router[Counted] = Router()
    for number in range(2000):
        router.add(Counted(Filter(types=(f"type{number}.*",))))
        router.add(Counted(Filter(types=("a*",), source_services=(f"s{number}",))))
        router.add(Counted(Filter(attributes={"key": str(number)})))
    wanted = Counted(Filter(types=("order.*",)))
    router.add(wanted)
    Counted.looks = 0
    assert router.by_route(a_route()) == (wanted,)
    assert router.by_route(a_route()) == (wanted,)
    assert Counted.looks == 1
    assert len(router.by_attributes(a_route(), {"key": "7"})) == 1
    assert Counted.looks == 3


def test_who_comes_and_goes_is_told_to_the_routes_that_are_remembered() -> None:
    router: Router[Entry] = Router()
    stays, goes = Entry(EVERYTHING), Entry(Filter(types=("order.created",)))
    router.add(stays)
    assert router.by_route(a_route()) == (stays,)
    router.add(goes)
    assert router.by_route(a_route()) == (stays, goes)
    assert router.by_route(a_route("user.login")) == (stays,)
    router.remove(goes)
    assert router.by_route(a_route()) == (stays,)


def test_nothing_is_kept_of_who_has_left() -> None:
    router: Router[Entry] = Router()
    entries = [
        Entry(Filter(types=(f"a{number}", f"b{number}*"), attributes=attributes))
        for number in range(10)
        for attributes in ({}, {"k": str(number)})
    ]
    entries += [Entry(Filter(source_services=("s*",))), Entry(Filter(target_services=("t",)))]
    for entry in entries:
        router.add(entry)
    for entry in entries:
        router.remove(entry)
    tables = [
        each
        for index in (router._by_type, router._by_source, router._by_target)
        for each in (index.exact, index.prefixes)
    ]
    assert not any(tables)
    assert not router._by_attribute
    assert router.by_route(Route("a1", "s1", "t", 2)) == ()

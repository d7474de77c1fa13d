"""What a filter matches, and which filters are allowed."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.core.errors import InvalidArgumentError
from switchboard_server.core.filters import (
    EVERYTHING,
    MAX_ATTRIBUTE_KEY,
    MAX_ATTRIBUTE_VALUE,
    MAX_FILTER_ENTRIES,
    MAX_NAME,
    MAX_TOLD,
    Filter,
    Route,
    check_entries,
    covers,
    validate,
)
from tests.unit.core.strategies import ATTRIBUTES, FILTERS, ROUTES, brute_force

PATTERNS = st.text("ab*", max_size=3).filter(lambda text: "*" not in text[:-1])


@given(PATTERNS, PATTERNS, st.text("ab", max_size=4))
def test_a_pattern_that_covers_another_matches_all_that_the_other_matches(
    wide: str, narrow: str, name: str
) -> None:
    if covers(wide, narrow) and covers(narrow, name):
        assert covers(wide, name)


@given(FILTERS, ROUTES, ATTRIBUTES)
def test_fields_are_and_entries_are_or_and_an_empty_field_matches_all(
    wish: Filter, route: Route, attributes: dict[str, str]
) -> None:
    matched = wish.matches_route(route) and wish.matches_attributes(attributes)
    assert matched == brute_force(wish, route, attributes)


def test_everything_is_matched_by_the_empty_filter() -> None:
    assert EVERYTHING.matches_route(Route("a", "b", "", 1))
    assert EVERYTHING.matches_attributes({})
    assert EVERYTHING.matches_attributes({"a": "b"})


def test_an_event_for_anyone_is_no_target_but_that_of_the_star() -> None:
    anyone = Route("a", "b", "", 2)
    assert Filter(target_services=("*",)).matches_route(anyone)
    assert not Filter(target_services=("billing",)).matches_route(anyone)
    assert not Filter(target_services=("b*",)).matches_route(anyone)


@given(FILTERS, st.randoms(use_true_random=False))
def test_filters_that_want_the_same_are_equal_whatever_their_order(
    wish: Filter, random: Random
) -> None:
    def shuffled(entries: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(random.sample([*entries, *entries], 2 * len(entries)))

    pairs = list(wish.attributes.items())
    random.shuffle(pairs)
    same = Filter(
        shuffled(wish.types),
        shuffled(wish.source_services),
        shuffled(wish.target_services),
        wish.min_priority,
        dict(pairs),
    )
    assert same == wish
    assert hash(same) == hash(wish)
    assert same.key == wish.key


@given(FILTERS, FILTERS)
def test_filters_are_equal_exactly_when_their_keys_are(one: Filter, other: Filter) -> None:
    assert (one == other) == (one.key == other.key)


def test_a_filter_does_not_change_with_the_mapping_it_was_made_of() -> None:
    attributes = {"a": "1"}
    wish = Filter(attributes=attributes)
    attributes["a"] = "2"
    assert wish.matches_attributes({"a": "1"})


@pytest.mark.parametrize("field", ["types", "source_services", "target_services"])
@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("", "an entry is empty"),
        ("a*b", "a '*' before its end"),
        ("**", "a '*' before its end"),
        ("x" * (MAX_NAME + 1), "has 256 characters, at most 255"),
    ],
)
def test_a_bad_entry_is_named_with_its_field(field: str, pattern: str, problem: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        validate(Filter(**{field: ("fine", pattern)}))  # type: ignore[arg-type]
    assert caught.value.reason == "INVALID_FIELD"
    (violation,) = caught.value.violations
    assert violation.field == f"filter.{field}"
    assert problem in violation.description
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"": "v"}, "the key '' must have 1 to 128 characters"),
        ({"k" * (MAX_ATTRIBUTE_KEY + 1): "v"}, "must have 1 to 128 characters"),
        ({"k": "v" * (MAX_ATTRIBUTE_VALUE + 1)}, "has 1025 characters, at most 1024"),
    ],
)
def test_an_attribute_that_no_event_can_have_is_refused(
    attributes: dict[str, str], problem: str
) -> None:
    longest = {"k" * MAX_ATTRIBUTE_KEY: "v" * MAX_ATTRIBUTE_VALUE}
    validate(Filter(attributes=longest))
    with pytest.raises(InvalidArgumentError, match=problem) as caught:
        validate(Filter(attributes={**longest, **attributes}))
    assert [each.field for each in caught.value.violations] == ["filter.attributes"]


def test_an_error_names_so_few_entries_that_it_fits_into_metadata() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        validate(Filter(types=tuple("\U0001f642" * 256 + str(number) for number in range(256))))
    assert len(caught.value.violations) == MAX_TOLD
    assert len(str(caught.value).encode()) < 2000


def test_all_bad_entries_are_reported_at_once() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        validate(Filter(types=("", "a*b"), source_services=("*c",)), "wish")
    assert sorted(each.field for each in caught.value.violations) == [
        "wish.source_services",
        "wish.types",
        "wish.types",
    ]


def test_good_filters_pass_up_to_the_limit_and_not_beyond() -> None:
    attributes = {str(number): "" for number in range(6)}
    names = tuple(map(str, range(MAX_FILTER_ENTRIES - 8)))
    validate(Filter(names, ("*",), ("x" * MAX_NAME,), 4, attributes))
    with pytest.raises(InvalidArgumentError) as caught:
        validate(Filter((*names, "one more"), ("*",), ("b",), 4, attributes))
    assert caught.value.reason == "TOO_LARGE"
    assert caught.value.metadata == {"limit": "256", "actual": "257"}
    assert [each.field for each in caught.value.violations] == ["filter"]


def test_a_door_may_ask_before_it_makes_a_filter() -> None:
    check_entries(MAX_FILTER_ENTRIES)
    with pytest.raises(InvalidArgumentError, match="wish: has 257 entries") as caught:
        check_entries(MAX_FILTER_ENTRIES + 1, "wish")
    assert caught.value.reason == "TOO_LARGE"


def test_a_million_entries_are_refused_in_a_short_message() -> None:
    with pytest.raises(InvalidArgumentError, match="1000000 entries") as caught:
        validate(Filter(types=tuple(map(str, range(1_000_000)))))
    assert len(str(caught.value)) < 200

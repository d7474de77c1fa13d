"""What the members of a group agree on."""

import pytest

from switchboard_server.core.errors import FailedPreconditionError, InvalidArgumentError
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.config import (
    GroupConfig,
    Mode,
    RetryPolicy,
    check_same,
    validate,
    validate_name,
)
from tests.unit.core.groups.events import SECOND


def test_each_wait_is_twice_as_long_up_to_the_longest() -> None:
    policy = RetryPolicy(100, SECOND, 5 * SECOND)
    assert [policy.backoff_ns(each, 0.5) for each in (1, 2, 3, 4, 100)] == [
        SECOND,
        2 * SECOND,
        4 * SECOND,
        5 * SECOND,
        5 * SECOND,
    ]


def test_up_to_a_quarter_of_a_wait_is_added_or_taken_but_never_beyond_the_longest() -> None:
    policy = RetryPolicy(5, 4 * SECOND, 8 * SECOND)
    assert policy.backoff_ns(1, 0.0) == 3 * SECOND
    assert policy.backoff_ns(1, 1.0) == 5 * SECOND
    assert policy.backoff_ns(2, 0.0) == 6 * SECOND
    assert policy.backoff_ns(2, 1.0) == 8 * SECOND


@pytest.mark.parametrize("name", ["g", "orders é", "x" * 255])
def test_a_name_may_be_whatever_prints(name: str) -> None:
    validate_name(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("", "FIELD_MISSING"), ("x" * 256, "TOO_LARGE"), ("a\nb", "INVALID_FIELD")],
)
def test_a_name_that_is_none_is_refused(name: str, reason: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        validate_name(name)
    assert caught.value.reason == reason


def _config(deadline_ns: int = SECOND, **retry: int) -> GroupConfig:
    return GroupConfig(ack_deadline_ns=deadline_ns, retry=RetryPolicy(**retry))


def test_what_lies_on_the_bounds_is_allowed() -> None:
    validate(_config(SECOND, max_attempts=1, min_backoff_ns=0, max_backoff_ns=0), 1)
    hour = 3600 * SECOND
    validate(
        _config(12 * hour, max_attempts=100, min_backoff_ns=hour, max_backoff_ns=24 * hour), 10_000
    )


@pytest.mark.parametrize(
    ("config", "credit", "field"),
    [
        (_config(), 0, "max_in_flight"),
        (_config(), 10_001, "max_in_flight"),
        (_config(SECOND - 1), 1, "ack_deadline"),
        (_config(12 * 3600 * SECOND + 1), 1, "ack_deadline"),
        (_config(max_attempts=0), 1, "retry_policy.max_attempts"),
        (_config(max_attempts=101), 1, "retry_policy.max_attempts"),
        (_config(min_backoff_ns=-1), 1, "retry_policy.min_backoff"),
        (_config(min_backoff_ns=3600 * SECOND + 1), 1, "retry_policy.min_backoff"),
        (_config(min_backoff_ns=2, max_backoff_ns=1), 1, "retry_policy.max_backoff"),
        (_config(max_backoff_ns=24 * 3600 * SECOND + 1), 1, "retry_policy.max_backoff"),
    ],
)
def test_what_lies_beyond_is_refused_by_its_name(
    config: GroupConfig, credit: int, field: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=field):
        validate(config, credit)


def test_the_order_of_a_filters_entries_makes_no_difference() -> None:
    one = GroupConfig(Filter(types=("a", "b"), attributes={"x": "1", "y": "2"}))
    check_same("g", one, GroupConfig(Filter(types=("b", "a"), attributes={"y": "2", "x": "1"})))


def test_every_difference_is_shown_by_its_path() -> None:
    group = GroupConfig(Filter(types=("a", "b")), ack_deadline_ns=1_500_000_000)
    member = GroupConfig(
        Filter(attributes={"x": "1"}, min_priority=3),
        Mode.KEY_SHARED,
        retry=RetryPolicy(max_attempts=3),
    )
    with pytest.raises(FailedPreconditionError) as caught:
        check_same("g", group, member)
    assert caught.value.reason == "GROUP_MISMATCH"
    assert caught.value.metadata == {
        "filter.types": "a, b / (any)",
        "filter.min_priority": "0 / 3",
        "filter.attributes": "(any) / x=1",
        "mode": "QUEUE / KEY_SHARED",
        "ack_deadline": "1.5s / 30s",
        "retry_policy.max_attempts": "5 / 3",
    }


def test_durations_that_hardly_differ_are_shown_as_different() -> None:
    group, member = _config(12_345_678_000_001), _config(12_345_678_000_002)
    with pytest.raises(FailedPreconditionError) as caught:
        check_same("g", group, member)
    assert caught.value.metadata == {"ack_deadline": "12345.678000001s / 12345.678000002s"}

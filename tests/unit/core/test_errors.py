"""The errors of use cases."""

from switchboard_server.core.errors import (
    InvalidArgumentError,
    UnavailableError,
    Violation,
    invalid_field,
    too_large,
)


def test_an_error_tells_people_its_message_and_programs_its_reason() -> None:
    error = UnavailableError("LOG_UNAVAILABLE", "the disk is full", metadata={"limit": "1"})
    assert str(error) == error.message == "the disk is full"
    assert error.reason == "LOG_UNAVAILABLE"
    assert error.metadata == {"limit": "1"}
    assert error.violations == ()


def test_metadata_added_to_one_error_is_not_that_of_another() -> None:
    shared = {"limit": "1"}
    first, second = (UnavailableError("OVERLOADED", "too much", metadata=shared) for _ in range(2))
    first.metadata["position"] = "7"
    assert second.metadata == shared == {"limit": "1"}


def test_a_bad_field_is_named_in_the_message_and_in_the_violation() -> None:
    error = invalid_field("event.type", "is required", reason="FIELD_MISSING")
    assert isinstance(error, InvalidArgumentError)
    assert error.reason == "FIELD_MISSING"
    assert str(error) == "event.type: is required"
    assert error.violations == (Violation("event.type", "is required"),)
    assert invalid_field("ttl", "is negative").reason == "INVALID_FIELD"


def test_what_is_too_large_is_told_with_how_much_there_may_be() -> None:
    error = too_large("filter", 300, 256, "entries", "use a prefix")
    assert error.reason == "TOO_LARGE"
    assert str(error) == "filter: has 300 entries, at most 256 are allowed; use a prefix"
    assert error.violations == (Violation("filter", "has 300 entries, at most 256 are allowed"),)
    assert error.metadata == {"limit": "256", "actual": "300"}

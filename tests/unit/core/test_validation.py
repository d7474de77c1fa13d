"""What an event must be like to be taken."""

import pytest

from switchboard_server.core.filters import (
    MAX_ATTRIBUTE_KEY,
    MAX_ATTRIBUTE_VALUE,
    MAX_NAME,
    Route,
)
from switchboard_server.core.records import Extra
from switchboard_server.core.validation import (
    MAX_ATTRIBUTES,
    MAX_DELIVER_AHEAD_NS,
    extra_problem,
    name_problem,
    route_problem,
    size_problem,
)

NOW = 1_700_000_000_000_000_000
LONG = "x" * MAX_NAME


@pytest.mark.parametrize(
    "route",
    [
        Route("order.created", "shop", "", 1),
        Route(LONG, LONG, LONG, 4),
        Route("a b", "Größe", "日本", 2),
        Route("family 👨\u200d👩\u200d👧", "a\u00a0b", "\ue000", 2),
    ],
)
def test_good_routes_pass(route: Route) -> None:
    assert route_problem(route) is None


@pytest.mark.parametrize(
    ("route", "field", "reason"),
    [
        (Route("", "shop", "", 2), "type", "FIELD_MISSING"),
        (Route("a", "", "", 2), "source_service", "FIELD_MISSING"),
        (Route(LONG + "x", "shop", "", 2), "type", "TOO_LARGE"),
        (Route("a", LONG + "x", "", 2), "source_service", "TOO_LARGE"),
        (Route("a", "shop", LONG + "x", 2), "target_service", "TOO_LARGE"),
        (Route("a*", "shop", "", 2), "type", "INVALID_FIELD"),
        (Route("a", "*", "", 2), "source_service", "INVALID_FIELD"),
        (Route("a", "shop", "b\nc", 2), "target_service", "INVALID_FIELD"),
        (Route("a\x00", "shop", "", 2), "type", "INVALID_FIELD"),
        (Route("a", "shop\x7f", "", 2), "source_service", "INVALID_FIELD"),
        (Route("a", "shop\x9f", "", 2), "source_service", "INVALID_FIELD"),
        (Route("a", "shop", "", 0), "priority", "INVALID_FIELD"),
        (Route("a", "shop", "", 5), "priority", "INVALID_FIELD"),
        (Route("a", "shop", "", -1), "priority", "INVALID_FIELD"),
    ],
)
def test_a_bad_route_is_refused_with_its_field(route: Route, field: str, reason: str) -> None:
    problem = route_problem(route)
    assert problem is not None
    assert (problem.reason, problem.violations[0].field) == (reason, field)
    assert len(str(problem)) < 200


@pytest.mark.parametrize(
    "extra",
    [
        Extra(),
        Extra({"k" * MAX_ATTRIBUTE_KEY: "v" * MAX_ATTRIBUTE_VALUE}, LONG, 1, 1),
        Extra({str(number): "" for number in range(MAX_ATTRIBUTES)}),
        Extra(deliver_at_ns=NOW + MAX_DELIVER_AHEAD_NS),
    ],
)
def test_good_extras_pass(extra: Extra) -> None:
    assert extra_problem(extra, NOW) is None


@pytest.mark.parametrize(
    ("extra", "field", "reason"),
    [
        (Extra(ttl_ns=-1), "ttl", "INVALID_FIELD"),
        (Extra(deliver_at_ns=NOW + MAX_DELIVER_AHEAD_NS + 1), "deliver_at", "INVALID_FIELD"),
        (Extra(ordering_key=LONG + "x"), "ordering_key", "TOO_LARGE"),
        (Extra({str(n): "" for n in range(MAX_ATTRIBUTES + 1)}), "attributes", "TOO_LARGE"),
        (Extra({"": "v"}), "attributes", "INVALID_FIELD"),
        (Extra({"k" * (MAX_ATTRIBUTE_KEY + 1): "v"}), "attributes", "INVALID_FIELD"),
        (Extra({"k": "v" * (MAX_ATTRIBUTE_VALUE + 1)}), "attributes", "INVALID_FIELD"),
    ],
)
def test_bad_extras_are_refused_with_their_field(extra: Extra, field: str, reason: str) -> None:
    problem = extra_problem(extra, NOW)
    assert problem is not None
    assert (problem.reason, problem.violations[0].field) == (reason, field)
    assert len(str(problem)) < 300


def test_a_name_has_255_characters_at_most() -> None:
    assert name_problem("id", LONG) is None
    problem = name_problem("id", LONG + "x")
    assert problem is not None
    assert (problem.reason, problem.violations[0].field) == ("TOO_LARGE", "id")


def test_a_size_is_allowed_up_to_the_limit() -> None:
    assert size_problem(10, 10) is None
    problem = size_problem(11, 10)
    assert problem is not None
    assert problem.reason == "TOO_LARGE"
    assert problem.metadata == {"limit": "10", "actual": "11"}

"""Small worlds of names for hypothesis, in which filters and events meet often."""

from collections.abc import Mapping

from hypothesis import strategies as st

from switchboard_server.core.filters import Filter, Route
from switchboard_server.core.records import Extra

TYPES = ["order.created", "order.paid", "order", "user.login"]
SOURCES = ["shop", "shopping", "desk"]
TARGETS = ["", "billing", "mail"]
_PATTERNS = {
    "types": [*TYPES, "order.*", "order*", "u*", "*", "none"],
    "source_services": [*SOURCES, "shop*", "d*", "*"],
    "target_services": ["billing", "mail", "b*", "*"],
}

ROUTES = st.builds(
    Route,
    st.sampled_from(TYPES),
    st.sampled_from(SOURCES),
    st.sampled_from(TARGETS),
    st.integers(1, 4),
)
ATTRIBUTES = st.dictionaries(st.sampled_from("abc"), st.sampled_from("12"), max_size=3)
FILTERS = st.builds(
    Filter,
    **{
        name: st.lists(st.sampled_from(each), max_size=2).map(tuple)
        for name, each in _PATTERNS.items()
    },
    min_priority=st.sampled_from([0, 0, 0, 2, 3, 4]),
    attributes=st.one_of(st.just({}), ATTRIBUTES),
)
EXTRAS = st.builds(
    Extra,
    attributes=ATTRIBUTES,
    ordering_key=st.sampled_from(["", "k1", "k2"]),
    ttl_ns=st.sampled_from([0, 0, 1, 2_000_000_000, 10_000_000_000]),
)


def brute_force(wish: Filter, route: Route, attributes: Mapping[str, str]) -> bool:
    """Whether an event matches a filter, in the words of the proto's comment."""

    def listed(entries: tuple[str, ...], name: str) -> bool:
        if not entries:
            return True
        exact = name in entries
        return exact or any(
            entry[-1] == "*" and name[: len(entry) - 1] == entry[:-1] for entry in entries
        )

    return (
        listed(wish.types, route.type)
        and listed(wish.source_services, route.source_service)
        and listed(wish.target_services, route.target_service)
        and route.priority >= wish.min_priority
        and set(wish.attributes.items()) <= set(attributes.items())
    )

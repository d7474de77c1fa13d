"""Who is in charge: all nodes say the same, each has its share, and few things change hands."""

from collections import Counter

from switchboard_server.core.registry.ownership import in_charge

THINGS = [f"users/i{number}" for number in range(3000)]


def test_nobody_is_in_charge_where_nobody_lives() -> None:
    assert in_charge("users/i1", ()) is None
    assert in_charge("users/i1", ["a"]) == "a"


def test_each_node_has_its_share_in_whatever_order_they_are_named() -> None:
    nodes = ["a", "b", "c", "d", "e"]
    shares = Counter(in_charge(thing, nodes) for thing in THINGS)
    assert shares.keys() == set(nodes)
    assert all(480 < share < 720 for share in shares.values())
    assert shares == Counter(in_charge(thing, nodes[::-1]) for thing in THINGS)


def test_only_what_a_node_had_changes_hands_when_it_goes() -> None:
    before = {thing: in_charge(thing, "abc") for thing in THINGS}
    for thing, node in before.items():
        after = in_charge(thing, "ab")
        assert after == node if node != "c" else after in {"a", "b"}

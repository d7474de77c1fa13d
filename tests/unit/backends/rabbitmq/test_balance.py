"""Which node should hold which seat; see backends/rabbitmq/balance.py."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.backends.rabbitmq.balance import assign

SEATS = ("sequencer", "groups.0", "groups.1", "groups.2", "groups.3")
names = st.sets(st.text("abcdef0123", min_size=1, max_size=6), min_size=1, max_size=8)


@given(names)
def test_each_node_has_about_as_many_as_the_others(nodes: set[str]) -> None:
    chosen = assign(dict.fromkeys(SEATS, nodes))
    loads = Counter(chosen.values())
    assert set(chosen) == set(SEATS)
    assert max(loads.values()) <= -(-len(SEATS) // len(nodes))


@given(st.dictionaries(st.sampled_from(SEATS), names | st.just(set[str]())))
def test_a_seat_goes_to_a_candidate_and_only_to_one(candidates: dict[str, set[str]]) -> None:
    chosen = assign(candidates)
    assert set(chosen) == {seat for seat, nodes in candidates.items() if nodes}
    assert all(node in candidates[seat] for seat, node in chosen.items())


@given(names, st.text("abc", min_size=7, max_size=7))
def test_who_comes_moves_few_seats(nodes: set[str], newcomer: str) -> None:
    before = assign(dict.fromkeys(SEATS, nodes))
    after = assign({seat: nodes | {newcomer} for seat in SEATS})
    moved = [seat for seat in SEATS if before[seat] != after[seat]]
    taken = [seat for seat in SEATS if after[seat] == newcomer]
    # At most one more, for each of the newcomer's, has to make room for the bound.
    assert len(moved) <= 2 * max(1, len(taken)) + 1

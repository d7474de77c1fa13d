"""Keys, their order and their members."""

from switchboard_server.core.groups.lines import KeyLines
from tests.unit.core.groups.events import a_member, an_entry


def test_an_event_waits_for_those_of_its_key_that_came_before() -> None:
    lines = KeyLines()
    first, third, second = (an_entry(each, 2, "k") for each in (1, 3, 2))
    assert lines.claim(first)
    assert lines.claim(first)
    assert not lines.claim(third)
    assert not lines.claim(second)
    assert second.batch is None
    assert lines.advance(first) is second
    assert lines.advance(second) is third
    assert lines.advance(third) is None
    assert lines.claim(an_entry(4, 2, "k"))


def test_an_event_without_a_key_waits_for_nobody() -> None:
    lines = KeyLines()
    entry = an_entry(1)
    assert lines.claim(entry)
    assert lines.claim(an_entry(2))
    assert lines.advance(entry) is None


def test_one_that_is_settled_while_it_waits_leaves_the_others_in_order() -> None:
    lines = KeyLines()
    entries = [an_entry(each, 2, "k") for each in range(1, 9)]
    for entry in entries:
        lines.claim(entry)
    assert lines.advance(entries[1]) is None
    order = []
    now = entries[0]
    while (following := lines.advance(now)) is not None:
        order.append(following.sequence)
        now = following
    assert order == [3, 4, 5, 6, 7, 8]


def test_keys_move_only_from_members_that_leave_and_to_members_that_come() -> None:
    lines = KeyLines()
    members = [a_member(f"m{each}") for each in range(4)]
    entries = [an_entry(each, 2, f"k{each}") for each in range(1, 101)]
    for entry in entries:
        lines.place(entry)  # Before there is anybody.
    lines.rehome(members)
    homes = {each: set(lines.pool(each)) for each in members}
    assert set.union(*homes.values()) == set(entries)
    # A quarter each would be 25; this few is less likely than one in a million.
    assert min(map(len, homes.values())) >= 5
    lines.rehome(members[:3])
    for member in members[:3]:
        assert set(lines.pool(member)) >= homes[member]
    assert not list(lines.pool(members[3]))
    lines.rehome(members)
    assert {each: set(lines.pool(each)) for each in members} == homes


def test_nothing_is_left_of_what_is_forgotten() -> None:
    lines = KeyLines()
    lines.place(an_entry(1, 2, "k"))
    lines.clear()
    member = a_member()
    lines.rehome([member])
    lines.claim(entry := an_entry(2, 2, "k"))
    lines.place(entry)
    lines.clear()
    assert len(lines.pool(member)) == 0
    assert lines.claim(an_entry(3, 2, "k"))

"""The order in which a group gives out what is ready."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.core.groups.ready import ReadyQueue
from tests.unit.core.groups.events import an_entry


def test_what_is_ready_goes_by_priority_and_then_by_the_log() -> None:
    queue = ReadyQueue()
    for sequence, priority in [(5, 2), (1, 1), (4, 4), (3, 2), (2, 3)]:
        queue.push(an_entry(sequence, priority))
    assert [queue.count(each) for each in (1, 2, 3, 4)] == [1, 2, 1, 1]
    assert [queue.pop().sequence for _ in range(5)] == [4, 2, 3, 5, 1]
    assert len(queue) == 0


def test_every_eighth_is_what_has_been_ready_longest_whatever_its_priority() -> None:
    queue = ReadyQueue()
    queue.push(an_entry(1, 1, time_ns=1))
    queue.push(an_entry(2, 2, time_ns=2))
    for sequence in range(3, 23):
        queue.push(an_entry(sequence, 4, time_ns=sequence))
    order = [queue.pop().sequence for _ in range(16)]
    assert order[7] == 1
    assert order[15] == 2
    assert [*order[:7], *order[8:15]] == list(range(3, 17))


def test_one_that_came_back_waits_behind_what_was_ready_before_it() -> None:
    queue = ReadyQueue()
    again = an_entry(1, 1)
    again.ready_ns = 100
    queue.push(again)
    for sequence in range(2, 12):
        queue.push(an_entry(sequence, 4, time_ns=sequence))
    assert [queue.pop().sequence for _ in range(11)] == [*range(2, 12), 1]


def test_low_priority_never_starves_under_a_stream_of_critical_events() -> None:
    queue = ReadyQueue()
    for sequence in range(1, 11):
        queue.push(an_entry(sequence, 1, time_ns=sequence))
    seen = []
    for sequence in range(11, 91):
        queue.push(an_entry(sequence, 4, time_ns=sequence))
        seen.append(queue.pop().sequence)
    assert [each for each in seen if each <= 5] == list(range(1, 6))


def test_a_cleared_queue_hands_over_all_it_had() -> None:
    queue = ReadyQueue()
    entries = [an_entry(each, each) for each in (1, 2, 3)]
    for entry in entries:
        queue.push(entry)
    assert set(queue) == set(entries)
    assert set(queue.clear()) == set(entries)
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.pop()


@given(
    st.lists(
        st.one_of(st.none(), st.tuples(st.integers(1, 10_000), st.integers(1, 4))), max_size=60
    )
)
def test_whatever_comes_back_in_between_goes_out_by_the_log(
    steps: list[tuple[int, int] | None],
) -> None:
    queue, kept = ReadyQueue(), dict[int, int]()
    for step in steps:
        if step is None and kept:
            popped = queue.pop()
            same = [each for each in kept if kept[each] == popped.priority]
            assert popped.sequence == min(same)
            del kept[popped.sequence]
        elif step is not None and step[0] not in kept:
            sequence, priority = step
            kept[sequence] = priority
            queue.push(an_entry(sequence, priority, time_ns=sequence))
        assert len(queue) == len(kept)


def test_two_queues_are_given_out_in_turn_as_if_they_were_one() -> None:
    own, shared = ReadyQueue(), ReadyQueue()
    for number in range(1, 49):
        own.push(an_entry(number, 1))
    shared.push(an_entry(100, 4))
    shared.push(an_entry(101, 1))
    for number in range(102, 110):
        shared.push(an_entry(number, 2))
    came = [own.pop(shared).sequence for _ in range(58)]
    # The critical one first, then the normal ones, and every eighth what has waited longest.
    assert came[:9] == [100, *range(102, 108), 1, 108]
    assert sorted(came) == [*range(1, 49), *range(100, 110)]
    assert not own
    assert not shared

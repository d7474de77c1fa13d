"""What is ready goes out by priority and by the order of the log, and nothing starves."""

from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.core.groups.entries import Entry
from switchboard_server.core.groups.ready import FAIR_TURN, ReadyQueue


def ready(sequence: int, priority: int, ready_ns: int = 0) -> Entry:
    entry = Entry(sequence, priority)
    entry.ready_ns = ready_ns
    return entry


@given(st.permutations(range(20)), st.lists(st.integers(1, 4), min_size=20, max_size=20))
def test_entries_go_by_priority_then_by_sequence_but_every_eighth_has_waited_longest(
    order: list[int], priorities: list[int]
) -> None:
    queue = ReadyQueue()
    entries = {each: ready(each, priorities[each], ready_ns=100 - each) for each in order}
    for each in order:
        queue.push(entries[each])
    assert sorted(entry.sequence for entry in queue) == list(range(20))
    left = dict(entries)
    for turn in range(1, 21):
        heads = [
            min(each for each in left if left[each].priority == priority)
            for priority in {entry.priority for entry in left.values()}
        ]
        if turn % FAIR_TURN == 0:
            expected = min(heads, key=lambda each: left[each].ready_ns)
        else:
            expected = max(heads, key=lambda each: left[each].priority)
        assert queue.count(left[expected].priority) > 0
        assert queue.pop() is left.pop(expected)
        assert len(queue) == len(left)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), max_size=80))
def test_what_comes_back_takes_its_old_place(steps: list[tuple[bool, int]]) -> None:
    queue, model = ReadyQueue(), set[int]()
    for push, sequence in steps:
        if push and sequence not in model:
            model.add(sequence)
            queue.push(ready(sequence, 2))
        elif not push and model:
            model.remove(first := min(model))
            assert queue.pop().sequence == first
    assert sorted(each.sequence for each in queue.clear()) == sorted(model)
    assert len(queue) == 0

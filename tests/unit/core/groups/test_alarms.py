"""Alarms ring in the order of time, each the one that was set last."""

from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.core.groups.alarms import Alarms
from switchboard_server.core.groups.entries import Entry, State

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["lease", "set", "settle", "ring"]), st.integers(0, 5), st.integers(1, 40)
    ),
    max_size=60,
)


def an_entry(number: int) -> Entry:
    entry = Entry(number, 2)
    entry.nonce = number
    entry.state = State.IN_FLIGHT
    return entry


@given(STEPS)
def test_what_is_due_rings_once_at_the_time_that_was_set_last(
    steps: list[tuple[str, int, int]],
) -> None:
    alarms, entries, now = Alarms(), [an_entry(number) for number in range(6)], 0
    wanted: dict[int, int] = {}
    for what, number, wait in steps:
        entry = entries[number]
        if what == "settle":
            entry.state = State.SETTLED
            wanted.pop(number, None)
        elif what == "ring":
            now += wait
            rung = []
            while (due := alarms.due(now)) is not None:
                rung.append((due.due_ns, due.sequence))
                due.state = State.READY
            assert [at for at, _ in rung] == sorted(at for at, _ in rung)
            late = {each: at for each, at in wanted.items() if at <= now}
            assert {each: at for at, each in rung} == late
            assert len(rung) == len(late)
            wanted = {each: at for each, at in wanted.items() if at > now}
        elif what == "lease":
            leased = entries[number : number + 1 + wait % 3]
            for each in leased:
                each.state = State.IN_FLIGHT
                wanted[each.sequence] = now + 20
            alarms.set_in_order(leased, now + 20, len(wanted))
        else:
            entry.state = State.RETRYING
            wanted[number] = now + wait
            alarms.set(entry, now + wait, len(wanted))
        assert alarms.next_ns() == min(wanted.values(), default=None)


def test_alarms_that_do_not_hold_any_more_are_not_kept_behind_one_that_does() -> None:
    alarms = Alarms()
    alarms.set_in_order([an_entry(0)], 1, 1)
    for number in range(1, 5000):
        entry = an_entry(number)
        alarms.set_in_order([entry], 1 + number, 2)
        entry.state = State.SETTLED
    assert len(alarms) < 2000
    assert alarms.next_ns() == 1


def test_cleared_alarms_never_ring() -> None:
    alarms = Alarms()
    alarms.set_in_order([an_entry(1)], 5, 1)
    alarms.set(an_entry(2), 6, 2)
    alarms.clear()
    assert alarms.next_ns() is None
    assert alarms.due(100) is None

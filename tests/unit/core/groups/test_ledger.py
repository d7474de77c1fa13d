"""One moment of a group's life at a time; `test_ledger_machine` lives whole lives."""

import pytest

from switchboard_server.core.groups import ledger as module
from switchboard_server.core.groups.changes import Open, Snapshot, replay
from switchboard_server.core.groups.config import GroupConfig, Mode, RetryPolicy
from switchboard_server.core.groups.entries import (
    Cause,
    Entry,
    Holder,
    Identity,
    Outcome,
    Rejection,
    State,
)
from switchboard_server.core.groups.ledger import Ledger
from tests.unit.core.groups.events import SECOND, a_batch, a_member, an_entry


def a_ledger(mode: Mode = Mode.QUEUE, state: Snapshot | None = None, attempts: int = 3) -> Ledger:
    config = GroupConfig(mode=mode, retry=RetryPolicy(attempts, SECOND, 8 * SECOND))
    return Ledger(config, 1, state or Snapshot.at(0), 0, lambda: 0.5)


def given(ledger: Ledger, now_ns: int, *idle: Holder) -> dict[str, list[int]]:
    """What each member gets, by its name."""
    return {
        holder.identity.member_id: [each.sequence for each in entries]
        for holder, entries in ledger.dispatch(now_ns, idle)
    }


def offer(ledger: Ledger, *entries: Entry) -> None:
    ledger.offer(entries, dict.fromkeys((1, 2, 3, 4), max(each.sequence for each in entries)))


def test_the_member_with_the_most_free_credit_comes_first_and_equals_take_turns() -> None:
    ledger = a_ledger()
    slow, quick, other = a_member("slow", 2), a_member("quick", 4), a_member("other", 2)
    for member in (slow, quick, other):
        ledger.join(member)
    offer(ledger, *(an_entry(each) for each in range(1, 10)))
    assert given(ledger, 0, slow, quick, other) == {
        "quick": [1, 2, 5, 8],
        "slow": [3, 6],
        "other": [4, 7],
    }
    assert ledger.ready == 1
    assert given(ledger, 0, slow, quick, other) == {}


def test_a_member_that_drains_gets_nothing_new_and_keeps_what_it_holds() -> None:
    ledger = a_ledger()
    ledger.join(member := a_member())
    offer(ledger, an_entry(1))
    assert given(ledger, 0, member) == {"m": [1]}
    ledger.drain(member, draining=True)
    offer(ledger, an_entry(2))
    assert given(ledger, 0, member) == {}
    (held,) = member.held.values()
    assert ledger.acknowledge([held.ack_id]) == [Outcome.OK]
    ledger.drain(member, draining=False)
    assert given(ledger, 0, member) == {"m": [2]}


def test_results_are_told_apart() -> None:
    ledger = a_ledger()
    ledger.join(member := a_member())
    offer(ledger, an_entry(1), an_entry(2))
    ledger.dispatch(0, [member])
    one, two = (ledger.open[each].ack_id for each in (1, 2))
    assert ledger.acknowledge([one, one, "x"]) == [
        Outcome.OK,
        Outcome.ALREADY_SETTLED,
        Outcome.UNKNOWN,
    ]
    ledger.leave(member, 0)
    assert ledger.reject([two], 0) == [Outcome.EXPIRED]
    ledger.seek(0)
    assert ledger.extend([one, two], 0, None) == [Outcome.EXPIRED, Outcome.EXPIRED]


def test_what_a_stale_parcel_held_keeps_the_attempt_that_another_makes() -> None:
    ledger = a_ledger()
    slow, quick = a_member("slow"), a_member("quick")
    ledger.join(slow)
    ledger.join(quick)
    offer(ledger, an_entry(1))
    ledger.dispatch(0, [slow])
    entry = ledger.open[1]
    ledger.expire(30 * SECOND)
    ledger.expire(31 * SECOND)
    assert ledger.wanted(1) == [entry]
    ledger.supply(entry, a_batch(1))
    assert given(ledger, 31 * SECOND, quick) == {"quick": [1]}
    ledger.leave(slow, 31 * SECOND, [entry])
    assert entry.attempts == 2
    ledger.leave(quick, 31 * SECOND, [entry, entry])
    assert entry.attempts == 1


def test_an_event_back_from_the_dead_letters_is_not_read_into_its_own_place() -> None:
    for mode in Mode:
        ledger = a_ledger(mode)
        ledger.join(member := a_member())
        again = an_entry(1)
        again.redriven = True
        ledger.offer_redriven([again])
        offer(ledger, an_entry(1), an_entry(2))
        assert given(ledger, 0, member) == {"m": [1, 2]}
        ledger.acknowledge([each.ack_id for each in (again, ledger.open[2])])
        assert ledger.open == {}
        assert ledger.pending.finished == [1]
        assert ledger.finished == 1


def test_a_last_attempt_is_given_up_after_a_restart_though_its_key_has_others_before() -> None:
    ledger = a_ledger(Mode.KEY_SHARED)
    ledger.readmit(an_entry(1, 2, "k"), Open(1), 0)
    ledger.readmit(an_entry(2, 2, "k"), Open(2, 3, 0, Identity("gone")), 0)
    (doomed,) = ledger.doomed
    assert (doomed.entry.sequence, doomed.cause) == (2, Cause.MEMBER_LOST)
    assert doomed.holder == Identity("gone")
    state = ledger.snapshot()
    assert state.open == [Open(1), Open(2, 3, 0, Identity("gone"))]


def test_every_end_of_the_last_attempt_has_its_cause() -> None:
    ledger = a_ledger(attempts=1)
    ledger.join(member := a_member())
    offer(ledger, *(an_entry(each) for each in (1, 2, 3, 4)))
    ledger.dispatch(0, [member])
    one, two, three = (ledger.open[each].ack_id for each in (1, 2, 3))
    ledger.reject([one], 0, Rejection(dead_letter=True, reason="bad"))
    ledger.reject([two], 0, Rejection(reason="again"))
    ledger.extend([three], 0, 90 * SECOND)
    assert ledger.expire(30 * SECOND) == 90 * SECOND
    ledger.leave(member, 31 * SECOND)
    assert [(each.entry.sequence, each.cause, each.reason) for each in ledger.doomed] == [
        (1, Cause.REJECTED, "bad"),
        (2, Cause.ATTEMPTS_REJECTED, "again"),
        (4, Cause.DEADLINE_PASSED, ""),
        (3, Cause.MEMBER_LOST, ""),
    ]
    assert all(each.holder == member.identity for each in ledger.doomed)
    assert ledger.counters.dead_lettered == 4


def test_what_has_expired_is_not_given_out_unless_it_was_redriven() -> None:
    ledger = a_ledger(Mode.KEY_SHARED)
    ledger.join(member := a_member())
    redriven = an_entry(1, expires_ns=1)
    redriven.redriven = True
    ledger.offer_redriven([redriven])
    offer(ledger, an_entry(2, 2, "k", expires_ns=1), an_entry(3, 2, "k"))
    assert given(ledger, 1, member) == {"m": [1]}
    assert ledger.counters.expired == 1
    assert ledger.lacking == 1  # The one behind it, whose turn it is now.


def test_bytes_that_come_too_late_or_never_harm_nobody() -> None:
    ledger = a_ledger(state=Snapshot.at(5))
    for sequence in (1, 2):
        entry = an_entry(sequence)
        entry.batch = None
        ledger.readmit(entry, Open(sequence), 0)
    one, two = ledger.wanted(5)
    assert ledger.lacking == 0
    ledger.supply(one, None)
    assert ledger.wanted(5) == [one]
    assert ledger.lose(two)
    assert not ledger.lose(two)
    ledger.seek(0)
    ledger.supply(one, a_batch(1))
    assert not ledger.lose(one)
    assert (ledger.ready, ledger.lacking, ledger.counters.lost) == (0, 0, 1)


def test_an_event_that_is_settled_is_not_fetched() -> None:
    ledger = a_ledger(state=Snapshot.at(5))
    entry = an_entry(1)
    entry.batch = None
    ledger.readmit(entry, Open(1), 0)
    ledger.lose(entry)
    assert ledger.wanted(5) == []


def test_no_more_is_read_than_members_may_want() -> None:
    ledger = a_ledger()
    assert ledger.window(2) == 0
    ledger.join(a_member("a", 100))
    assert ledger.window(2) == 200
    offer(ledger, *(an_entry(each) for each in range(1, 151)))
    assert ledger.window(2) == 50
    assert ledger.window(4) == 200
    ledger.join(a_member("b", 10_000))
    assert ledger.window(4) == module.MAX_WINDOW
    keyed = a_ledger(Mode.KEY_SHARED)
    keyed.join(a_member("a", 1))
    offer(keyed, *(an_entry(each, 2, "k") for each in range(1, 11)))
    assert keyed.window(1) == module.KEYED_WINDOW - 10


def test_a_group_with_much_unsettled_reads_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN", 2)
    ledger = a_ledger()
    ledger.join(a_member())
    offer(ledger, an_entry(1))
    assert ledger.window(2) > 0
    offer(ledger, an_entry(2))
    assert ledger.window(2) == 0


def test_alarms_do_not_pile_up_however_often_deadlines_move() -> None:
    ledger = a_ledger()
    ledger.join(member := a_member())
    offer(ledger, an_entry(1), an_entry(2))
    ledger.dispatch(0, [member])
    name = ledger.open[1].ack_id
    for now in range(1, 5000):
        ledger.extend([name, name], now, None)
    ledger.extend([name] * 5000, 5000, None)
    assert len(ledger._alarms) <= 1024 + 2 * 2 + 1
    assert ledger.expire(5000) == 30 * SECOND  # The other delivery's.
    assert ledger.expire(31 * SECOND) is not None
    assert ledger.open[1].state is State.RETRYING


def test_the_oldest_event_and_the_position_tell_how_far_it_has_come() -> None:
    ledger = a_ledger()
    assert ledger.oldest_ns() is None
    ledger.join(member := a_member())
    offer(ledger, an_entry(3, time_ns=30), an_entry(5, time_ns=50))
    assert (ledger.oldest_ns(), ledger.position()) == (30, 2)
    ledger.dispatch(60, [member])
    ledger.acknowledge([ledger.open[3].ack_id])
    assert (ledger.oldest_ns(), ledger.position()) == (50, 4)
    assert ledger.pending
    assert [each.sequence for each in replay(Snapshot.at(0), [ledger.take_pending()]).open] == [5]
    assert not ledger.pending
    ledger.acknowledge([ledger.open[5].ack_id])
    assert ledger.position() == 5


def test_a_wait_goes_on_after_a_restart() -> None:
    ledger = a_ledger(state=Snapshot.at(5))
    ledger.readmit(an_entry(1), Open(1, 1, 10 * SECOND), 0)
    assert ledger.retrying == 1
    assert ledger.expire(0) == 10 * SECOND
    assert ledger.expire(10 * SECOND) is None
    assert ledger.ready == 1


def test_a_delivery_that_nobody_holds_is_a_defect() -> None:
    ledger = a_ledger()
    ledger.join(member := a_member())
    offer(ledger, an_entry(1))
    ledger.dispatch(0, [member])
    entry = ledger.open[1]
    entry.holder = None
    with pytest.raises(AssertionError, match="nobody holds it"):
        ledger.acknowledge([entry.ack_id])

"""What a restart makes of the changes that were kept."""

from switchboard_server.core.groups.changes import Change, Open, Snapshot, replay
from switchboard_server.core.groups.entries import Identity

ANN, BOB = Identity("ann"), Identity("bob")


def test_changes_lead_to_what_is_open() -> None:
    changes = [
        Change(cursors={2: 5}, opened=[1, 2, 4], nonce=7),
        Change(leased=[(ANN, [1, 2], [1, 1])], nonce=11),
        Change(settled=[1], retried=[(2, 1, 99)], cursors={2: 6}),
    ]
    state = replay(Snapshot.at(0), changes)
    assert state.cursors == {1: 0, 2: 6, 3: 0, 4: 0}
    assert state.open == [Open(2, 1, 99, ANN), Open(4)]
    assert state.nonce == 11


def test_of_a_wait_and_a_delivery_in_one_change_the_later_attempt_counts() -> None:
    waits = Change(leased=[(ANN, [1], [1])], retried=[(1, 1, 99)])
    assert replay(Snapshot.at(1), [waits]).open == [Open(1, 1, 99, ANN)]
    held = Change(leased=[(ANN, [1], [1]), (BOB, [1], [2])], retried=[(1, 1, 99)])
    assert replay(Snapshot.at(1), [held]).open == [Open(1, 2, 0, BOB)]


def test_a_snapshot_takes_the_place_of_what_came_before() -> None:
    new = Snapshot({1: 9, 2: 9, 3: 9, 4: 9}, [Open(8)], floor=3, nonce=3)
    old = Change(opened=[1], nonce=7)
    state = replay(Snapshot.at(0), [old, Change(snapshot=new, leased=[(ANN, [8], [1])])])
    assert state.open == [Open(8, 1, 0, ANN)]
    assert state.floor == 3


def test_an_empty_change_is_none() -> None:
    assert not Change(nonce=5)
    assert Change(cursors={1: 1})
    assert Change(idle_since_ns=0)
    assert Change(shelved=True)


def test_a_change_that_absorbed_the_next_leads_to_the_same() -> None:
    first = [
        Change(opened=[1, 2, 3], cursors={2: 3}, nonce=3),
        Change(opened=[1, 2, 3], snapshot=Snapshot.at(2), idle_since_ns=4),
    ]
    second = [
        Change(leased=[(ANN, [2], [1])], settled=[3], idle_since_ns=5, nonce=7),
        Change(retried=[(2, 1, 9)], finished=[1], cursors={2: 4}),
        Change(snapshot=Snapshot.at(1), opened=[7]),
    ]
    for one in first:
        for two in second:
            apart = replay(Snapshot.at(0), [_copy(one), _copy(two)])
            together = _copy(one)
            together.absorb(_copy(two))
            at_once = replay(Snapshot.at(0), [together])
            assert (at_once.cursors, at_once.open) == (apart.cursors, apart.open)


def test_what_was_redriven_before_a_seek_is_shelved_and_what_came_later_is_not() -> None:
    change = Change(redriven=[1])
    change.absorb(Change(snapshot=Snapshot.at(0), shelved=True))
    change.absorb(Change(redriven=[2]))
    assert change.shelved
    assert change.redriven == [2]


def _copy(change: Change) -> Change:
    copy = Change()
    copy.absorb(change)
    if copy.snapshot is not None:
        copy.snapshot = Snapshot(dict(copy.snapshot.cursors), list(copy.snapshot.open))
    return copy

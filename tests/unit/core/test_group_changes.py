"""What happens to a group, gathered."""

from switchboard_server.core.groups.changes import Change, Snapshot


def test_a_seek_takes_back_redrives_before_it_and_none_after_it() -> None:
    change = Change(redriven=[1], finished=[2])
    change.absorb(Change(snapshot=Snapshot.at(0), shelved=True))
    change.absorb(Change(redriven=[3]))
    assert (change.shelved, change.redriven, change.finished) == (True, [3], [2])

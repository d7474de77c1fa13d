"""What counts in a stream that several have written; see backends/rabbitmq/track.py."""

from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.backends.rabbitmq.track import Entry, Fence, Kind


def counting(*entries: Entry, first: int = 0) -> list[bool]:
    """Which of some entries count."""
    fence = Fence()
    return [fence.counts(entry, offset) for offset, entry in enumerate(entries, first)]


def term(epoch: int) -> Entry:
    """A term begins; 0: one that its place numbers."""
    return Entry(Kind.TERM, epoch, "", 1)


def records(epoch: int) -> Entry:
    """Something is kept."""
    return Entry(Kind.RECORDS, epoch, "", 1)


def test_what_a_former_holder_writes_after_the_next_has_begun_does_not_count() -> None:
    told = [term(3), records(3), term(5), records(3), records(5), term(4), records(4), records(5)]
    assert counting(*told) == [True, True, True, False, True, False, False, True]


def test_terms_of_an_index_are_numbered_by_their_places() -> None:
    told = [term(0), records(1), term(0), records(1), records(3)]
    assert counting(*told) == [True, True, True, False, True]


def test_a_stream_whose_beginning_is_not_retained_begins_in_the_midst_of_a_term() -> None:
    assert counting(records(3), records(3), term(0), records(3), first=7) == [
        True,
        True,
        True,
        False,
    ]


def test_what_nobody_has_begun_does_not_count() -> None:
    assert counting(records(3), term(4)) == [False, True]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 6)), max_size=30))
def test_nothing_counts_after_something_of_a_later_term(told: list[tuple[bool, int]]) -> None:
    entries = [term(epoch) if begins else records(epoch) for begins, epoch in told]
    counted = [
        entry.epoch for entry, counts in zip(entries, counting(*entries), strict=True) if counts
    ]
    assert counted == sorted(counted)

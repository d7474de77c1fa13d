"""What of the events that are to be numbered is new."""

from collections.abc import Mapping

from switchboard_server.backends.rabbitmq.entries import Entry, Sifter
from switchboard_server.backends.rabbitmq.records import decode_columns, encode_record
from switchboard_server.core.records import Drafts, build_batches
from tests.support.events import PlainCodec, some

NOW = 1_700_000_000_000_000_000


class Term:
    """A term in which what is accepted is known by its id alone."""

    def __init__(self) -> None:
        self.accepted: dict[str, int] = {}
        self.settled: list[tuple[int, Mapping[int, int]]] = []
        self.sifter = Sifter(self._known)

    def _known(self, drafts: Drafts) -> Mapping[int, int]:
        ids = enumerate(drafts.ids or ())
        return {index: self.accepted[each] for index, each in ids if each in self.accepted}

    def entry(self, number: int, drafts: Drafts, *released: int) -> Entry:
        def fail(error: Exception) -> None:
            raise error

        def settle(duplicates: Mapping[int, int]) -> None:
            self.settled.append((number, duplicates))

        return Entry("node", number, drafts, settle, fail, released)


def test_a_request_counts_once_in_a_term() -> None:
    term = Term()
    entry = term.entry(1, some("a"))
    assert term.sifter.is_new(entry)
    assert not term.sifter.is_new(entry)
    assert term.settled == []
    term.sifter.reset()
    assert term.sifter.is_new(entry)


def test_the_answer_of_a_request_that_stored_nothing_is_given_as_often_as_it_is_asked_for() -> None:
    term = Term()
    term.accepted["x"] = 3
    entry = term.entry(1, some("a", ids=["x"]))
    assert term.sifter.is_new(entry)
    assert not term.sifter.sift(entry, 9)
    assert not term.sifter.is_new(entry)
    assert term.settled == [(1, {0: 3})] * 2


def test_what_was_accepted_before_is_left_out_and_what_is_on_its_way_too() -> None:
    term = Term()
    term.accepted["old"] = 3
    first = term.entry(1, some("a", "b", "c", ids=["old", "", "new"]))
    assert term.sifter.sift(first, 10)
    assert (first.drafts.bodies, first.duplicates) == ([b"b", b"c"], {0: 3})
    second = term.entry(2, some("d", "e", ids=["new", "newer"]))
    assert term.sifter.sift(second, 12)
    assert (second.drafts.bodies, second.duplicates) == ([b"e"], {0: 11})
    (stored,) = build_batches([first.drafts], 10, NOW, PlainCodec())
    term.sifter.learned(decode_columns(encode_record([stored], log_id="id", epoch=1)))
    # From here on the listener has to know it.
    third = term.entry(3, some("f", ids=["new"]))
    assert term.sifter.sift(third, 13)


def test_an_id_that_a_call_has_twice_is_stored_once() -> None:
    term = Term()
    term.accepted["old"] = 3
    entry = term.entry(1, some("a", "b", "c", "d", ids=["old", "x", "y", "y"]))
    assert term.sifter.sift(entry, 10)
    assert (entry.drafts.bodies, entry.duplicates) == ([b"b", b"c"], {0: 3, 3: 11})


def test_scheduled_events_enter_though_their_ids_are_known() -> None:
    term = Term()
    term.sifter.begin_keys([("shop", "x")], 0)
    assert term.sifter.duplicates(some("a", ids=["x"]), 1) == {0: 0}
    term.sifter.end_keys([("shop", "x")])
    term.accepted["x"] = 0
    entry = term.entry(0, some("a", ids=["x"]), 7)
    assert term.sifter.sift(entry, 5)
    assert entry.drafts.bodies == [b"a"]

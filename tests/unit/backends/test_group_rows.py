"""Groups, their changes and dead letters as rows, and back."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.backends.embedded import group_rows as rows
from switchboard_server.core.filters import Filter, Route
from switchboard_server.core.groups.changes import Change, DeadLetter, Open, Snapshot
from switchboard_server.core.groups.config import GroupConfig, Mode, RetryPolicy
from switchboard_server.core.groups.entries import Cause, Identity
from switchboard_server.core.groups.ports import GroupRecord
from switchboard_server.core.validation import PRIORITIES
from tests.support.groups import CONFIG, a_letter, a_snapshot

NAMES = st.text(max_size=20)
NUMBERS = st.integers(0, 2**63 - 1)
COUNTS = st.integers(0, 100)
TEXTS = st.dictionaries(NAMES, NAMES, max_size=3)
LISTS = st.lists(NAMES, max_size=3).map(tuple)
SEQUENCES = st.lists(NUMBERS, max_size=5)
IDENTITIES = st.builds(Identity, NAMES, NAMES, NAMES, NAMES, NAMES)
CURSORS = st.fixed_dictionaries(dict.fromkeys(PRIORITIES, NUMBERS))
CONFIGS = st.builds(
    GroupConfig,
    st.builds(Filter, LISTS, LISTS, LISTS, st.integers(0, 4), TEXTS),
    st.sampled_from(Mode),
    NUMBERS,
    st.builds(RetryPolicy, COUNTS, NUMBERS, NUMBERS),
)
SNAPSHOTS = st.builds(
    Snapshot,
    CURSORS,
    st.lists(st.builds(Open, NUMBERS, COUNTS, NUMBERS, st.none() | IDENTITIES), max_size=5),
    NUMBERS,
    NUMBERS,
)
LEASES = st.lists(st.tuples(NUMBERS, COUNTS), max_size=4).map(
    lambda pairs: ([each for each, _ in pairs], [each for _, each in pairs])
)
CHANGES = st.builds(
    Change,
    cursors=st.just({}) | CURSORS,
    opened=SEQUENCES,
    leased=st.lists(st.tuples(IDENTITIES, LEASES).map(lambda at: (at[0], *at[1])), max_size=3),
    retried=st.lists(st.tuples(NUMBERS, COUNTS, NUMBERS), max_size=3),
    settled=SEQUENCES,
    nonce=NUMBERS,
)
LETTERS = st.builds(
    DeadLetter,
    NUMBERS,
    st.binary(max_size=30),
    st.builds(Route, NAMES, NAMES, NAMES, st.sampled_from(PRIORITIES)),
    TEXTS,
    NAMES,
    NUMBERS,
    st.sampled_from(Cause),
    NAMES,
    COUNTS,
    IDENTITIES,
    NUMBERS,
    COUNTS,
    st.booleans(),
)
NO_JSON = ["", "{", "[]", "null", "7", "{}", '"x"']


def flipped(text: str, place: int) -> str:
    """A text of which one character has become another one."""
    place %= len(text)
    return text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]


@given(CONFIGS, NAMES, NUMBERS, NUMBERS)
def test_a_group_comes_back_as_it_was(
    config: GroupConfig, name: str, created: int, secret: int
) -> None:
    text = rows.from_config(config)
    crc = rows.checksum(text, name, created, secret)
    row = (1, name, created, secret, crc, text)
    assert rows.to_group(row) == GroupRecord(1, name, config, secret, created)


@given(st.integers(0, 10**6))
def test_a_group_that_is_not_as_it_was_written_is_none(place: int) -> None:
    text = rows.from_config(CONFIG)
    crc = rows.checksum(text, "a", 5, 6)
    assert rows.to_group((1, "a", 5, 6, crc, flipped(text, place))) is None
    assert rows.to_group((1, "b", 5, 6, crc, text)) is None
    assert rows.to_group((1, "a", 4, 6, crc, text)) is None
    assert rows.to_group((1, "a", 5, 7, crc, text)) is None
    assert rows.to_group((1, "a", 5, 6, crc + 1, text)) is None


@given(SNAPSHOTS)
def test_a_snapshot_comes_back_as_it_was(snapshot: Snapshot) -> None:
    text = rows.from_snapshot(snapshot)
    assert rows.to_snapshot(text, rows.checksum(text)) == snapshot


@given(st.integers(0, 10**6))
def test_a_snapshot_that_is_not_as_it_was_written_is_none(place: int) -> None:
    text = rows.from_snapshot(a_snapshot())
    assert rows.to_snapshot(flipped(text, place), rows.checksum(text)) is None


@given(CHANGES, NUMBERS)
def test_a_change_comes_back_as_it_was(change: Change, number: int) -> None:
    text = rows.from_change(change)
    assert rows.to_change(number, text, rows.checksum(text, number)) == change


@given(st.integers(0, 10**6))
def test_a_change_that_is_not_as_it_was_written_is_none(place: int) -> None:
    text = rows.from_change(Change(settled=[1, 2], opened=[3], nonce=7))
    crc = rows.checksum(text, 1)
    assert rows.to_change(1, flipped(text, place), crc) is None
    assert rows.to_change(2, text, crc) is None


@given(LETTERS, NUMBERS)
def test_a_dead_letter_comes_back_as_it_was(letter: DeadLetter, number: int) -> None:
    row = rows.from_letter(number, letter)
    assert row[0] == number
    assert rows.to_letter(row) == letter


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_a_dead_letter_that_is_not_as_it_was_written_is_none(place: int, bit: int) -> None:
    number, sequence, time_ns, redriven, crc, header, frame = rows.from_letter(1, a_letter(5))
    flat = bytearray(frame)
    flat[place % len(flat)] ^= 1 << bit
    for damaged in (
        (number, sequence, time_ns, redriven, crc, flipped(header, place), frame),
        (number, sequence, time_ns, redriven, crc, header, bytes(flat)),
        (2, sequence, time_ns, redriven, crc, header, frame),
        (number, sequence + 1, time_ns, redriven, crc, header, frame),
        (number, sequence, time_ns - 1, redriven, crc, header, frame),
    ):
        assert rows.to_letter(damaged) is None


@pytest.mark.parametrize("text", NO_JSON)
def test_what_cannot_be_read_holds_nobody_up_though_its_checksum_is_right(text: str) -> None:
    assert rows.to_group((1, "a", 2, 3, rows.checksum(text, "a", 2, 3), text)) is None
    assert rows.to_snapshot(text, rows.checksum(text)) is None
    assert rows.to_change(1, text, rows.checksum(text, 1)) is None
    crc = rows.checksum(text, 1, 2, 3, data=b"x")
    assert rows.to_letter((1, 2, 3, 0, crc, text, b"x")) is None


@pytest.mark.parametrize("value", [None, 7, b"{}"])
def test_columns_that_have_become_of_another_type_hold_nobody_up(value: object) -> None:
    assert rows.to_group((1, "a", 2, 3, 0, value)) is None  # type: ignore[arg-type]
    assert rows.to_snapshot(value, 0) is None  # type: ignore[arg-type]
    assert rows.to_change(1, value, 0) is None  # type: ignore[arg-type]
    assert rows.to_letter((1, 2, 3, 0, 0, value, b"")) is None  # type: ignore[arg-type]
    assert rows.to_letter((1, 2, 3, 0, 0, "{}", "x")) is None  # type: ignore[arg-type]


def test_only_what_is_kept_nowhere_else_makes_a_row() -> None:
    snapshot = replace(a_snapshot(), nonce=44)
    for change in (
        Change(),
        Change(idle_since_ns=7, redriven=[1], finished=[2], shelved=True, buried=[a_letter(1)]),
        Change(snapshot=snapshot, nonce=44),
    ):
        assert not rows.has_row(change)
    for change in (
        Change(cursors={1: 1}),
        Change(opened=[1]),
        Change(leased=[(Identity(), [1], [1])]),
        Change(retried=[(1, 1, 1)]),
        Change(settled=[1]),
        Change(nonce=1),
        Change(snapshot=snapshot, nonce=45),
    ):
        assert rows.has_row(change)

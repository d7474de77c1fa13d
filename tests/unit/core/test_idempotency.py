"""Remembering what was accepted lately."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.idempotency import IdempotencyWindow, Key
from tests.support.loop import run

WINDOW = 10
A, B, C = ("shop", "a"), ("shop", "b"), ("desk", "a")


async def test_a_key_is_new_then_on_its_way_then_known_and_in_the_end_forgotten() -> None:
    window = IdempotencyWindow(WINDOW, 100)
    assert window.find(A) is None
    window.begin(A)
    waiting = window.find(A)
    assert isinstance(waiting, asyncio.Future)
    assert not waiting.done()
    window.accept([A], [7], time_ns=100)
    assert waiting.result() == 7
    assert window.find(A) == 7
    window.expire(100 + WINDOW - 1)
    assert window.find(A) == 7
    window.expire(100 + WINDOW)
    assert window.find(A) is None
    assert len(window) == window.forgotten == 0


async def test_a_scheduled_event_is_known_though_it_has_no_sequence() -> None:
    window = IdempotencyWindow(WINDOW, 100)
    window.accept([A], [0], time_ns=1)
    assert window.find(A) == 0


async def test_the_same_id_of_another_source_is_another_key() -> None:
    window = IdempotencyWindow(WINDOW, 100)
    window.accept([A], [1], time_ns=1)
    assert window.find(C) is None


async def test_who_waits_for_an_event_that_fails_learns_why_and_the_key_is_new_again() -> None:
    window = IdempotencyWindow(WINDOW, 100)
    window.begin(A)
    waiting = window.find(A)
    assert isinstance(waiting, asyncio.Future)
    error = UnavailableError("LOG_UNAVAILABLE", "full")
    window.fail([A, B], error)
    with pytest.raises(UnavailableError) as caught:
        await waiting
    assert caught.value is error
    assert window.find(A) is None


async def test_who_gave_up_waiting_does_not_disturb() -> None:
    window = IdempotencyWindow(WINDOW, 100)
    for key in (A, B):
        window.begin(key)
        waiting = window.find(key)
        assert isinstance(waiting, asyncio.Future)
        waiting.cancel()
    window.accept([A], [1], time_ns=1)
    window.fail([B], UnavailableError("LOG_UNAVAILABLE", "full"))
    assert window.find(A) == 1
    assert window.find(B) is None


async def test_beyond_its_size_the_oldest_are_forgotten_and_counted() -> None:
    window = IdempotencyWindow(WINDOW, 3)
    window.accept([A, B], [1, 2], time_ns=1)
    window.accept([C], [3], time_ns=2)
    assert len(window) == 3
    window.accept([("desk", "d")], [4], time_ns=3)
    assert (window.find(A), window.find(B)) == (None, None)
    assert (window.find(C), window.find(("desk", "d"))) == (3, 4)
    assert window.forgotten == 2


async def test_the_newest_are_kept_even_where_one_call_alone_is_too_large() -> None:
    window = IdempotencyWindow(WINDOW, 2)
    window.accept([A], [1], time_ns=1)
    window.accept([B, C, ("desk", "d")], [2, 3, 4], time_ns=2)
    assert [window.find(key) for key in (A, B, C, ("desk", "d"))] == [None, 2, 3, 4]


async def test_a_key_accepted_again_is_known_for_a_whole_window_from_then_on() -> None:
    window = IdempotencyWindow(WINDOW, 100)
    window.accept([A], [1], time_ns=1)
    window.accept([A], [5], time_ns=6)
    window.expire(1 + WINDOW)
    assert window.find(A) == 5
    window.expire(6 + WINDOW)
    assert window.find(A) is None


class _Model:
    """The same by looking through everything each time."""

    def __init__(self) -> None:
        self.accepted: dict[Key, tuple[int, int]] = {}
        self.waiting: set[Key] = set()
        self.now = self.last = 0

    def accept(self, keys: Sequence[Key]) -> list[int]:
        sequences = list(range(self.last + 1, self.last + 1 + len(keys)))
        self.last += len(keys)
        self.accepted.update((key, (self.now, n)) for key, n in zip(keys, sequences, strict=True))
        self.waiting.difference_update(keys)
        return sequences

    def expire(self) -> None:
        old = self.now - WINDOW
        self.accepted = {key: each for key, each in self.accepted.items() if each[0] > old}

    def find(self, key: Key) -> int | str | None:
        if key in self.accepted:
            return self.accepted[key][1]
        return "waiting" if key in self.waiting else None


_KEYS = st.lists(st.sampled_from([("s", name) for name in "abcdef"]), unique=True, max_size=3)
_STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "accept", "fail", "expire"]), _KEYS, st.integers(0, 6)),
    max_size=30,
)


@given(_STEPS)
def test_it_remembers_as_a_plain_list_would(
    steps: Sequence[tuple[str, Sequence[Key], int]],
) -> None:
    async def scenario() -> None:
        window, model = IdempotencyWindow(WINDOW, 100), _Model()
        for what, keys, passed in steps:
            model.now += passed
            if what == "begin":
                for key in keys:
                    if window.find(key) is None:
                        window.begin(key)
                        model.waiting.add(key)
            elif what == "accept":
                window.accept(keys, model.accept(keys), model.now)
            elif what == "fail":
                window.fail(keys, UnavailableError("LOG_UNAVAILABLE", "full"))
                model.waiting.difference_update(keys)
            else:
                window.expire(model.now)
                model.expire()
            for name in "abcdef":
                found = window.find(("s", name))
                told = "waiting" if isinstance(found, asyncio.Future) else found
                assert told == model.find(("s", name))
            assert len(window) == len(model.accepted)
        assert window.forgotten == 0

    run(scenario())

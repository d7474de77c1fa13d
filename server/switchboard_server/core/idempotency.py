"""Remembers which events were accepted lately, so that publishing again does not store again."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

Key = tuple[str, str]
"""An event's source service and id."""

SCHEDULED = 0
"""The position of an event that waits for its time."""


class IdempotencyWindow:
    """Keys of accepted events, each for as long as the window is wide.

    At most `max_keys` are held; beyond it the oldest are forgotten early and counted in
    `forgotten`.

    Args:
        window_ns: How long a key is remembered, in nanoseconds.
        max_keys: How many keys are remembered at most; each takes about 250 bytes.

    Attributes:
        forgotten: How many keys were forgotten early.
    """

    def __init__(self, window_ns: int, max_keys: int) -> None:
        self._window_ns = window_ns
        self._max_keys = max_keys
        self._accepted: dict[Key, int] = {}
        self._order: deque[tuple[int, Sequence[Key], Sequence[int]]] = deque()
        self._waiting: dict[Key, asyncio.Future[int]] = {}
        self.forgotten = 0

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._accepted)

    def expire(self, now_ns: int) -> None:
        """Forgets what the window has moved past."""
        while self._order and self._order[0][0] <= now_ns - self._window_ns:
            self._drop_oldest()

    def find(self, key: Key) -> int | asyncio.Future[int] | None:
        """Looks up a key.

        Returns:
            The sequence under which it was accepted (0: it is scheduled); a future of that while it
            is on its way to the log; None for a key that is new.
        """
        found = self._accepted.get(key)
        return self._waiting.get(key) if found is None else found

    def accepted(self, key: Key) -> int | None:
        """The sequence under which an event was accepted (0: it is scheduled); None: it was not."""
        return self._accepted.get(key)

    def begin(self, key: Key) -> None:
        """Notes that an event is on its way to the log."""
        self._waiting[key] = asyncio.get_running_loop().create_future()

    def accept(self, keys: Sequence[Key], sequences: Sequence[int], time_ns: int) -> None:
        """Notes that events are durable.

        Args:
            keys: Their keys.
            sequences: Their sequences; 0 for those that are scheduled.
            time_ns: When they were accepted; not before the time of an earlier call.
        """
        for key, sequence in zip(keys, sequences, strict=True):
            self._accepted[key] = sequence
            waiting = self._waiting.pop(key, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(sequence)
        self._order.append((time_ns, keys, sequences))
        while len(self._accepted) > self._max_keys and len(self._order) > 1:
            self.forgotten += self._drop_oldest()

    def fail(self, keys: Iterable[Key], error: Exception) -> None:
        """Notes that events did not become durable; who waits for them learns why."""
        for key in keys:
            waiting = self._waiting.pop(key, None)
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # Nobody need be waiting: then it is not an error left unheard.

    def withdraw(self, keys: Iterable[Key]) -> None:
        """Takes back `begin`, where nobody can have looked since."""
        for key in keys:
            del self._waiting[key]

    def _drop_oldest(self) -> int:
        """Forgets the keys that were accepted first; returns how many."""
        _, keys, sequences = self._order.popleft()
        before = len(self._accepted)
        for key, sequence in zip(keys, sequences, strict=True):
            # A log may hold a key twice, which then counts from the second time.
            if self._accepted.get(key) == sequence:
                del self._accepted[key]
        return before - len(self._accepted)

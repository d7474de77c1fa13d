"""When which instance is checked: each at its interval, scattered, and few at a time."""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable
from itertools import count

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.registry.entries import Entry, Verdict
from switchboard_server.core.registry.model import ProbeKind, Status
from switchboard_server.core.registry.ports import Prober
from switchboard_server.core.stats import Histogram

JITTER = 0.1
"""Part of the interval that is added or taken at random."""
CHECK_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets for the duration of checks, in seconds."""

Outcome = tuple[ProbeKind, Status]


class Checker:
    """Has instances checked.

    Args:
        prober: Tries them.
        found: Takes what was found.
        max_running: Most checks at the same time; others wait for their turn.

    Attributes:
        durations: How long checks took, in seconds, by their kind and what they found.
    """

    def __init__(
        self,
        prober: Prober,
        found: Callable[[Entry, Verdict], None],
        max_running: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._prober = prober
        self._found = found
        self._max_running = max_running
        self._heap: list[tuple[float, int, Entry, int]] = []
        self._numbers = count()
        self._ready: deque[tuple[Entry, int]] = deque()
        self._running: dict[asyncio.Task[None], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.durations: dict[Outcome, Histogram] = {}

    @property
    def running(self) -> int:
        """How many checks run now."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many checks wait for their turn, because too many run."""
        return len(self._ready)

    def begin(self, entry: Entry, *, scattered: bool = False) -> None:
        """Checks an instance from now on, until its generation is another.

        Args:
            entry: The instance; one without a target is not checked.
            scattered: Whether the first check comes somewhere within the interval, and not at once.
        """
        if entry.target is None or self._closed:
            return
        delay = random.random() * _interval(entry) if scattered else 0.0  # noqa: S311
        self._push(entry, delay)
        self._run_due()

    async def close(self) -> None:
        """Checks nothing any more. May be called twice."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _push(self, entry: Entry, delay: float) -> None:
        due = self._loop.time() + delay
        heapq.heappush(self._heap, (due, next(self._numbers), entry, entry.generation))

    def _run_due(self) -> None:
        now = self._loop.time()
        while self._heap and self._heap[0][0] <= now:
            _, _, entry, generation = heapq.heappop(self._heap)
            if generation == entry.generation:
                self._ready.append((entry, generation))
        while self._ready and len(self._running) < self._max_running:
            entry, generation = self._ready.popleft()
            if generation == entry.generation:
                task = self._loop.create_task(self._check(entry, generation))
                self._running[task] = None
                task.add_done_callback(self._done)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap and not self._closed:
            self._timer = self._loop.call_at(self._heap[0][0], self._run_due)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not self._closed:
            self._run_due()
            task.result()  # A defect is told by the loop's exception handler.

    async def _check(self, entry: Entry, generation: int) -> None:
        target, check = entry.target, entry.instance.spec.check
        assert target is not None, "one without is not begun"
        began = self._loop.time()
        try:
            verdict = await self._prober.probe(target, check.timeout_ns / SECOND_NS)
            outcome = target.kind, verdict.status
            if outcome not in self.durations:
                self.durations[outcome] = Histogram(CHECK_BOUNDS)
            self.durations[outcome].observe(self._loop.time() - began)
            if generation == entry.generation:
                self._found(entry, verdict)
        finally:
            if generation == entry.generation:
                # Counted from the beginning, so that a slow instance is not checked less often.
                spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
                due = began + _interval(entry) * spread
                self._push(entry, max(0.0, due - self._loop.time()))


def _interval(entry: Entry) -> float:
    return entry.instance.spec.check.interval_ns / SECOND_NS

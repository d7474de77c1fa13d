"""What this node wants in the log, until it is there."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from switchboard_server.backends.rabbitmq.records import Answers
from switchboard_server.core.errors import SwitchboardError, UnavailableError
from switchboard_server.core.ports import NO_DUPLICATES, Appended, Lane
from switchboard_server.core.records import Drafts


@dataclass(slots=True)
class Request:
    """An append, or events to schedule.

    Args:
        number: Its number; later ones have higher numbers.
        drafts: The events.
        scheduled: They wait for their time.
        lane: With what it fails.
        future: Answers the caller.
        began: When it came, seconds of the loop's clock.

    Attributes:
        size: Bytes of its events.
        sent: Whether the sequencer may have it.
        duplicates: What it was answered where none of its events was stored; the answer is given
            once those that were are read.
    """

    number: int
    drafts: Drafts
    scheduled: bool
    lane: Lane | None
    future: "asyncio.Future[Any]"
    began: float
    size: int = field(init=False)
    sent: bool = False
    duplicates: Mapping[int, int] | None = None

    def __post_init__(self) -> None:
        """Measures it."""
        self.size = self.drafts.size()


class Requests:
    """The open requests of this node, in order.

    Args:
        node: Id of the node, by which records name what they answer.
        timeout: Seconds after which a request fails.
        answered: Is told how many seconds the oldest of some answered requests took.

    Attributes:
        pending_bytes: Bytes of events that wait to become durable.
    """

    def __init__(self, node: str, timeout: float, answered: Callable[[float], None]) -> None:
        self._node = node
        self._timeout = timeout
        self._answered = answered
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, Request] = {}
        self._unsent: deque[Request] = deque()
        self._known: list[Request] = []
        self._number = 0
        self._emptied: asyncio.Future[None] | None = None
        self.pending_bytes = 0

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest has been open; 0: none is."""
        oldest = next(iter(self._open.values()), None)
        return 0.0 if oldest is None else self._loop.time() - oldest.began

    def add(
        self, drafts: Drafts, *, scheduled: bool, lane: Lane | None = None
    ) -> "asyncio.Future[Any]":
        """Opens a request."""
        self._number += 1
        future: asyncio.Future[Any] = self._loop.create_future()
        request = Request(self._number, drafts, scheduled, lane, future, self._loop.time())
        self._open[request.number] = request
        self._unsent.append(request)
        self.pending_bytes += request.size
        return future

    async def emptied(self) -> None:
        """Waits until none is open."""
        while self._open:
            if self._emptied is None:
                self._emptied = self._loop.create_future()
            await asyncio.shield(self._emptied)

    def take_unsent(self) -> Iterator[Request]:
        """Takes what has to be sent; it counts as sent.

        One by one: where one fails meanwhile, those of its lane do not follow.
        """
        unsent, self._unsent = self._unsent, deque()
        for each in unsent:
            if each.number in self._open:
                each.sent = True
                yield each

    def send_again(self) -> None:
        """Has everything that is open sent, once more: nobody has it any more."""
        self._known.clear()
        for each in self._open.values():
            each.duplicates = None
        self._unsent = deque(self._open.values())

    def read(self, answers: Iterable[Answers], first: int, time_ns: int) -> None:
        """Answers what a record says it answers.

        Args:
            answers: The requests, of all nodes, in the order of their events.
            first: Sequence of the record's first event.
            time_ns: When the events entered the log.
        """
        oldest: float | None = None
        for each in answers:
            if each.node != self._node:
                first += sum(each.counts)
                continue
            for at, count in enumerate(each.counts):
                request = self._close(each.number + at)
                if request is not None:
                    duplicates = each.duplicates.get(at, NO_DUPLICATES)
                    oldest = request.began if oldest is None else oldest
                    _answer(request, Appended(first, time_ns, duplicates))
                first += count
        if oldest is not None:
            self._answered(self._loop.time() - oldest)

    def settle(self, number: int, duplicates: Mapping[int, int], last: int) -> None:
        """Takes the answer to a request of which nothing was stored, or that was scheduled.

        Args:
            number: Its number.
            duplicates: Which of its events were accepted before.
            last: How far the log has been read.
        """
        request = self._open.get(number)
        if request is not None:
            request.duplicates = duplicates
            self._known.append(request)
            self.reached(last)

    def reached(self, last: int) -> None:
        """Answers requests whose events others had published, once those are read."""
        if not self._known:
            return
        waiting = []
        for request in self._known:
            duplicates = request.duplicates or {}
            if max(duplicates.values(), default=0) > last:
                waiting.append(request)
            elif self._close(request.number) is not None:
                answer = duplicates if request.scheduled else Appended(0, 0, duplicates)
                _answer(request, answer)
        self._known = waiting

    def fail(self, number: int, error: BaseException) -> None:
        """Fails a request, and those of its lane behind it."""
        request = self._open.get(number)
        if request is not None:
            self._fail([request], lambda _: error)

    def fail_all(self, error: SwitchboardError) -> None:
        """Fails everything that is open."""
        self._fail(list(self._open.values()), lambda _: error)

    def expire(self, problem: str | None) -> bool:
        """Fails what has waited too long.

        Args:
            problem: What is known to be wrong.

        Returns:
            Whether there was any.
        """
        limit = self._loop.time() - self._timeout
        late = []
        for request in self._open.values():
            if request.began > limit:
                break
            late.append(request)
        why = f"the log did not answer within {self._timeout:g} s"
        self._fail(late, lambda request: _failure(request, why, problem))
        return bool(late)

    def fail_sent(self, problem: str | None) -> None:
        """Fails what was sent, since nobody will tell what became of it."""
        why = "the part of the log that tells is gone"
        sent = [each for each in self._open.values() if each.sent]
        self._fail(sent, lambda request: _failure(request, why, problem))

    def _fail(self, requests: Sequence[Request], error: Callable[[Request], BaseException]) -> None:
        """Fails requests, and those of their lanes behind them.

        What the sequencer has of the latter enters the log behind what failed, or not at all; the
        rest is not sent, nor will any of it be to the next one.
        """
        lanes = {request.lane: request.number for request in reversed(requests)}
        lanes.pop(None, None)
        behind = [
            each
            for each in (self._open.values() if lanes else ())
            if each.lane in lanes and each.number > lanes[each.lane]
        ]
        for request in (*requests, *behind):
            if self._close(request.number) is not None:
                _answer(request, error(request))

    def _close(self, number: int) -> Request | None:
        request = self._open.pop(number, None)
        if request is not None:
            self.pending_bytes -= request.size
            if not self._open and self._emptied is not None:
                emptied, self._emptied = self._emptied, None
                if not emptied.done():
                    emptied.set_result(None)
        return request


def _answer(request: Request, answer: object) -> None:
    if isinstance(answer, BaseException):
        if request.lane is not None:
            request.lane.fail(answer)
        if not request.future.done():
            request.future.set_exception(answer)
    elif not request.future.done():
        request.future.set_result(answer)


def _failure(request: Request, why: str, problem: str | None) -> UnavailableError:
    outcome = (
        "whether it was stored is not known: publishing it again with the same ids is safe"
        if request.sent
        else "nothing was stored"
    )
    more = f" ({problem})" if problem else ""
    return UnavailableError("LOG_UNAVAILABLE", f"{why}{more}; {outcome}")

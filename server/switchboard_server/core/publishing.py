"""Taking events in: what is refused, what was accepted before, what waits for its time."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import attrgetter

from switchboard_server.core.clock import SECOND_NS, Clock
from switchboard_server.core.errors import (
    PermissionDeniedError,
    ResourceExhaustedError,
    SwitchboardError,
    UnavailableError,
)
from switchboard_server.core.filters import Route
from switchboard_server.core.idempotency import SCHEDULED, IdempotencyWindow, Key
from switchboard_server.core.ports import Appended, EventLog, Lane, RecentId
from switchboard_server.core.principal import HUB, Principal
from switchboard_server.core.quotas import Rates
from switchboard_server.core.records import Batch, Drafts
from switchboard_server.core.validation import (
    HUB_SOURCE,
    RESERVED_SOURCE,
    extra_problem,
    name_problem,
    route_problem,
    size_problem,
)


@dataclass(frozen=True, slots=True)
class PublishLimits:
    """How much publishing the hub takes on.

    Args:
        max_event_bytes: Largest event, encoded.
        max_pending_bytes: Most bytes that wait to become durable.
        idempotency_ns: How long ids are remembered, in nanoseconds.
        idempotency_keys: How many ids are remembered at most.
        subject_events_per_second: Most events that the callers of one subject publish; 0: any.
    """

    max_event_bytes: int = 1024 * 1024
    max_pending_bytes: int = 64 * 1024 * 1024
    idempotency_ns: int = 120 * SECOND_NS
    idempotency_keys: int = 1_000_000
    subject_events_per_second: int = 0


Answer = asyncio.Future[Appended] | asyncio.Future[Mapping[int, int]]
"""What a log answers, to an append or to scheduling."""


@dataclass(slots=True)
class Published:
    """What became of the events of one call.

    Attributes:
        first: Sequence of the first accepted event; the other accepted ones follow in order.
        accepted: How many were accepted, scheduled ones not counted.
        time_ns: When they entered the log, Unix time in nanoseconds; of a single event that is a
            duplicate, when it first did; 0 where nothing entered it or it is not retained any more.
        duplicates: By index, the sequence under which the event was accepted before (0: it is
            scheduled).
        scheduled: Indexes of events that wait for their time.
        refused: By index, why an event was not accepted.
    """

    first: int = 0
    accepted: int = 0
    time_ns: int = 0
    duplicates: dict[int, int] = field(default_factory=dict)
    scheduled: Sequence[int] = ()
    refused: dict[int, SwitchboardError] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether all events were simply accepted."""
        return not (self.duplicates or self.scheduled or self.refused)


class Publisher:
    """Takes events in for the hub; see `EventHub.publish`.

    Args:
        log: Where events are kept.
        limits: How much is taken on.
        clock: Unix time in nanoseconds.
        newest: Finds the batch that holds an event, where that is at hand.

    Attributes:
        rates: How much callers may publish.
        ids: The ids of events that were accepted lately.
        duplicates: Events that were published again, and answered with their first result.
        scheduled: Events that were stored for later.
        refused: Events that were not accepted, by the reason of the error.
    """

    def __init__(
        self,
        log: EventLog,
        limits: PublishLimits,
        clock: Clock,
        newest: Callable[[int], Batch | None] = lambda _: None,
    ) -> None:
        self._log = log
        self._newest = newest
        self._limits = limits
        self._clock = clock
        self._ids_time = 0
        self.rates = Rates(limits.subject_events_per_second)
        self.ids = IdempotencyWindow(limits.idempotency_ns, limits.idempotency_keys)
        self.duplicates = 0
        self.scheduled = 0
        self.refused: Counter[str] = Counter()

    @property
    def overloaded(self) -> bool:
        """Whether more waits to become durable than may."""
        return self._log.pending_bytes > self._limits.max_pending_bytes

    async def recall(self) -> None:
        """Remembers the ids that the log holds of before a restart."""
        since = self._clock() - self._limits.idempotency_ns
        self.remembered(await self._log.recent_ids(since, self._limits.idempotency_keys))

    def remembered(self, recent: Iterable[RecentId]) -> None:
        """Remembers ids that were accepted, whoever took them in."""
        # At a start there may be a million of them, of a thousand times.
        for time_ns, together in groupby(recent, attrgetter("time_ns")):
            given = [((each.source_service, each.id), each.sequence) for each in together]
            self._accept(given, time_ns)

    def appended(self, batch: Batch) -> None:
        """Remembers the ids of what has entered the log, whoever published it and when."""
        if batch.ids:
            self._accept(
                [
                    ((batch.route(index).source_service, each), batch.first + index)
                    for index, each in batch.ids.items()
                ],
                batch.time_ns,
            )

    def known(self, drafts: Drafts) -> Mapping[int, int]:
        """See `LogListener.known`."""
        self.ids.expire(self._clock())
        found = {}
        for index, each in enumerate(drafts.ids or ()):
            if each:
                sequence = self.ids.accepted((drafts.route(index).source_service, each))
                if sequence is not None:
                    found[index] = sequence
        return found

    async def publish(
        self,
        drafts: Drafts,
        principal: Principal,
        *,
        waited: bool = False,
        lane: Lane | None = None,
    ) -> Published:
        """See `EventHub.publish`."""
        if self.overloaded and not waited:
            self.refused["OVERLOADED"] += len(drafts)
            raise ResourceExhaustedError(
                "OVERLOADED",
                "too many events wait to become durable; try again later, more slowly",
                metadata={"limit": str(self._limits.max_pending_bytes)},
            )
        if not waited:
            self._check_rate(principal, len(drafts))
        self.rates.take(principal.subject, len(drafts))
        self._refuse(drafts, principal)
        try:
            if lane is not None and lane.error is not None:
                raise lane.error
            if drafts.refused or drafts.ids is not None or drafts.extras:
                return await self._publish_with_care(drafts, lane)
            appended = await self._log.append(drafts, lane)
        except UnavailableError as error:
            self.refused[error.reason] += len(drafts)
            raise
        return Published(appended.first, len(drafts), appended.time_ns)

    def _check_rate(self, principal: Principal, events: int) -> None:
        try:
            self.rates.check(principal.subject)
        except ResourceExhaustedError as error:
            self.refused[error.reason] += events
            raise

    def _refuse(self, drafts: Drafts, principal: Principal) -> None:
        """Finds the events that cannot be taken."""
        refused, limit = drafts.refused, self._limits.max_event_bytes
        # Mostly all have one route, and that is the whole check.
        if (
            not isinstance(drafts.routes, Route)
            or principal.scoped("events.publish")
            or drafts.routes.source_service == HUB_SOURCE
            or route_problem(drafts.routes)
        ):
            self._refuse_routes(drafts, principal)
        if max(drafts.lengths) > limit:
            for index, length in enumerate(drafts.lengths):
                if problem := size_problem(length, limit):
                    refused.setdefault(index, problem)
        if drafts.ids is not None or drafts.extras:
            self._refuse_rare(drafts)
        for error in refused.values():
            self.refused[error.reason] += 1

    def _refuse_rare(self, drafts: Drafts) -> None:
        for index, each in enumerate(drafts.ids or ()):
            if problem := name_problem("id", each):
                drafts.refused.setdefault(index, problem)
        now = self._clock() if drafts.extras else 0
        for index, extra in drafts.extras.items():
            if problem := extra_problem(extra, now):
                drafts.refused.setdefault(index, problem)

    @staticmethod
    def _refuse_routes(drafts: Drafts, principal: Principal) -> None:
        bad: dict[object, SwitchboardError] = {
            route: problem
            for route in drafts.distinct_routes()
            if (problem := route_problem(route) or _not_allowed(principal, route))
        }
        for index in range(len(drafts)) if bad else ():
            if drafts.route(index) in bad:
                drafts.refused.setdefault(index, bad[drafts.route(index)])

    async def _publish_with_care(self, drafts: Drafts, lane: Lane | None) -> Published:
        """Publishes events of which some are refused, known by an id, or meant for later."""
        sorting = self._sort(drafts)
        if lane is not None and sorting.known:
            sorting = await self._let_others_end(drafts, sorting, lane)
        waits = self._hand_over(drafts, sorting, lane)
        outcome = Published(refused=drafts.refused)
        for wait in waits:
            # Shielded, since others may wait for the same events by their ids.
            answer: Appended | Mapping[int, int] = await asyncio.shield(wait)
            if isinstance(answer, Appended):
                outcome.first, outcome.time_ns = answer.first, answer.time_ns
                outcome.accepted = len(sorting.fresh) - len(answer.duplicates)
            outcome.duplicates.update(sorting.found(answer))
        for index, known in sorting.known.items():
            try:
                sequence = known if isinstance(known, int) else await asyncio.shield(known)
            except UnavailableError as error:
                if not waits:
                    raise
                # The call it came in first has failed, but others of this call are in the log.
                outcome.refused[index] = error
                self.refused[error.reason] += 1
            else:
                outcome.duplicates[index] = sequence
        outcome.scheduled = sorting.later
        if len(drafts) == 1 and outcome.duplicates:
            outcome.time_ns = await self._time_of(outcome.duplicates[0])
        self.duplicates += len(outcome.duplicates)
        self.scheduled += len(outcome.scheduled)
        return outcome

    def _hand_over(
        self, drafts: Drafts, sorting: "_Sorting", lane: Lane | None
    ) -> Sequence[Answer]:
        """Gives the log what is new."""
        waits: list[Answer] = []
        if sorting.fresh:
            everything = len(sorting.fresh) == len(drafts)
            fresh = drafts if everything else drafts.select(sorting.fresh)
            waits.append(self._log.append(fresh, lane))
            waits[-1].add_done_callback(partial(self._settle, sorting.keys(sorting.fresh)))
        if sorting.later:
            waits.append(self._log.schedule(drafts.select(sorting.later), lane))
            waits[-1].add_done_callback(partial(self._settle, sorting.keys(sorting.later)))
        return waits

    async def _let_others_end(self, drafts: Drafts, sorting: "_Sorting", lane: Lane) -> "_Sorting":
        """Waits until what other calls have on their way of the events is in the log, or fails.

        Were it left to them, what they fail to store would stand behind what comes after it here.
        """
        lane.held = True
        while others := sorting.others(self.ids):
            self.ids.withdraw(sorting.begun.values())
            await asyncio.wait(others)
            if lane.error is not None:
                raise lane.error
            sorting = self._sort(drafts)
        lane.held = False
        return sorting

    async def _time_of(self, sequence: int) -> int:
        """When an event entered the log; 0: it has not yet, or it is not retained."""
        if sequence == SCHEDULED or sequence < self._log.window.first:
            return 0
        # Who lost an answer publishes again soon, and after an outage many do at once.
        if (batch := self._newest(sequence)) is not None:
            return batch.time_ns
        batches = (await self._log.read(sequence - 1, 1)).batches
        return batches[0].time_ns if batches and batches[0].first <= sequence else 0

    def _sort(self, drafts: Drafts) -> "_Sorting":
        """Tells new events from known ones, and those for now from those for later."""
        now = self._clock()
        self.ids.expire(now)
        sorting = _Sorting()
        for index in range(len(drafts)):
            if index in drafts.refused:
                continue
            if drafts.ids is not None and drafts.ids[index]:
                key = (drafts.route(index).source_service, drafts.ids[index])
                known = self.ids.find(key)
                if known is not None:
                    sorting.known[index] = known
                    continue
                self.ids.begin(key)
                sorting.begun[index] = key
            extra = drafts.extras.get(index)
            later = extra is not None and extra.deliver_at_ns > now
            (sorting.later if later else sorting.fresh).append(index)
        return sorting

    def _settle(self, keys: Sequence[Key | None], done: Answer) -> None:
        """Notes what became of events that have an id, but for those that entered the log.

        Those were told by their batches.
        """
        error = done.exception()
        if isinstance(error, Exception):
            self.ids.fail([key for key in keys if key is not None], error)
            return
        answer = done.result()
        if isinstance(answer, Appended):
            told = answer.duplicates
        else:
            told = {**dict.fromkeys(range(len(keys)), SCHEDULED), **answer}
        given = [(key, at) for index, at in told.items() if (key := keys[index]) is not None]
        if given:
            self._accept(given, self._clock())

    def _accept(self, given: Sequence[tuple[Key, int]], time_ns: int) -> None:
        """Remembers the sequence of each key."""
        self._ids_time = max(self._ids_time, time_ns)
        keys, sequences = [key for key, _ in given], [sequence for _, sequence in given]
        self.ids.accept(keys, sequences, self._ids_time)


@dataclass(slots=True)
class _Sorting:
    """What the events of a call are, by index.

    Attributes:
        fresh: Those to append now.
        later: Those to schedule.
        known: Those accepted before: their sequence, or what will tell it.
        begun: Ids of the fresh and later ones that have one.
    """

    fresh: list[int] = field(default_factory=list)
    later: list[int] = field(default_factory=list)
    known: dict[int, int | asyncio.Future[int]] = field(default_factory=dict)
    begun: dict[int, Key] = field(default_factory=dict)

    def others(self, ids: IdempotencyWindow) -> list[asyncio.Future[int]]:
        """Tells of those that are on their way, but not by this call."""
        own = {ids.find(key) for key in self.begun.values()}
        return [
            each
            for each in self.known.values()
            if isinstance(each, asyncio.Future) and each not in own
        ]

    def found(self, answer: Appended | Mapping[int, int]) -> Mapping[int, int]:
        """The events that the log knew, by index; those for later among them are not for later."""
        if isinstance(answer, Appended):
            return {self.fresh[at]: each for at, each in answer.duplicates.items()}
        found = {self.later[at]: each for at, each in answer.items()}
        if found:
            self.later = [index for index in self.later if index not in found]
        return found

    def keys(self, indexes: Sequence[int]) -> list[Key | None]:
        """The keys of some events, in order."""
        return [self.begun.get(index) for index in indexes]


def _not_allowed(principal: Principal, route: Route) -> SwitchboardError | None:
    if route.source_service == HUB_SOURCE and principal is not HUB:
        return RESERVED_SOURCE
    if not principal.scoped("events.publish"):
        return None
    try:
        principal.require("events.publish", route.type)
    except PermissionDeniedError as error:
        return error
    return None

"""What clients can do with durable events, whatever door they come through."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from switchboard_server.core.clock import Clock, wall_clock
from switchboard_server.core.errors import (
    OutOfRangeError,
    PermissionDeniedError,
    UnavailableError,
    invalid_field,
    limit_reached,
    shutting_down,
)
from switchboard_server.core.filters import Filter, validate
from switchboard_server.core.heartbeats import DEFAULT_HEARTBEAT, check_heartbeat
from switchboard_server.core.listing import Page, Query, list_page
from switchboard_server.core.ports import EventLog, Lane, ReadResult, RecentId, Window
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.publishing import Published, Publisher, PublishLimits
from switchboard_server.core.quotas import Shares
from switchboard_server.core.records import Batch, Drafts
from switchboard_server.core.stats import EventStats
from switchboard_server.core.subscription import Subscription
from switchboard_server.core.tail import Tail


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the hub takes on.

    Args:
        publish: How much publishing.
        max_subscriptions: Most subscriptions at a time.
        subject_subscriptions: Most of them that the callers of one subject have; 0: any number.
        tail_bytes: How much memory the newest part of the log may take.
        max_lag: For how many seconds this node may have less of the log than others, who may have
            told its clients of a position there; 0: there are no others.
    """

    publish: PublishLimits = field(default_factory=PublishLimits)
    max_subscriptions: int = 20_000
    subject_subscriptions: int = 0
    tail_bytes: int = 64 * 1024 * 1024
    max_lag: float = 0.0


class Begin(Enum):
    """Named places to begin a subscription."""

    LATEST = "latest"
    EARLIEST = "earliest"


@dataclass(frozen=True, slots=True)
class AfterSequence:
    """Begin with the first event after a sequence."""

    sequence: int


@dataclass(frozen=True, slots=True)
class AfterTime:
    """Begin with the first event that entered the log after a Unix time in nanoseconds."""

    time_ns: int


Start = Literal[Begin.LATEST, Begin.EARLIEST] | AfterSequence | AfterTime
"""Where a subscription begins."""


class EventHub:
    """The hub's events. Its methods are called in one event loop, concurrently as it comes.

    Args:
        log: Where events are kept.
        limits: How much the hub takes on.
        clock: Unix time in nanoseconds.

    Attributes:
        members: Streams of consumer groups, which count as subscriptions.
        availability: Is set when `problem` changes.
    """

    def __init__(
        self, log: EventLog, limits: Limits | None = None, clock: Clock = wall_clock
    ) -> None:
        self._log = log
        self._limits = limits or Limits()
        self._clock = clock
        self._tail = Tail(self._limits.tail_bytes, 0)
        self._publisher = Publisher(log, self._limits.publish, clock, self._newest)
        self._shares = Shares(self._limits.subject_subscriptions)
        self._subscriptions: dict[Subscription, str] = {}
        self._blocked: deque[asyncio.Future[None]] = deque()
        self._reaching: list[asyncio.Future[None]] = []
        self._closing: UnavailableError | None = None
        self._published = 0
        self._delivered = 0
        self._gaps = 0
        self._first_at_start = 1
        self.members = 0
        self._opening: str | None = None
        self._problem: str | None = None
        self._interruptions = 0
        self.availability = asyncio.Event()

    @property
    def log(self) -> EventLog:
        """Where events are kept."""
        return self._log

    @property
    def problem(self) -> str | None:
        """Why the log cannot be written to; None: it can."""
        return self._opening or self._problem

    @property
    def tail(self) -> Tail:
        """The newest part of the log; another one before `open`."""
        return self._tail

    # --- life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Opens the log and takes up where it stands; closes it where that cannot be.

        Until it returns, all that needs the log is refused with UnavailableError.

        Raises:
            UnavailableError: The log cannot be opened.
        """
        self._opening = "the log is being opened"
        await self._log.open(self)
        self._tail = Tail(self._limits.tail_bytes, self._log.window.last)
        self._first_at_start = self._log.window.first
        try:
            await self._publisher.recall()
        except BaseException:
            await self._log.close()
            raise
        self._opening = None
        self.availability.set()

    def waits_for(self, problem: str | None) -> None:
        """Takes notice of what keeps the log from being opened, for those who ask meanwhile."""
        if self._opening is not None and problem is not None:
            self._opening = problem

    def check_open(self, outcome: str = "") -> None:
        """Refuses what needs the log, before that is open.

        Args:
            outcome: What to say of it beside the reason.

        Raises:
            UnavailableError: It is not open yet.
        """
        if self._opening is not None:
            raise UnavailableError("LOG_UNAVAILABLE", self._opening + outcome)

    def begin_shutdown(self) -> UnavailableError:
        """Takes nothing more, and ends every subscription after what it is handing out now.

        Returns:
            The error that callers get from now on.
        """
        self._closing = shutting_down()
        for subscription in self._subscriptions:
            subscription.end(self._closing)
        self._release()
        return self._closing

    async def close(self) -> None:
        """Makes what waits durable, and closes the log."""
        await self._log.close()

    def stats(self) -> EventStats:
        """What the hub counts, as it is now."""
        log, publisher, window = self._log, self._publisher, self._log.window
        retained = window.last - window.first + 1
        return EventStats(
            published=self._published,
            scheduled=publisher.scheduled,
            duplicates=publisher.duplicates,
            refused=dict(publisher.refused),
            delivered=self._delivered + sum(each.delivered for each in self._subscriptions),
            gaps=self._gaps + sum(each.gaps for each in self._subscriptions),
            trimmed=window.first - self._first_at_start,
            log_events=retained,
            log_bytes=log.size,
            first_sequence=window.first if retained else 0,
            last_sequence=window.last,
            subscribers=len(self._subscriptions),
            slow_readers=sum(each.behind for each in self._subscriptions),
            tail_bytes=self._tail.bytes,
            pending_bytes=log.pending_bytes,
            remembered_ids=len(publisher.ids),
            forgotten_ids=publisher.ids.forgotten,
            commits=log.commits,
        )

    # --- publishing ------------------------------------------------------------------------------

    async def publish(
        self,
        drafts: Drafts,
        principal: Principal = ANONYMOUS,
        *,
        waited: bool = False,
        lane: Lane | None = None,
    ) -> Published:
        """Publishes events of one call.

        Args:
            drafts: The events, at least one. Those that the caller's door or the hub refuses do not
                keep the others from being accepted.
            principal: Who publishes.
            waited: The caller has waited in `room`, so it is not turned away where others that
                waited with it have filled the room again.
            lane: Behind which calls it stands. While `held`, none may begin behind it.

        Returns:
            What became of each, when all that were accepted are durable.

        Raises:
            UnavailableError: The log took none of them, or not what stands before them in their
                lane, or the hub shuts down.
            ResourceExhaustedError: Too much waits to become durable, or the caller is over its
                rate; nothing was taken.

        Cancelling it does not take back what is on its way to the log. Calls that begin one after
        the other put their events into the log in that order.
        """
        if self._closing is not None:
            raise self._closing
        self.check_open("; nothing was stored")
        return await self._publisher.publish(drafts, principal, waited=waited, lane=lane)

    async def room(self, principal: Principal = ANONYMOUS) -> None:
        """Waits until the log is not behind by more than the limit, nor a caller over its rate.

        Safe to cancel.
        """
        if wait := self._publisher.rates.wait(principal.subject):
            await asyncio.sleep(wait)
        while self._publisher.overloaded and self._closing is None:
            waiter = asyncio.get_running_loop().create_future()
            self._blocked.append(waiter)
            await waiter

    # --- subscribing -----------------------------------------------------------------------------

    async def subscribe(
        self,
        wish: Filter,
        start: Start = Begin.LATEST,
        principal: Principal = ANONYMOUS,
        heartbeat: float = DEFAULT_HEARTBEAT,
    ) -> Subscription:
        """Opens a subscription; the caller closes it.

        Args:
            wish: Which events.
            start: Where to begin.
            principal: Who subscribes.
            heartbeat: Seconds of silence after which to say that the subscription lives.

        Raises:
            InvalidArgumentError: The filter or the heartbeat is not allowed, or the time to begin
                after is still to come.
            PermissionDeniedError: The filter asks for more than the caller may read.
            OutOfRangeError: The log has not reached the sequence to begin after.
            ResourceExhaustedError: There are as many subscriptions as there may be.
            UnavailableError: The hub shuts down, or the log cannot be read now.
        """
        check_heartbeat(heartbeat)
        validate(wish)
        check_scope(principal, "events.subscribe", wish)
        self.admit(principal)
        after = await self.position(start)
        self.admit(principal)
        subscription = Subscription(
            wish,
            after,
            announce_caught_up=after < self._tail.last,
            tail=self._tail,
            read=self._read,
            clock=self._clock,
            heartbeat=heartbeat,
        )
        self._subscriptions[subscription] = principal.subject
        self._shares.add(principal.subject)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Closes a subscription. May be called twice."""
        subject = self._subscriptions.pop(subscription, None)
        if subject is not None:
            self._shares.remove(subject)
            self._delivered += subscription.delivered
            self._gaps += subscription.gaps
            subscription.close()

    def admit(self, principal: Principal = ANONYMOUS) -> None:
        """Checks that one more subscription, of a group's member or not, may be opened.

        Args:
            principal: Who opens it.

        Raises:
            ResourceExhaustedError: There are as many as there may be, or the caller has.
            UnavailableError: The hub shuts down.
        """
        if self._closing is not None:
            raise self._closing
        self.check_open()
        limit = self._limits.max_subscriptions
        if len(self._subscriptions) + self.members >= limit:
            setting = "SWITCHBOARD_MAX_SUBSCRIPTIONS"
            problem = f"there are {limit} subscriptions already; raise {setting}"
            raise limit_reached(problem, limit, setting)
        self._shares.check(principal.subject)

    async def position(self, start: Start) -> int:
        """Finds the sequence after which a subscription begins.

        Raises:
            InvalidArgumentError: The time to begin after is still to come.
            OutOfRangeError: The log has not reached the sequence to begin after.
            UnavailableError: The log cannot be read now.
        """
        window = self._log.window
        if start is Begin.LATEST:
            return window.last
        if start is Begin.EARLIEST:
            return window.first - 1
        if isinstance(start, AfterTime):
            await self._check_past(start.time_ns)
            return await self._log.sequence_before(start.time_ns + 1)
        if start.sequence > window.last:
            window = await self._later_window(start.sequence)
        if start.sequence > window.last:
            raise OutOfRangeError(
                "SEQUENCE_OUT_OF_RANGE",
                f"after_sequence: the log has reached {window.last}, not {start.sequence}; "
                "the position is of another log, begin with START_AT_EARLIEST",
                metadata={"last_sequence": str(window.last)},
            )
        return start.sequence

    async def reach(self, sequence: int) -> None:
        """Waits until this node has what another one has of the log. Safe to cancel.

        Args:
            sequence: Of the last event that the other one has.
        """
        while self._tail.last < sequence:
            waiter = asyncio.get_running_loop().create_future()
            self._reaching.append(waiter)
            await waiter

    # --- members of groups -----------------------------------------------------------------------

    def join(self, principal: Principal) -> None:
        """Counts the stream of a group's member as a subscription."""
        self.members += 1
        self._shares.add(principal.subject)

    def part(self, principal: Principal) -> None:
        """Takes back `join`."""
        self.members -= 1
        self._shares.remove(principal.subject)

    # --- the history -----------------------------------------------------------------------------

    async def list_events(self, query: Query, principal: Principal = ANONYMOUS) -> Page:
        """Reads a page of the history.

        Args:
            query: What is wanted.
            principal: Who asks.

        Raises:
            InvalidArgumentError: The filter, the page size or the token is not allowed.
            PermissionDeniedError: The filter asks for more than the caller may read.
            UnavailableError: The log cannot be read now.
        """
        validate(query.filter)
        check_scope(principal, "events.view", query.filter)
        self.check_open()
        return await list_page(self._log, query, self._clock)

    # --- what the log tells; see `LogListener` ---------------------------------------------------

    def appended(self, batches: Sequence[Batch]) -> None:
        """Takes what has become durable; see `LogListener`."""
        for batch in batches:
            self._published += len(batch)
            self._publisher.appended(batch)
            self._tail.append(batch)
        self._release()
        if self._reaching:
            reaching, self._reaching = self._reaching, []
            for waiter in reaching:
                if not waiter.done():
                    waiter.set_result(None)

    def known(self, drafts: Drafts) -> Mapping[int, int]:
        """Tells which events were accepted before; see `LogListener`."""
        return self._publisher.known(drafts)

    def remembered(self, recent: Sequence[RecentId]) -> None:
        """Takes ids that no batch has told of; see `LogListener`."""
        self._publisher.remembered(recent)

    def availability_changed(self, problem: str | None) -> None:
        """Takes notice whether the log can be written to; see `LogListener`."""
        self._problem = problem
        self._interruptions += 1
        self.availability.set()
        self._release()

    # --- inside ----------------------------------------------------------------------------------

    def _release(self) -> None:
        while self._blocked:
            waiter = self._blocked.popleft()
            if not waiter.done():
                waiter.set_result(None)

    async def _later_window(self, sequence: int) -> Window:
        """What is retained when the log has reached a sequence, or will not reach it soon.

        Raises:
            UnavailableError: This node does not have it, and cannot learn now whether others do.
        """
        if not self._limits.max_lag:
            return self._log.window
        while True:
            interruptions = self._interruptions
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.max_lag):
                    await self.reach(sequence)
            window = self._log.window
            if window.last >= sequence:
                return window
            if self._problem is not None:
                raise UnavailableError(
                    "LOG_UNAVAILABLE",
                    f"{self._problem}; this hub has the log up to {window.last}, not {sequence}",
                )
            # What it missed meanwhile comes after that.
            if interruptions == self._interruptions:
                return window

    async def _check_past(self, time_ns: int) -> None:
        """Refuses a time to come, since events that enter the log before it would be delivered."""
        # The clock may have been set back: a time that the log has reached is past in any case.
        ahead = time_ns > self._clock()
        if ahead and await self._log.sequence_before(time_ns) >= self._log.window.last:
            raise invalid_field(
                "after_time",
                "lies ahead of the hub's clock; START_AT_LATEST begins with what comes now",
            )

    def _newest(self, sequence: int) -> Batch | None:
        return self._tail.find(sequence)

    async def _read(self, after: int, max_bytes: int) -> ReadResult:
        if after >= self._tail.floor:
            await asyncio.sleep(0)  # A turn of the loop for the others, as a read of the log gives.
            if after >= self._tail.floor:
                return ReadResult(self._tail.read(after, max_bytes), self._log.window)
        return await self._log.read(after, max_bytes)


def check_scope(principal: Principal, permission: str, wish: Filter) -> None:
    """Checks that a filter stays within the scope of a permission.

    Args:
        principal: Who asks.
        permission: The permission that reading needs.
        wish: The events asked for.

    Raises:
        PermissionDeniedError: It asks for types outside.
    """
    principal.require(permission)
    try:
        for pattern in wish.types or ("*",):
            principal.require(permission, pattern)
    except PermissionDeniedError as error:
        raise PermissionDeniedError(
            error.reason,
            f"list filter.types within your scope: {error.message}",
            metadata=error.metadata,
        ) from None

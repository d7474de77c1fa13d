"""A group at work: reads ahead, gives out, saves, and comes back to what waits."""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from switchboard_server.core.clock import SECOND_NS, Clock
from switchboard_server.core.errors import SwitchboardError, UnavailableError, shutting_down
from switchboard_server.core.groups.burial import Undertaker
from switchboard_server.core.groups.changes import replay
from switchboard_server.core.groups.entries import Entry, Outcome, Rejection
from switchboard_server.core.groups.ledger import Ledger
from switchboard_server.core.groups.membership import Member, Parcel
from switchboard_server.core.groups.moving import MovedError
from switchboard_server.core.groups.ports import GroupStore, StoredGroup
from switchboard_server.core.groups.reading import Reader
from switchboard_server.core.groups.saving import Saver, answer
from switchboard_server.core.ports import EventLog
from switchboard_server.core.records import runs_of
from switchboard_server.core.subscription import Gap
from switchboard_server.core.tail import MAX_CHUNK_BYTES, Tail

FETCHED = 64
"""Most events whose bytes are fetched at once."""
STAGED_BYTES = 4 * 1024 * 1024
"""Nothing further is fetched while so many bytes wait for a member."""
RETRY_SECONDS = 1.0
"""How long a group waits before it reads again where the log could not be read."""
PLACE_EVENTS = 10_000
"""Events of the log that a restarted group reads once more at most, though none matched it."""

_logger = logging.getLogger(__name__)


class LeaseCodec(Protocol):
    """How a delivery of a group looks as bytes."""

    def lease_all(self, entries: Sequence[Entry]) -> tuple[list[bytes], list[int]]:
        """Adds to events what only these deliveries of them have: `ack_id` and `attempts`.

        Args:
            entries: The events, which have their bytes and are leased.

        Returns:
            The bytes in pieces, as many for each delivery, and how many bytes each has.
        """
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all groups of a hub have in common.

    Args:
        tail: The newest part of the log.
        log: All of it.
        store: Keeps groups.
        codec: How deliveries look as bytes.
        clock: Unix time in nanoseconds.
    """

    tail: Tail
    log: EventLog
    store: GroupStore
    codec: LeaseCodec
    clock: Clock


class Group:
    """One group. Belongs to one event loop.

    Args:
        stored: What it is, and where it stands.
        around: What it lives in.

    Attributes:
        record: Its name and its number.
        config: What its members agreed on.
        filter: Which events it receives.
        ledger: What it owes.
        burial: Its dead letters.
        members: Those that take part.
        idle_since_ns: Since when it has no member, Unix time in nanoseconds; 0: it has some.
        redriving: Held by who has dead letters come back, or all of them go.
    """

    def __init__(self, stored: StoredGroup, around: Surroundings) -> None:
        self._loop = asyncio.get_running_loop()
        self._around = around
        self.record = stored.record
        self.config = stored.record.config
        self.filter = stored.record.config.filter
        self._restored = replay(stored.snapshot, stored.changes).within(around.tail.last)
        self.ledger = Ledger(
            self.config,
            stored.record.secret,
            self._restored,
            around.clock() // 1000 * 4,
            random.random,
        )
        self._reader = Reader(self.ledger, around.tail, around.log)
        self._saver = Saver(self.ledger, around.store, stored.record.number, self._turn_soon)
        self.burial = Undertaker(self.ledger, around.store, stored)
        self.members: dict[Member, None] = {}
        self.idle_since_ns = stored.idle_since_ns
        self._idle: dict[Member, None] = {}
        self._turning = False
        self._resting = False
        self._closed = False
        self._ended: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._burials: list[asyncio.Future[None]] = []
        self.redriving = asyncio.Lock()

    async def open(self) -> None:
        """Takes up where the group stood.

        Raises:
            UnavailableError: The log cannot be read now.
        """
        self._tell_lost(await self.burial.restore(self._restored.open, self._around.clock()))
        del self._restored
        await self.burial.look()
        await self._reader.look(self._around.store)
        self._reader.audience.wait(self)
        if not self.idle_since_ns:
            self._note_idle()
        self._turn_soon()

    async def close(self, error: Exception | None = None) -> None:
        """Saves what is to be saved, and leaves the log.

        Args:
            error: What those are told who wait for an event to become a dead letter; None: that the
                hub shuts down.
        """
        if self._closed:
            return
        self._stop(error or shutting_down())
        try:
            await self._saver.save_place()
        except (UnavailableError, MovedError) as failure:
            _logger.warning("the state of group %r is not saved: %s", self.record.name, failure)

    def keep(self) -> None:
        """Does now and then what need not be done at once."""
        if self._saver.behind > PLACE_EVENTS and not self._saver.failing:
            self._saver.save_place()
        if self.burial.returning and not self.burial.can_return:
            # A redrive that could not be saved at first has been saved since.
            self.burial.returnable()
            self._turn_soon()

    def end(self, error: Exception) -> None:
        """Ends all streams of members."""
        for member in self.members:
            member.end(error)

    def remove(self, error: SwitchboardError) -> None:
        """Ends all streams of members, and saves nothing: the group is deleted."""
        self._saver.close()
        self._stop(error)
        self.end(error)

    def let_go(self, error: MovedError) -> None:
        """Ends all streams of members, and saves nothing: another node has the group."""
        self._saver.let_go(error)
        self._stop(error)
        self.end(error)

    # --- members ---------------------------------------------------------------------------------

    def join(self, member: Member) -> None:
        """Lets a member take part."""
        self.members[member] = None
        self.ledger.join(member.holder)
        if self.idle_since_ns:
            self.idle_since_ns = 0
            self.ledger.pending.idle_since_ns = 0
        self._turn_soon()

    def leave(self, member: Member, untaken: Sequence[Entry]) -> None:
        """See `Giver.leave`."""
        if self.members.pop(member, self) is not None or self._closed:
            return
        self.ledger.leave(member.holder, self._around.clock(), untaken)
        if not self.members:
            self._note_idle()
        self._turn_soon()

    def ask(self, member: Member) -> None:
        """See `Giver.ask`."""
        self._idle[member] = None
        self._turn_soon()

    def withdraw(self, member: Member) -> None:
        """See `Giver.withdraw`."""
        self._idle.pop(member, None)

    def rest(self, member: Member, *, draining: bool) -> None:
        """See `Giver.rest`."""
        if member in self.members:
            self.ledger.drain(member.holder, draining=draining)
            self._turn_soon()

    def drain(self, instance: str, *, draining: bool) -> None:
        """Keeps new deliveries from members that are a service instance, or not any more."""
        for member in self.members:
            if member.holder.identity.instance == instance:
                self.ledger.drain(member.holder, draining=draining)
        self._turn_soon()

    # --- settling --------------------------------------------------------------------------------

    async def acknowledge(self, names: Sequence[str]) -> list[Outcome]:
        """Settles deliveries for good; answers when that is durable."""
        return await self._settled(self.ledger.acknowledge(names))

    async def reject(self, names: Sequence[str], how: Rejection) -> list[Outcome]:
        """Takes deliveries back; answers when that is durable."""
        return await self._settled(self.ledger.reject(names, self._around.clock(), how))

    def extend(self, names: Sequence[str], extension_ns: int | None) -> list[Outcome]:
        """Moves deadlines."""
        outcomes = self.ledger.extend(names, self._around.clock(), extension_ns)
        self._turn_soon()
        return outcomes

    async def seek(self, position: int) -> None:
        """Forgets what was settled and what is not, and goes on after a position."""
        self.ledger.seek(position)
        self.burial.shelve()
        self._reader.restart()
        for member in self.members:
            member.forget()
        self._turn_soon()
        await self._saver.save()

    async def redrive(self, sequences: Sequence[int]) -> None:
        """Has dead letters come back once `bring_back` is called; answers when that is durable."""
        self.burial.redrive(sequences)
        await self._saver.save()

    def bring_back(self) -> None:
        """Lets what was redriven come back, in the order of the log."""
        self.burial.returnable()
        self._turn_soon()

    async def flush(self) -> None:
        """Makes durable what has happened so far, so that what is read of the store shows it."""
        await self._saver.save()

    # --- how it is -------------------------------------------------------------------------------

    def position(self) -> int:
        """Everything up to here is settled or does not match."""
        position = self.ledger.position()
        return min(position, self.burial.before) if self.burial.returning else position

    @property
    def exact(self) -> bool:
        """Whether it is known how many events are ready."""
        return self._reader.exact

    @property
    def ready(self) -> int:
        """How many events wait for a member; if not exact, at most."""
        return self.ledger.ready + self._reader.unread + self.burial.returning

    def oldest_ns(self) -> int | None:
        """When the oldest event that is not settled entered the log, as far as that is known."""
        known = self.ledger.oldest_ns()
        return self._reader.unread_ns if known is None else known

    # --- what the tail calls ---------------------------------------------------------------------

    def wake(self) -> None:
        """Takes notice that the tail has something for the group; see `Waiter`."""
        if not self._closed:
            self._reader.audience.wait(self)
            self._reader.noted()
            if self._idle:
                self._turn_soon()

    # --- inside ----------------------------------------------------------------------------------

    async def _settled(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Waits until all that has happened is durable."""
        self._turn_soon()
        while self.ledger.doomed:
            if self._ended is not None:
                raise self._ended
            buried = self._loop.create_future()
            self._burials.append(buried)
            await buried
        await self._saver.save()
        return outcomes

    def _note_idle(self) -> None:
        self.idle_since_ns = self._around.clock()
        self.ledger.pending.idle_since_ns = self.idle_since_ns

    def _stop(self, error: Exception) -> None:
        if self._closed:
            return
        self._closed = True
        self._ended = error
        self._reader.audience.forget(self)
        self._reader.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._answer_burials(error)

    def _turn_soon(self) -> None:
        if not self._turning and not self._closed:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Gives out what can be given out now, and sees to it that the rest follows."""
        self._turning = False
        if self._closed:
            return
        now_ns = self._around.clock()
        self.ledger.expire(now_ns)
        behind = self._reader.fill() if self.members else False
        if self._idle and not self._saver.failing:
            self._give(now_ns)
            behind = self._reader.fill()
        self._saver.save_later()
        if (behind or self._work_waits()) and self._task is None and not self._resting:
            self._task = self._loop.create_task(self._work())
        self._arm(self.ledger.expire(now_ns), now_ns)

    def _give(self, now_ns: int) -> None:
        idle = list(self._idle)
        by_holder = {each.holder: each for each in idle}
        for holder, entries in self.ledger.dispatch(now_ns, list(by_holder)):
            by_holder[holder].give(list(self._parcels(entries)))

    def _parcels(self, entries: Sequence[Entry]) -> Sequence[Parcel]:
        pieces, sizes = self._around.codec.lease_all(entries)
        for entry in entries:
            entry.batch = None
        if sum(sizes) <= MAX_CHUNK_BYTES:
            return [Parcel(b"".join(pieces), entries)]
        parcels: list[Parcel] = []
        each = len(pieces) // len(sizes)
        start = size = 0
        for index, more in enumerate((*sizes, MAX_CHUNK_BYTES)):
            if index > start and size + more > MAX_CHUNK_BYTES:
                part = pieces[each * start : each * index]
                parcels.append(Parcel(b"".join(part), entries[start:index]))
                start, size = index, 0
            size += more
        return parcels

    def _arm(self, due_ns: int | None, now_ns: int) -> None:
        """Sets the alarm for the next deadline, or the next attempt."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due_ns is not None:
            self._timer = self._loop.call_later(
                max(0.0, (due_ns - now_ns) / SECOND_NS), self._turn_soon
            )

    def _can_fetch(self) -> bool:
        """Whether bytes should be fetched for what is ready.

        Before a member has room for it, so that it goes out when it is its turn.
        """
        return self.ledger.lacking > 0 and self.ledger.staged < STAGED_BYTES

    def _work_waits(self) -> bool:
        """Whether something has to be done that takes reading."""
        if self.ledger.doomed:
            return True
        return bool(self.members) and (self._can_fetch() or self.burial.can_return)

    async def _work(self) -> None:
        """Does what takes reading, until there is nothing left."""
        try:
            await self._until_done()
        except UnavailableError as error:
            _logger.warning("group %r waits: %s", self.record.name, error)
            self._rest(error)
        except Exception as error:
            # A defect with one event must not stop the group for ever, nor be tried in a circle.
            _logger.exception("group %r could not go on", self.record.name)
            self._rest(error)
        else:
            self._turn_soon()
        finally:
            self._task = None

    def _rest(self, error: Exception) -> None:
        """Tries again in a while what could not be done."""
        self._answer_burials(error)
        self._resting = True
        self._loop.call_later(RETRY_SECONDS, self._wake_up)

    def _wake_up(self) -> None:
        self._resting = False
        self._turn_soon()

    async def _until_done(self) -> None:
        while not self._closed:
            behind = bool(self.members) and self._reader.fill()
            if not (behind or self._work_waits()):
                return
            if self.ledger.doomed:
                self._tell_lost(await self.burial.bury(self._around.clock()))
                self._saver.save()
                self._answer_burials(None)
            if self.members:
                if behind and (gap := await self._reader.read()) is not None:
                    self._tell(gap)
                if self._can_fetch():
                    self._tell_lost(await self.burial.fetch(FETCHED))
                if self.burial.can_return:
                    await self.burial.bring_back(self._saver.save)
            self._turn_soon()
            await asyncio.sleep(0)  # So that what was read is given out before more is.

    def _tell_lost(self, sequences: Sequence[int]) -> None:
        for first, following in runs_of(sorted(sequences)):
            self._tell(Gap(first, following - 1))

    def _tell(self, gap: Gap) -> None:
        _logger.warning(
            "group %r: events %d to %d are not retained any more, or cannot be read",
            self.record.name,
            gap.first,
            gap.last,
        )
        for member in self.members:
            member.tell(gap)

    def _answer_burials(self, error: Exception | None) -> None:
        waiting, self._burials = self._burials, []
        answer(waiting, error)

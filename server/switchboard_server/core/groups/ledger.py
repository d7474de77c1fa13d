"""What a group owes: which events are ready, in flight, waiting or settled.

A state machine without input and output: time is passed in, and what has to be kept is collected in
`pending`. Everything else about groups is moving bytes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from operator import attrgetter

from switchboard_server.core.groups.alarms import Alarms
from switchboard_server.core.groups.changes import Change, Open, Snapshot
from switchboard_server.core.groups.config import GroupConfig, Mode
from switchboard_server.core.groups.entries import (
    RETRY,
    Cause,
    Entry,
    Holder,
    Identity,
    Outcome,
    Rejection,
    State,
)
from switchboard_server.core.groups.leases import Leases
from switchboard_server.core.groups.lines import KeyLines
from switchboard_server.core.groups.ready import ReadyQueue
from switchboard_server.core.records import Batch
from switchboard_server.core.validation import PRIORITIES

MIN_WINDOW = 64
"""Fewest events of a priority that are read ahead."""
MAX_WINDOW = 8192
"""Most events of a priority that are read ahead."""
MAX_ASIDE = 64
"""Most events that are passed over at a time because they should go to another member."""
KEYED_WINDOW = 10_000
"""Events that a KEY_SHARED group reads ahead, to find keys that are free."""
NONCES = 2**32
"""Among so many a ledger begins anywhere."""
MAX_OPEN = 100_000
"""A group with more events unsettled reads no further: it is not its members' credit that grows so,
but what they rejected and what waits for its time."""

_READY, _RETRYING, _SETTLED = State.READY, State.RETRYING, State.SETTLED
_OK = Outcome.OK
_free = attrgetter("free")


@dataclass(slots=True)
class Doomed:
    """An event that the group gives up, and that is to be buried.

    Args:
        entry: The event.
        cause: Why.
        reason: What the last Reject said.
        holder: Who held it last.
    """

    entry: Entry
    cause: Cause
    reason: str
    holder: Identity


@dataclass(slots=True)
class Counters:
    """What has happened to a group since it was loaded."""

    delivered: int = 0
    acknowledged: int = 0
    redelivered: int = 0
    dead_lettered: int = 0
    expired: int = 0
    lost: int = 0


class Ledger:
    """The state of one group. Not safe for several threads.

    Args:
        config: What its members agreed on.
        secret: The group's own number, 32 bits, from which the names of deliveries are made.
        snapshot: Where it stands; what of it is open is given back by `readmit`.
        nonce: Deliveries are numbered from here on, or from further.
        chance: Random numbers from 0 up to 1, for the jitter of waits.

    Attributes:
        open: What has been read and is not settled, by sequence.
        cursors: How far each priority has been read.
        pending: What has happened since it was last taken.
        doomed: What is to become dead letters; who buries it takes it out, and notes it as settled.
        redriven: How many of the open events came back from the dead letters.
        staged: Bytes that were fetched and wait for a member.
        finished: How many events that came back have been settled since, and are no dead letters.
        closed: Events that came back and are not open any more, until somebody has seen to it that
            the store knows.
        counters: What has happened since the group was loaded.
        holders: The members.
        retrying: How many events wait for their next attempt.
    """

    def __init__(
        self,
        config: GroupConfig,
        secret: int,
        snapshot: Snapshot,
        nonce: int,
        chance: Callable[[], float],
    ) -> None:
        self.config = config
        self.open: dict[int, Entry] = {}
        self.cursors = dict(snapshot.cursors)
        self.pending = Change()
        self.doomed: list[Doomed] = []
        self.counters = Counters()
        self.holders: dict[Holder, None] = {}
        self.retrying = 0
        self.redriven = 0
        self.staged = 0
        self.finished = 0
        self.closed: set[int] = set()
        # Far from what was given out last and is not in the snapshot, by whoever had the group: two
        # deliveries of an event must not have one name.
        nonce = max(nonce, snapshot.nonce + 1) + int(chance() * NONCES) + 3 & ~3
        self._leases = Leases(secret, nonce, snapshot.floor)
        self._chance = chance
        self._lines = KeyLines() if config.mode is Mode.KEY_SHARED else None
        self._ready = ReadyQueue()
        self._missing = ReadyQueue()
        self._fresh: dict[int, deque[Entry]] = {priority: deque() for priority in PRIORITIES}
        self._alarms = Alarms()
        self._avoiding: set[Entry] = set()

    @property
    def in_flight(self) -> int:
        """How many deliveries members hold."""
        return len(self._leases.by_name)

    @property
    def ready(self) -> int:
        """How many events that have been read wait for a member."""
        return len(self.open) - self.in_flight - self.retrying

    def position(self) -> int:
        """Everything up to here is settled or does not match."""
        return min(min(self.open, default=self.cursors[1] + 1) - 1, *self.cursors.values())

    def oldest_ns(self) -> int | None:
        """When the oldest event that is not settled entered the log; None: none has been read."""
        return self.open[min(self.open)].time_ns if self.open else None

    # --- members ---------------------------------------------------------------------------------

    def join(self, holder: Holder) -> None:
        """Lets a member take part."""
        self.holders[holder] = None
        self._rehome()

    def leave(self, holder: Holder, now_ns: int, untaken: Iterable[Entry] = ()) -> None:
        """Takes back what a member holds, to be delivered again at once.

        Args:
            holder: The member.
            now_ns: The time, Unix nanoseconds.
            untaken: What was assigned to it and never sent: no attempt was made.
        """
        holder.open = False
        self.holders.pop(holder, None)
        # What it did not take in time has gone to another member since, or is settled.
        for entry in dict.fromkeys(untaken):
            if holder.held.get(entry.nonce) is entry:
                entry.attempts -= 1
        held = list(holder.held.values())
        for entry in held:
            self._leases.take_back(entry)
        self._rehome()
        for entry in held:
            if entry.attempts >= self.config.retry.max_attempts:
                self._doom(entry, Cause.MEMBER_LOST, "", holder.identity)
            else:
                self._make_ready(entry, now_ns)

    def drain(self, holder: Holder, *, draining: bool) -> None:
        """Keeps new deliveries from a member, or not any more."""
        if holder.draining != draining:
            holder.draining = draining
            self._rehome()

    # --- reading ---------------------------------------------------------------------------------

    def window(self, priority: int) -> int:
        """How many more events of a priority are worth reading now.

        In a KEY_SHARED group all priorities are read as one, and it is the same for each.
        """
        if not self.holders or len(self.open) >= MAX_OPEN:
            return 0
        if self._lines is not None:
            return max(0, KEYED_WINDOW - self.ready)
        wanted = min(max(MIN_WINDOW, 2 * sum(each.credit for each in self.holders)), MAX_WINDOW)
        return max(0, wanted - self._ready.count(priority))

    def offer(self, entries: Sequence[Entry], cursors: dict[int, int]) -> None:
        """Takes events that were read.

        Args:
            entries: In the order of the log, beyond the cursors, with their bytes.
            cursors: By priority, up to where that was all.
        """
        self.cursors |= cursors
        if entries and self._lines is None and len(cursors) == 1 and not self.redriven:
            # All of one priority, and none of them known: what is frequent is done at once.
            (priority,) = cursors
            self.open.update({entry.sequence: entry for entry in entries})
            self._fresh[priority].extend(entries)
            self._ready.push_all(priority, entries)
            return
        for entry in entries:
            if entry.sequence in self.open:
                continue  # A redriven event that a seek backwards has the group read once more.
            self.open[entry.sequence] = entry
            if self._lines is None:
                self._fresh[entry.priority].append(entry)
            else:
                self.pending.opened.append(entry.sequence)
            self._line_up(entry)

    def offer_redriven(self, entries: Sequence[Entry]) -> None:
        """Takes events that came back from the dead letters, with their bytes."""
        for entry in entries:
            self.open[entry.sequence] = entry
            self.redriven += 1
            self._line_up(entry)

    def readmit(self, entry: Entry, was: Open, now_ns: int) -> None:
        """Takes an event that was open before a restart.

        Args:
            entry: The event, with or without its bytes.
            was: How it stood.
            now_ns: The time, Unix nanoseconds.
        """
        entry.attempts = was.attempts
        self.open[entry.sequence] = entry
        self.redriven += entry.redriven
        first = self._lines is None or self._lines.claim(entry)
        # Even if others of its key come first: it has had its attempts.
        if entry.attempts >= self.config.retry.max_attempts:
            self._doom(entry, Cause.MEMBER_LOST, "", was.holder or Identity())
        elif first and was.due_ns > now_ns:
            self._wait(entry, was.due_ns)
        elif first:
            entry.ready_ns = now_ns
            self._enqueue(entry)

    def wanted(self, limit: int) -> list[Entry]:
        """What is ready but for its bytes; `supply` or `lose` has to follow for each.

        Args:
            limit: How many at most.
        """
        found: list[Entry] = []
        while len(found) < limit and self._missing:
            entry = self._missing.pop()
            if entry.state is _READY:
                found.append(entry)
        return found

    @property
    def lacking(self) -> int:
        """How many events are ready but for their bytes, and nobody fetches them."""
        return len(self._missing)

    def supply(self, entry: Entry, batch: Batch | None, index: int = 0) -> None:
        """Gives an event its bytes; without a batch it is asked for again."""
        if entry.state is _READY and self.open.get(entry.sequence) is entry:
            entry.batch, entry.index = batch, index
            if batch is not None:
                entry.staged = len(batch.frame(index))
                self.staged += entry.staged
            self._enqueue(entry)

    def lose(self, entry: Entry) -> bool:
        """Gives up an event whose bytes are not retained any more; False: it is settled already."""
        if self.open.get(entry.sequence) is not entry:
            return False
        self.counters.lost += 1
        self._finish(entry)
        return True

    # --- deliveries ------------------------------------------------------------------------------

    def dispatch(self, now_ns: int, idle: Sequence[Holder]) -> list[tuple[Holder, list[Entry]]]:
        """Gives out what is ready.

        Args:
            now_ns: The time, Unix nanoseconds.
            idle: Members that wait for something, and have not left.

        Returns:
            What each member gets; their credit is kept to. The caller takes the bytes of the
            entries, which are let go of at the next call.
        """
        able = [each for each in idle if each.free > 0 and not each.draining]
        if self._lines is None and not self._avoiding:
            given = self._share_out(able, now_ns)
        else:
            given = self._give_each(able, now_ns)
        for holder, entries in given.items():
            self.pending.leased.append(
                (
                    holder.identity,
                    [each.sequence for each in entries],
                    [each.attempts for each in entries],
                )
            )
        self._forget_delivered()
        return list(given.items())

    def _share_out(self, able: Sequence[Holder], now_ns: int) -> dict[Holder, list[Entry]]:
        """As `_give_each`, where it does not matter to any event who gets it.

        Those that are equally free take turns until they are no freer than the next ones.
        """
        given: dict[Holder, list[Entry]] = {}
        # Sorting keeps those that are equally free in the order in which they wait.
        waiting = deque(sorted(able, key=_free, reverse=True))
        turns: list[Holder] = []
        while waiting or turns:
            free = turns[0].free if turns else waiting[0].free
            joining: list[Holder] = []
            while waiting and waiting[0].free == free:
                joining.append(waiting.popleft())
            turns = joining + turns
            rounds = free - (waiting[0].free if waiting else 0)
            entries = self._take(rounds * len(turns), now_ns)
            for turn, holder in enumerate(turns):
                if part := entries[turn :: len(turns)]:
                    self._lease_all(part, holder, now_ns)
                    given.setdefault(holder, []).extend(part)
            if not waiting or len(entries) < rounds * len(turns):
                break
        return given

    def _take(self, most: int, now_ns: int) -> list[Entry]:
        """The next events, so many at most, that have not expired."""
        entries = self._ready.pop_all(most)
        while True:
            gone = [each for each in entries if each.expires_ns and self._expired(each, now_ns)]
            if not gone:
                return entries
            for each in gone:
                self.counters.expired += 1
                self._finish(each)
            entries = [each for each in entries if each.state is _READY]
            entries += self._ready.pop_all(most - len(entries))

    @staticmethod
    def _expired(entry: Entry, now_ns: int) -> bool:
        return bool(entry.expires_ns) and entry.expires_ns <= now_ns and not entry.redriven

    def _give_each(self, able: Sequence[Holder], now_ns: int) -> dict[Holder, list[Entry]]:
        """Gives out what is ready, one by one."""
        given: dict[Holder, list[Entry]] = {}
        # Of those that are equally free the one that has waited for its turn longest comes first.
        freest = [(-each.free, turn, each) for turn, each in enumerate(able)]
        heapify(freest)
        turn = len(freest)
        aside: list[Entry] = []
        while freest:
            holder = freest[0][2]
            entry = self._next(holder, now_ns) if holder.free > 0 else None
            if entry is None or len(aside) >= MAX_ASIDE:
                if entry is not None:
                    aside.append(entry)
                heappop(freest)
                continue
            taker = holder if entry.avoids is None else self._taker(entry, holder, able, now_ns)
            if taker is None:
                aside.append(entry)
                continue
            self._lease_all((entry,), taker, now_ns)
            given.setdefault(taker, []).append(entry)
            turn += 1
            heapreplace(freest, (-holder.free, turn, holder))
        for entry in aside:
            self._enqueue(entry)
        return given

    def acknowledge(self, names: Iterable[str]) -> list[Outcome]:
        """Settles deliveries for good."""
        outcomes: list[Outcome] = []
        taken: list[Entry] = []
        take, done = self._leases.by_name.pop, _OK
        for name in names:
            entry = take(name, None)
            if entry is not None:
                taken.append(entry)
                outcomes.append(done)
                continue
            # It may be an older name of an event, which is settled by one that stands before it.
            self._settle(taken)
            taken = []
            outcomes.append(self._missed(name))
        self._settle(taken)
        return outcomes

    def _settle(self, entries: Sequence[Entry]) -> None:
        """Settles deliveries that are no leases any more."""
        self._leases.settle(entries)
        self.counters.acknowledged += len(entries)
        self._finish_all(entries)

    def reject(self, names: Iterable[str], now_ns: int, how: Rejection = RETRY) -> list[Outcome]:
        """Takes deliveries back.

        Args:
            names: Names of the deliveries.
            now_ns: The time, Unix nanoseconds.
            how: When they come back, or that they do not.
        """
        outcomes = []
        for name in names:
            found = self._find(name)
            if isinstance(found, Entry):
                holder = self._leases.take_back(found)
                if how.dead_letter:
                    self._doom(found, Cause.REJECTED, how.reason, holder.identity)
                elif found.attempts >= self.config.retry.max_attempts:
                    self._doom(found, Cause.ATTEMPTS_REJECTED, how.reason, holder.identity)
                else:
                    self._retry(found, now_ns, how.wait_ns)
                found = Outcome.OK
            outcomes.append(found)
        return outcomes

    def extend(self, names: Iterable[str], now_ns: int, extension_ns: int | None) -> list[Outcome]:
        """Moves deadlines.

        Args:
            names: Names of the deliveries.
            now_ns: The time, Unix nanoseconds.
            extension_ns: Nanoseconds from now to the new deadline; None: as for a new delivery.
        """
        outcomes = []
        due_ns = now_ns + (self.config.ack_deadline_ns if extension_ns is None else extension_ns)
        for name in names:
            found = self._find(name)
            if isinstance(found, Entry):
                if found.due_ns != due_ns:
                    self._alarms.set(found, due_ns, self.in_flight + self.retrying)
                found = Outcome.OK
            outcomes.append(found)
        return outcomes

    def expire(self, now_ns: int) -> int | None:
        """Deals with deadlines that have passed and waits that are over.

        Returns:
            When to call again at the latest, Unix time in nanoseconds; None: when anything happens.
        """
        while (entry := self._alarms.due(now_ns)) is not None:
            self._ring(entry, now_ns)
        return self._alarms.next_ns()

    # --- the whole -------------------------------------------------------------------------------

    def seek(self, position: int) -> None:
        """Forgets everything, and goes on after a position. Members stay and hold nothing."""
        for entry in self.open.values():
            entry.state = _SETTLED
            entry.batch = None
        self._avoiding.clear()
        for holder in self.holders:
            holder.held.clear()
        self.open.clear()
        self._ready.clear()
        self._missing.clear()
        self._alarms.clear()
        if self._lines is not None:
            self._lines.clear()
        for fresh in self._fresh.values():
            fresh.clear()
        self.doomed.clear()
        self._leases.forget()
        self.retrying = self.redriven = self.staged = 0
        self.cursors = dict.fromkeys(PRIORITIES, position)
        self.pending.absorb(Change(snapshot=self.snapshot(), shelved=True))

    def snapshot(self) -> Snapshot:
        """The state, as a restart has to know it."""
        unread = {each.sequence for fresh in self._fresh.values() for each in fresh}
        return Snapshot(
            self.settled_cursors(),
            [
                Open(
                    each.sequence,
                    each.attempts,
                    each.due_ns if each.state is _RETRYING else 0,
                    each.holder.identity if each.holder else None,
                )
                for each in self.open.values()
                if each.sequence not in unread
            ]
            + [
                Open(each.entry.sequence, each.entry.attempts, 0, each.holder)
                for each in self.doomed
            ],
            self._leases.floor,
            self._leases.latest,
        )

    def settled_cursors(self) -> dict[int, int]:
        """By priority: what lies up to here has been delivered at least once, or does not match.

        In a KEY_SHARED group: has been read.
        """
        return {
            priority: fresh[0].sequence - 1 if fresh else self.cursors[priority]
            for priority, fresh in self._fresh.items()
        }

    def take_pending(self) -> Change:
        """What has happened since the last call, with the cursors as they are."""
        change, self.pending = self.pending, Change()
        change.cursors = self.settled_cursors()
        change.nonce = self._leases.latest
        return change

    # --- inside ----------------------------------------------------------------------------------

    def _find(self, name: str) -> Entry | Outcome:
        return self._leases.by_name.get(name) or self._missed(name)

    def _missed(self, name: str) -> Outcome:
        """Why a name is not one of a delivery that is held."""
        place = self._leases.read(name)
        if place is None:
            return Outcome.UNKNOWN
        sequence, nonce = place
        unread = sequence > self.cursors[(nonce & 3) + 1]
        if nonce <= self._leases.floor or sequence in self.open or unread:
            return Outcome.EXPIRED
        return Outcome.ALREADY_SETTLED

    def _next(self, holder: Holder, now_ns: int) -> Entry | None:
        """The next event for a member that has not expired."""
        queue, beside = self._ready, None
        if self._lines is not None:
            queue, beside = self._lines.pool(holder), self._ready or None
        while queue or beside:
            entry = queue.pop(beside)
            if self._expired(entry, now_ns):
                self.counters.expired += 1
                self._finish(entry)
            else:
                return entry
        return None

    def _taker(
        self, entry: Entry, holder: Holder, able: Sequence[Holder], now_ns: int
    ) -> Holder | None:
        """Who gets an event that it is a member's turn to get; None: nobody just now.

        An event whose deadline passed goes to another member, if one has room for it soon: else
        one that takes everything and settles nothing would use up all attempts. A key stays with
        its member.
        """
        waited_ns = now_ns - entry.ready_ns
        if entry.avoids is not holder or entry.key or waited_ns >= self.config.ack_deadline_ns:
            return holder
        if not any(each is not holder and not each.draining for each in self.holders):
            return holder
        return next((each for each in able if each is not holder and each.free > 0), None)

    def _lease_all(self, entries: Sequence[Entry], holder: Holder, now_ns: int) -> None:
        """Gives events to a member."""
        self.counters.redelivered += self._leases.give(entries, holder)
        self.counters.delivered += len(entries)
        if self.staged or self._avoiding:
            for entry in entries:
                self._unmark(entry)
        self._alarms.set_in_order(
            entries, now_ns + self.config.ack_deadline_ns, self.in_flight + self.retrying
        )

    def _avoid(self, entry: Entry, holder: Holder | None) -> None:
        """Has an event go to another member than this one first; None: it does not matter."""
        entry.avoids = holder
        if holder is None:
            self._avoiding.discard(entry)
        else:
            self._avoiding.add(entry)

    def _unmark(self, entry: Entry) -> None:
        """Forgets whom an event avoids, and that its bytes were fetched and wait."""
        if entry.avoids is not None:
            self._avoid(entry, None)
        if entry.staged:
            self.staged -= entry.staged
            entry.staged = 0

    def _retry(self, entry: Entry, now_ns: int, wait_ns: int | None) -> None:
        if wait_ns is None:
            wait_ns = self.config.retry.backoff_ns(entry.attempts, self._chance())
        if wait_ns:
            self.pending.retried.append((entry.sequence, entry.attempts, now_ns + wait_ns))
            self._wait(entry, now_ns + wait_ns)
        else:
            self._make_ready(entry, now_ns)

    def _wait(self, entry: Entry, due_ns: int) -> None:
        entry.state = _RETRYING
        self.retrying += 1
        self._alarms.set(entry, due_ns, self.in_flight + self.retrying)

    def _ring(self, entry: Entry, now_ns: int) -> None:
        if entry.state is _RETRYING:
            self.retrying -= 1
            self._make_ready(entry, now_ns)
            return
        holder = self._leases.take_back(entry)
        self._avoid(entry, holder)
        if entry.attempts >= self.config.retry.max_attempts:
            self._doom(entry, Cause.DEADLINE_PASSED, "", holder.identity)
        else:
            self._retry(entry, now_ns, None)

    def _doom(self, entry: Entry, cause: Cause, reason: str, holder: Identity) -> None:
        self.counters.dead_lettered += 1
        self.doomed.append(Doomed(entry, cause, reason, holder))
        self._close(entry)

    def _finish(self, entry: Entry) -> None:
        self._finish_all((entry,))

    def _finish_all(self, entries: Sequence[Entry]) -> None:
        """Settles events for good."""
        self.pending.settled += [entry.sequence for entry in entries]
        if self._lines is None and not (self.redriven or self.staged or self._avoiding):
            settled = _SETTLED
            for entry in entries:
                del self.open[entry.sequence]
                entry.state = settled
                entry.batch = None
            return
        for entry in entries:
            if entry.redriven:
                self.pending.finished.append(entry.sequence)
                self.finished += 1
            self._close(entry)

    def _close(self, entry: Entry) -> None:
        del self.open[entry.sequence]
        if entry.redriven:
            self.redriven -= 1
            self.closed.add(entry.sequence)
        entry.state = _SETTLED
        entry.batch = None
        self._unmark(entry)
        if self._lines is not None and (following := self._lines.advance(entry)) is not None:
            self._enqueue(following)

    def _make_ready(self, entry: Entry, now_ns: int) -> None:
        entry.state = _READY
        entry.ready_ns = now_ns
        self._line_up(entry)

    def _line_up(self, entry: Entry) -> None:
        """Lets an event wait for a member, or first for the event before it with the same key."""
        if self._lines is None or self._lines.claim(entry):
            self._enqueue(entry)

    def _enqueue(self, entry: Entry) -> None:
        if entry.batch is None:
            self._missing.push(entry)
        elif self._lines is None or not entry.key:
            self._ready.push(entry)
        else:
            self._lines.place(entry)

    def _forget_delivered(self) -> None:
        """Moves on behind what has left the window; never back, even if it is ready again."""
        for fresh in self._fresh.values():
            while fresh and (fresh[0].attempts or fresh[0].state is _SETTLED):
                fresh.popleft()

    def _rehome(self) -> None:
        """Has keys go to the members that there are now."""
        if self._lines is not None:
            self._lines.rehome([each for each in self.holders if not each.draining])

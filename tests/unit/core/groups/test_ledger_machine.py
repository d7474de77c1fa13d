"""Random lives of a group, with restarts at any moment, held against a simple model."""

from copy import deepcopy
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from switchboard_server.backends.embedded.group_memory import MemoryGroups
from switchboard_server.backends.embedded.store import CreateGroup, SaveChange
from switchboard_server.core.groups.changes import Change, DeadLetter, Snapshot, replay
from switchboard_server.core.groups.config import GroupConfig, Mode, RetryPolicy
from switchboard_server.core.groups.entries import (
    Cause,
    Entry,
    Holder,
    Outcome,
    Rejection,
)
from switchboard_server.core.groups.ledger import Doomed, Ledger
from switchboard_server.core.validation import PRIORITIES
from tests.support.events import a_route
from tests.unit.core.groups.events import SECOND, a_batch, a_member, an_entry
from tests.unit.core.groups.ledger_model import At, Doom, Event, Letter, Model

KEYS = ["", "a", "b"]
SECRET = 77
DEADLINE = 30 * SECOND


@dataclass
class Given:
    """A delivery that was made."""

    name: str
    entry: Entry
    holder: Holder
    number: int
    taken: bool = False


class LedgerMachine(RuleBasedStateMachine):
    """A group's ledger, its store and its members; time passes only by a rule."""

    mode = Mode.QUEUE

    @initialize(
        attempts=st.integers(1, 3), backoff=st.sampled_from([0, SECOND]), credit=st.integers(1, 5)
    )
    def begin(self, attempts: int, backoff: int, credit: int) -> None:
        retry = RetryPolicy(attempts, backoff, 2 * backoff)
        keyed = self.mode is Mode.KEY_SHARED
        self.config = GroupConfig(mode=self.mode, ack_deadline_ns=DEADLINE, retry=retry)
        self.now = 1000 * SECOND
        self.store = MemoryGroups()
        self.base = Snapshot.at(0)
        create = CreateGroup("g", self.config, SECRET, self.base, self.now)
        self.store.apply([create])
        self.number = create.number
        self.changes: list[Change] = []
        self.model = Model(retry, DEADLINE, keyed)
        self.durable = deepcopy(self.model)
        self.saving: tuple[Change, Model] | None = None
        self.given: list[Given] = []
        self.fetching: list[Entry] = []
        self.last = 0
        self.names = 0
        self.homes: dict[str, Holder] = {}
        self.calm = 0
        self._load(self.base)
        self.join(credit)

    def _load(self, state: Snapshot) -> None:
        # The number from which deliveries are named follows the clock, as in `Group`.
        self.ledger = Ledger(self.config, SECRET, state, self.now // 1000 * 4, lambda: 0.5)

    # --- the log -----------------------------------------------------------------------------

    @rule(
        events=st.lists(
            st.tuples(
                st.sampled_from(PRIORITIES),
                st.sampled_from(KEYS),
                st.sampled_from([0, 0, 0, 1, 40]),
                st.integers(1, 2),
            ),
            min_size=1,
            max_size=6,
        )
    )
    def publish(self, events: list[tuple[int, str, int, int]]) -> None:
        for priority, key, ttl, step in events:
            self.last += step  # What lies between does not match.
            expires = self.now + ttl * SECOND if ttl else 0
            event = Event(self.last, priority, key, self.now, expires)
            self.model.events[self.last] = event

    @rule(most=st.integers(1, 10), lane=st.sampled_from(PRIORITIES))
    def read(self, most: int, lane: int) -> None:
        self.bury()
        lanes = PRIORITIES if self.mode is Mode.KEY_SHARED else (lane,)
        room = min(most, self.ledger.window(lane))
        assert room > 0 or not self.ledger.holders
        if not room:
            return
        cursor = self.ledger.cursors[lane]
        beyond = [
            each
            for each in self.model.events.values()
            if each.sequence > cursor and each.priority in lanes
        ]
        part = beyond[:room]
        last = part[-1].sequence if len(beyond) > room else max(cursor, self.last)
        self.ledger.offer([self._entry(each) for each in part], dict.fromkeys(lanes, last))
        for event in part:
            if event.at is At.UNREAD:
                event.reset(At.READY)

    def _entry(self, event: Event) -> Entry:
        return an_entry(
            event.sequence,
            event.priority,
            event.key if self.model.keyed else "",
            time_ns=event.time_ns,
            expires_ns=event.expires_ns,
        )

    @precondition(lambda self: self.fetching or self.ledger.lacking)
    @rule(fate=st.sampled_from(["found", "found", "failed", "lost"]), most=st.integers(0, 5))
    def fetch(self, fate: str, most: int) -> None:
        self.ask_for_bytes(most)
        if self.fetching:
            self.get_bytes(fate)

    def ask_for_bytes(self, most: int) -> None:
        self.fetching += self.ledger.wanted(most)

    def get_bytes(self, fate: str) -> None:
        entry = self.fetching.pop(0)
        event = self.model.events[entry.sequence]
        if fate == "lost":
            current = self.ledger.open.get(entry.sequence) is entry
            assert self.ledger.lose(entry) is current
            if current:
                assert event.at is At.READY
                self._closed(event)
        else:
            found = a_batch(entry.sequence, entry.priority) if fate == "found" else None
            self.ledger.supply(entry, found)

    def _closed(self, event: Event) -> None:
        self.model.close(event, self.ledger.cursors[event.priority])

    @precondition(lambda self: self.ledger.holders)
    @rule()
    def work(self) -> None:
        """What a group does at each turn, where nothing goes wrong."""
        for lane in PRIORITIES:
            self.read(10, lane)
        self.ask_for_bytes(10)
        while self.fetching:
            self.get_bytes("found")
        self._dispatch(list(self.ledger.holders))

    # --- members -----------------------------------------------------------------------------

    @rule(
        data=st.data(),
        how=st.sampled_from(["join", "leave", "drain"]),
        credit=st.integers(1, 5),
        yes=st.booleans(),
    )
    def change_members(self, data: st.DataObject, how: str, credit: int, *, yes: bool) -> None:
        if how == "join" or not self.ledger.holders:
            self.join(credit)
        elif how == "leave":
            self.leave(data, taken=yes)
        else:
            self.drain(data, draining=yes)

    def join(self, credit: int) -> None:
        self.names += 1
        self.ledger.join(a_member(f"m{self.names}", credit))
        self.homes.clear()

    def leave(self, data: st.DataObject, *, taken: bool) -> None:
        holder = data.draw(st.sampled_from(list(self.ledger.holders)))
        # What it was to get first is taken first; its deadlines pass meanwhile.
        mine = [each for each in self.given if each.holder is holder and not each.taken]
        untaken = [] if taken else mine[data.draw(st.integers(0, len(mine))) :]
        for each in untaken:
            event = self.model.events[each.entry.sequence]
            if event.at is At.HELD and event.delivery == each.number:
                event.attempts -= 1
        for event in self._held_by(holder):
            self.model.give_back(event, Cause.MEMBER_LOST, self.now, 0)
        self.ledger.leave(holder, self.now, [each.entry for each in untaken])
        assert not holder.open
        self.homes.clear()

    def _held_by(self, holder: Holder) -> list[Event]:
        held = self.model.those(At.HELD)
        return [each for each in held if each.holder == holder.identity]

    def drain(self, data: st.DataObject, *, draining: bool) -> None:
        holder = data.draw(st.sampled_from(list(self.ledger.holders)))
        self.ledger.drain(holder, draining=draining)
        self.homes.clear()

    # --- deliveries --------------------------------------------------------------------------

    @precondition(lambda self: self.ledger.holders)
    @rule(data=st.data())
    def dispatch(self, data: st.DataObject) -> None:
        holders = list(self.ledger.holders)
        self._dispatch(data.draw(st.lists(st.sampled_from(holders), unique=True, min_size=1)))

    def _dispatch(self, idle: list[Holder]) -> int:
        before = set(self.ledger.open)
        dispatched = self.ledger.dispatch(self.now, idle)
        for sequence in sorted(before - set(self.ledger.open)):
            event = self.model.events[sequence]
            assert event.at is At.READY, f"{event} vanished"
            assert not event.redriven, f"{event} vanished"
            assert 0 < event.expires_ns <= self.now, f"{event} vanished"
            self._closed(event)
        for holder, entries in dispatched:
            assert holder in idle
            assert not holder.draining
            for entry in entries:
                assert entry.batch is not None
                self._deliver(entry, holder)
                entry.batch = None
            assert len(self._held_by(holder)) <= holder.credit
        return sum(len(entries) for _, entries in dispatched)

    def _deliver(self, entry: Entry, holder: Holder) -> None:
        event = self.model.events[entry.sequence]
        number = len(self.given)
        self.model.deliver(event, number, holder, self.now)
        assert entry.attempts == event.attempts
        if self.model.keyed and event.key:
            assert self.homes.setdefault(event.key, holder) is holder, "a key moved"
        self.given.append(Given(entry.ack_id, entry, holder, number))

    def _names(self, data: st.DataObject) -> tuple[list[str], list[Given | None]]:
        """Some names of deliveries, mostly of late, and sometimes one that nobody gave."""
        backwards = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=5))
        given = self.given
        chosen = [None if back >= len(given) else given[-1 - back] for back in backwards]
        return [f"{self.last:x}-1-0" if each is None else each.name for each in chosen], chosen

    def _expected(self, given: Given | None) -> Outcome:
        if given is None:
            return Outcome.UNKNOWN
        return self.model.outcome(given.entry.sequence, given.number)

    @precondition(lambda self: self.given)
    @rule(
        data=st.data(),
        how=st.sampled_from(["acknowledge", "acknowledge", "reject", "reject", "extend"]),
        wait=st.sampled_from([None, None, 0, 5 * SECOND, 100 * SECOND]),
        dead=st.sampled_from([False, False, True]),
    )
    def settle(self, data: st.DataObject, how: str, wait: int | None, *, dead: bool) -> None:
        if how == "acknowledge":
            self.acknowledge(data)
        elif how == "reject":
            self.reject(data, wait, dead=dead)
        else:
            self.extend(data, wait or None)

    def acknowledge(self, data: st.DataObject) -> None:
        names, chosen = self._names(data)
        for given, outcome in zip(chosen, self.ledger.acknowledge(names), strict=True):
            assert outcome is self._expected(given), given
            if outcome is Outcome.OK and given is not None:
                given.taken = True
                self._closed(self.model.events[given.entry.sequence])

    def reject(self, data: st.DataObject, wait: int | None, *, dead: bool) -> None:
        names, chosen = self._names(data)
        outcomes = self.ledger.reject(names, self.now, Rejection(wait, dead, f"at {self.now}"))
        for given, outcome in zip(chosen, outcomes, strict=True):
            assert outcome is self._expected(given), given
            if outcome is Outcome.OK and given is not None:
                given.taken = True
                self._rejected(self.model.events[given.entry.sequence], wait, dead=dead)

    def _rejected(self, event: Event, wait: int | None, *, dead: bool) -> None:
        assert event.holder is not None
        last = event.attempts >= self.config.retry.max_attempts
        if dead or last:
            cause = Cause.REJECTED if dead else Cause.ATTEMPTS_REJECTED
            self.model.doom(event, cause, f"at {self.now}", event.holder)
        else:
            self.model.wait(event, self.now, wait)

    def extend(self, data: st.DataObject, extension: int | None) -> None:
        names, chosen = self._names(data)
        outcomes = self.ledger.extend(names, self.now, extension)
        for given, outcome in zip(chosen, outcomes, strict=True):
            assert outcome is self._expected(given), given
            if outcome is Outcome.OK and given is not None:
                event = self.model.events[given.entry.sequence]
                event.due_ns = self.now + (DEADLINE if extension is None else extension)

    @rule(seconds=st.sampled_from([0, 1, 2, 5, 31]))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds * SECOND
        due = [each for each in self.model.those(At.HELD, At.RETRYING) if each.due_ns <= self.now]
        for event in sorted(due, key=lambda each: each.due_ns):
            if event.at is At.RETRYING:
                event.at = At.READY
            else:
                self.model.give_back(event, Cause.DEADLINE_PASSED, self.now, None)
        assert self.ledger.expire(self.now) == self.model.alarm()

    # --- the store ---------------------------------------------------------------------------

    def bury(self) -> None:
        assert _dooms(self.ledger) == sorted(self.model.dooms, key=_by_sequence)
        pending = self.ledger.pending
        for each in self.ledger.doomed:
            pending.settled.append(each.entry.sequence)
            pending.buried.append(_letter(each, self.now))
        self.ledger.doomed.clear()
        for doom in self.model.dooms:
            event = self.model.events[doom[0]]
            self.model.letters[doom[0]] = Letter(doom, event.redrives)
            beyond = event.sequence > self.ledger.cursors[event.priority]
            event.at = At.UNREAD if beyond else At.CLOSED
        self.model.dooms.clear()

    @rule(how=st.sampled_from(["all", "all", "begin", "begin", "fail", "compact"]))
    def store_changes(self, how: str) -> None:
        if how == "all":
            self._save_all()
        elif self.saving is None:
            self.save(compact=how == "compact")
        else:
            self.saved(failed=how == "fail")

    def save(self, *, compact: bool) -> None:
        change = self.ledger.take_pending()
        if compact:
            change.absorb(Change(snapshot=self.ledger.snapshot()))
            for event in self.model.those(At.READY, At.HELD, At.RETRYING, At.DOOMED):
                event.recorded = event.attempts
        self.saving = change, deepcopy(self.model)

    def saved(self, *, failed: bool) -> None:
        assert self.saving is not None
        (change, model), self.saving = self.saving, None
        if failed:
            change.absorb(self.ledger.pending)
            self.ledger.pending = change
            return
        self.changes.append(deepcopy(change))
        self.store.apply([SaveChange(self.number, change)])
        self.durable = model
        self._compare_letters()

    def _compare_letters(self) -> None:
        expected = self.durable.letters
        found = {each.sequence: each for each in self.store.before(self.number, None, 10_000)}
        found |= {each.sequence: each for each in self.store.redriven(self.number, 0, 10_000)}
        assert found.keys() == expected.keys()
        for sequence, letter in found.items():
            doom = (sequence, letter.cause, letter.reason, letter.attempts, letter.holder)
            assert (doom, letter.redrives, letter.redriven) == (
                expected[sequence].doom,
                expected[sequence].redrives,
                expected[sequence].redriven,
            )

    def _save_all(self) -> None:
        if self.saving is not None:
            self.saved(failed=False)
        self.save(compact=False)
        self.saved(failed=False)

    @precondition(lambda self: self.model.letters or self.model.dooms)
    @rule(most=st.integers(0, 3))
    def bury_and_redrive(self, most: int) -> None:
        self.bury()
        if most:
            self.redrive(most)

    def redrive(self, most: int) -> None:
        self._save_all()
        kept = [
            sequence
            for sequence, letter in self.model.letters.items()
            if not letter.redriven and self.model.events[sequence].at in (At.UNREAD, At.CLOSED)
        ][:most]
        self.ledger.pending.redriven += kept
        for sequence in kept:
            self.model.letters[sequence].redriven = True
            event = self.model.events[sequence]
            event.reset(At.READY)
            event.redriven = True
            event.redrives = self.model.letters[sequence].redrives + 1
        self._save_all()
        self._bring_back(kept)

    def _bring_back(self, sequences: list[int]) -> None:
        self.ledger.offer_redriven([self._redriven(each) for each in sequences])

    def _redriven(self, sequence: int) -> Entry:
        event = self.model.events[sequence]
        entry = self._entry(event)
        entry.expires_ns = 0
        entry.redriven, entry.redrives = True, event.redrives
        return entry

    @precondition(lambda self: len(self.given) >= self.calm + 3)
    @rule(data=st.data())
    def seek(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, self.last))
        self.ledger.seek(position)
        self.model.seek(position, len(self.given))
        for each in self.given:
            each.taken = True  # Members forget what they have not sent.
        self.calm = len(self.given)

    @precondition(lambda self: len(self.given) >= self.calm + 3)
    @rule(made_it=st.booleans(), credit=st.integers(1, 5))
    def restart(self, credit: int, *, made_it: bool) -> None:
        """Kills the hub: what was not durable never happened."""
        if self.saving is not None and made_it:
            self.saved(failed=False)
        self.saving = None
        log = self.model.events
        self.model = deepcopy(self.durable)
        for sequence, event in log.items():
            if sequence not in self.model.events:
                event.reset(At.UNREAD)
                self.model.events[sequence] = event
        self.now += SECOND
        state = replay(deepcopy(self.base), deepcopy(self.changes))
        self._load(state)
        known = {each.sequence for each in state.open}
        self.model.restart(known, state.cursors, self.now)
        for was in state.open:
            redriven = self.model.events[was.sequence].redriven
            entry = (
                self._redriven(was.sequence)
                if redriven
                else self._entry(self.model.events[was.sequence])
            )
            entry.batch = None
            self.ledger.readmit(entry, was, self.now)
        letters = self.store.redriven(self.number, 0, 10_000)
        self._bring_back([each.sequence for each in letters if each.sequence not in known])
        self.fetching.clear()
        for each in self.given:
            each.taken = True
        self.calm = len(self.given)
        self.join(credit)

    # --- what holds always -------------------------------------------------------------------

    @invariant()
    def agrees_with_the_model(self) -> None:
        ledger, model = self.ledger, self.model
        assert set(ledger.open) == model.is_open()
        assert ledger.in_flight == len(model.those(At.HELD))
        assert ledger.retrying == len(model.those(At.RETRYING))
        assert ledger.ready == len(model.those(At.READY))
        assert ledger.redriven == sum(model.events[each].redriven for each in ledger.open)
        assert _dooms(ledger) == sorted(model.dooms, key=_by_sequence)
        free = {each: each.credit - len(self._held_by(each)) for each in ledger.holders}
        assert all(each >= 0 for each in free.values())

    @invariant()
    def nothing_open_lies_before_the_position(self) -> None:
        unsettled = self.model.those(At.UNREAD, At.READY, At.HELD, At.RETRYING)
        first = min((each.sequence for each in unsettled), default=self.last + 1)
        assert self.ledger.position() < first

    def teardown(self) -> None:
        """Works off all there is: nothing may be left, and nothing may have been lost."""
        if not hasattr(self, "ledger"):
            return
        for holder in list(self.ledger.holders):
            self.leave_now(holder)
        self.join(10_000)
        (holder,) = self.ledger.holders
        while True:
            for lane in PRIORITIES:
                self.read(10_000, lane)
            for entry in (*self.fetching, *self.ledger.wanted(10_000)):
                self.ledger.supply(entry, a_batch(entry.sequence, entry.priority))
            self.fetching.clear()
            self._dispatch([holder])
            held = [each.ack_id for each in holder.held.values()]
            for event in self._held_by(holder):
                self._closed(event)
            assert set(self.ledger.acknowledge(held)) <= {Outcome.OK}
            self.agrees_with_the_model()
            if not held and not self.ledger.retrying and not self.ledger.lacking:
                break
            self.pass_time(100)
        self.bury()
        self._save_all()
        assert not self.ledger.open
        assert all(each.at is At.CLOSED for each in self.model.events.values())
        assert replay(deepcopy(self.base), deepcopy(self.changes)).open == []

    def leave_now(self, holder: Holder) -> None:
        """Has a member leave that took all that it got."""
        for event in self._held_by(holder):
            self.model.give_back(event, Cause.MEMBER_LOST, self.now, 0)
        self.ledger.leave(holder, self.now)


def _dooms(ledger: Ledger) -> list[Doom]:
    dooms = [
        (each.entry.sequence, each.cause, each.reason, each.entry.attempts, each.holder)
        for each in ledger.doomed
    ]
    return sorted(dooms, key=_by_sequence)


def _by_sequence(doom: Doom) -> int:
    return doom[0]


def _letter(doomed: Doomed, now_ns: int) -> DeadLetter:
    entry = doomed.entry
    return DeadLetter(
        sequence=entry.sequence,
        frame=b"x",
        route=a_route(priority=entry.priority),
        attributes={},
        ordering_key=entry.key,
        event_ns=entry.time_ns,
        cause=doomed.cause,
        reason=doomed.reason,
        attempts=entry.attempts,
        holder=doomed.holder,
        time_ns=now_ns,
        redrives=entry.redrives,
    )


class KeySharedMachine(LedgerMachine):
    """The same where keys keep their order."""

    mode = Mode.KEY_SHARED


LIVES = settings(
    max_examples=max(60, settings().max_examples // 3),
    stateful_step_count=80,
)


def test_a_queue_keeps_its_promises_in_any_life() -> None:
    run_state_machine_as_test(LedgerMachine, settings=LIVES)


def test_a_key_shared_group_keeps_its_promises_in_any_life() -> None:
    run_state_machine_as_test(KeySharedMachine, settings=LIVES)

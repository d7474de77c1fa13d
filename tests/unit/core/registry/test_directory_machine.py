"""Whatever happens in whatever order, the directory agrees with a model of a few lines."""

import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from switchboard_server.core.registry.directory import BROKEN_SECONDS, Directory
from switchboard_server.core.registry.entries import Declared, Entry, Verdict
from switchboard_server.core.registry.model import Change, Key, RemovalCause, Status
from tests.support.registries import FAILED, OWN_WORD, PASSED, TCP, a_spec, at

REAP = 7.0
NAMES = st.integers(0, 5)


class Model:
    """What should be known of one instance."""

    def __init__(self, *, checked: bool) -> None:
        self.checked = checked
        self.leased = not checked
        self.held = False
        self.lease = math.inf
        self.declared: Status | None = None
        self.found = Status.STARTING if checked else Status.SERVING
        self.failures = 0
        self.unhealthy_since = math.inf

    @property
    def status(self) -> Status:
        return self.declared or self.found

    @property
    def deadline(self) -> float:
        lease = self.lease if self.leased else math.inf
        return min(lease, self.unhealthy_since + REAP)


class DirectoryMachine(RuleBasedStateMachine):
    """Fewer than ten instances, so that self-preservation keeps out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.changes: list[Change] = []
        self.directory = Directory(
            lambda change, _: self.changes.append(change), reap_after=REAP, revision=5
        )
        self.model: dict[int, Model] = {}
        self.seen: dict[Key, Status] = {}
        self.revision = 5

    def entry(self, number: int) -> Entry | None:
        return self.directory.find(Key("users", f"i{number}"))

    def settle(self, model: Model) -> None:
        """Takes notice of the status."""
        if model.status is not Status.UNHEALTHY:
            model.unhealthy_since = math.inf
        elif model.unhealthy_since == math.inf:
            model.unhealthy_since = self.time

    @rule(number=NAMES, checked=st.booleans())
    def register(self, number: int, checked: bool) -> None:
        fields: dict[str, Any] = {"check": TCP} if checked else {}
        _, created = self.directory.put(a_spec(number, **fields), "", at(self.time))
        assert created is (number not in self.model)
        model = self.model.setdefault(number, Model(checked=checked))
        if model.checked is not checked:
            anew = Model(checked=checked)
            model.checked, model.found, model.failures = checked, anew.found, 0
        if not model.held:
            model.leased = not checked
        model.lease = self.time + 30
        self.settle(model)

    @rule(number=NAMES)
    def hold(self, number: int) -> None:
        if entry := self.entry(number):
            self.directory.hold(entry, self, at(self.time))
            model = self.model[number]
            model.held = model.leased = True
            model.lease = self.time + 30

    @rule(number=NAMES, load=st.none() | st.floats(0, 100))
    def renew(self, number: int, load: float | None) -> None:
        if (entry := self.entry(number)) and entry.holder:
            self.directory.renew(entry, at(self.time), load)
            self.model[number].lease = self.time + 30

    @rule(number=NAMES, broken=st.booleans())
    def let_go(self, number: int, broken: bool) -> None:
        if (entry := self.entry(number)) and entry.holder:
            model = self.model[number]
            model.held = False
            if broken:
                self.directory.lose(entry, at(self.time))
                model.lease = min(model.lease, self.time + BROKEN_SECONDS)
            else:
                self.directory.release(entry)

    @rule(number=NAMES, status=st.sampled_from([None, Status.DRAINING, Status.NOT_SERVING]))
    def declare(self, number: int, status: Status | None) -> None:
        if entry := self.entry(number):
            declared = None if status is None else Declared(status, "")
            self.directory.declare(entry, declared, at(self.time))
            self.model[number].declared = status
            self.settle(self.model[number])

    @rule(number=NAMES, verdict=st.sampled_from([PASSED, FAILED, FAILED, OWN_WORD]))
    def judge(self, number: int, verdict: Verdict) -> None:
        if (entry := self.entry(number)) and entry.target:
            self.directory.judge(entry, verdict, at(self.time))
            model = self.model[number]
            model.failures = model.failures + 1 if verdict is FAILED else 0
            if verdict is not FAILED or model.failures >= 3:
                model.found = verdict.status
            self.settle(model)

    @rule(number=NAMES)
    def deregister(self, number: int) -> None:
        if entry := self.entry(number):
            self.directory.remove(entry, RemovalCause.DEREGISTERED, at(self.time))
            del self.model[number]

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 6.0, 7.0, 29.0, 30.0]))
    def wait(self, seconds: float) -> None:
        """Lets time pass, and the directory act whenever it says that it has to."""
        end = self.time + seconds
        while (due := self.directory.next_deadline(at(self.time))) <= end:
            self.time = max(self.time, due)
            self.directory.expire(at(self.time))
        self.time = end
        self.model = {number: model for number, model in self.model.items() if model.deadline > end}

    @invariant()
    def the_directory_is_as_the_model(self) -> None:
        known = {int(entry.instance.spec.id[1:]): entry.instance.status for entry in self.directory}
        assert known == {number: model.status for number, model in self.model.items()}
        assert self.directory.size == len(known)
        assert bool(self.directory.services) is bool(known)

    @invariant()
    def changes_tell_all_with_growing_revisions(self) -> None:
        for change in self.changes:
            self.revision += 1
            assert change.revision == self.revision
            assert change.previous is self.seen.get(change.key)
            if change.cause is None:
                assert change.instance.revision == change.revision
                self.seen[change.key] = change.instance.status
            else:
                del self.seen[change.key]
        self.changes.clear()
        assert self.revision == self.directory.revision
        assert self.seen == {entry.instance.key: entry.instance.status for entry in self.directory}


TestDirectory = DirectoryMachine.TestCase
TestDirectory.settings = settings(max_examples=150, stateful_step_count=40)

"""Which instances this node checks, where nodes share the registry, and what it has found."""

from collections.abc import Collection

from switchboard_server.core.registry.checking import Checker
from switchboard_server.core.registry.entries import Entry, Verdict
from switchboard_server.core.registry.errands import Errands
from switchboard_server.core.registry.model import Key, Status
from switchboard_server.core.registry.ownership import in_charge
from switchboard_server.core.registry.replica import Replica, SharedEntry
from switchboard_server.core.registry.sharing import Judgement, SharedStore, View

MOST = 256
"""Judgements that are passed on at once."""


class Inspector:
    """Has those instances checked of which this node is in charge.

    Args:
        store: Where the registry is kept.
        checker: Runs the checks.
        replica: The instances.
    """

    def __init__(self, store: SharedStore, checker: Checker, replica: Replica) -> None:
        self._store = store
        self._checker = checker
        self._replica = replica
        self._view = View(0, (), 0)
        self._found: dict[Key, Judgement] = {}
        self._errands = Errands()

    @property
    def nodes(self) -> Collection[str]:
        """Who lives, as far as this node knows."""
        return self._view.nodes

    def view(self, view: View) -> None:
        """Takes notice of who lives."""
        self._view = view
        for entry in self._replica.entries():
            self.assign(entry)
        self._errands.nudge()

    def assign(self, entry: SharedEntry, *, fresh: bool = False) -> None:
        """Begins or ends to check an instance, as is this node's part.

        Args:
            entry: The instance.
            fresh: Whether it has only come, so that it is checked at once.
        """
        if entry.target is None:
            return
        node = in_charge(str(entry.instance.key), self._view.nodes)
        mine = node is not None and node == self._store.node
        if mine and not entry.owned:
            entry.owned = True
            entry.generation += 1
            entry.passes = entry.failures = 0
            # Taken over from another node, it may have been checked just now.
            self._checker.begin(entry, scattered=not fresh)
        elif entry.owned and not mine:
            self.forget(entry)

    def forget(self, entry: SharedEntry) -> None:
        """Checks an instance no more."""
        entry.owned = False
        entry.generation += 1
        self._found.pop(entry.instance.key, None)

    def restart(self) -> None:
        """Begins anew: this node was away, and what it found then is stale."""
        self._view = View(0, (), 0)
        for entry in self._replica.entries():
            if entry.owned:
                self.forget(entry)

    def found(self, entry: Entry, verdict: Verdict) -> None:
        """Takes what a check has found."""
        assert isinstance(entry, SharedEntry), "no other is checked"
        if not entry.owned:
            return
        key, birth = entry.instance.key, entry.record.birth
        status = entry.checked.status
        if entry.weigh(verdict):
            if verdict.status is not status:
                self._tell(Judgement(key, birth, verdict))
                return
            self._found.pop(key, None)
        known = verdict.status is not Status.UNHEALTHY or status is Status.UNHEALTHY
        if entry.unconfirmed and known and key not in self._found:
            self._tell(Judgement(key, birth, entry.checked))

    def nudge(self) -> None:
        """The store can be used again."""
        self._errands.nudge()

    async def close(self) -> None:
        """Passes nothing on any more. May be called twice."""
        await self._errands.close()

    def _tell(self, judgement: Judgement) -> None:
        self._found[judgement.key] = judgement
        self._errands.give("judge", self._judge)

    async def _judge(self) -> bool:
        """Passes on what was found; not done where others may be in charge by now."""
        while self._found:
            batch = list(self._found.values())[:MOST]
            if not await self._store.judge(self._view.number, batch):
                return False
            for judgement in batch:
                if self._found.get(judgement.key) is judgement:
                    del self._found[judgement.key]
        return True

"""KeepAlive streams of this node, where nodes share the registry.

A stream holds the lease with a token. As long as it lives nothing is written: the lease is bound to
the node's own, and this node says when the stream has ended or fallen silent. When the node dies,
or is taken for dead, its tokens are void.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import NotFoundError
from switchboard_server.core.registry.directory import BROKEN_SECONDS
from switchboard_server.core.registry.errands import Errands
from switchboard_server.core.registry.leases import Lease
from switchboard_server.core.registry.model import Key, Moment
from switchboard_server.core.registry.registry import taken_over
from switchboard_server.core.registry.replica import SharedEntry
from switchboard_server.core.registry.roster import no_instance
from switchboard_server.core.registry.sharing import Hold, SharedStore
from switchboard_server.core.registry.sweeping import ASLEEP_SECONDS, AWAKE_SECONDS

LOAD_SECONDS = 0.5
"""How often loads are told to other nodes, at most."""


class SharedLease(Lease):
    """Holds the lease of an instance that nodes share.

    Args:
        entry: The instance.
        renew: See `Lease`.
        token: The stream's.

    Attributes:
        entry: The instance.
        address: Where it stood when the stream began.
        tokens: The stream's; the last one is valid, the others were before the node was taken for
            dead.
        heard: When the last request came, monotonic seconds.
        expired: No request came for too long.
        timer: Looks for that.
    """

    def __init__(
        self, entry: SharedEntry, renew: Callable[[Lease, float | None], None], token: str
    ) -> None:
        super().__init__(entry, renew)
        self.entry: SharedEntry = entry
        self.address = entry.instance.spec.address
        self.tokens = [token]
        self.heard = 0.0
        self.expired = False
        self.timer: asyncio.TimerHandle | None = None

    @property
    def seconds(self) -> float:
        """How long it may be silent."""
        return self.entry.instance.spec.lease_ns / SECOND_NS

    def stop(self) -> None:
        """Looks for silence no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Holds:
    """All leases that streams of this node hold.

    Args:
        store: Where the registry is kept.
        now: Tells the time.
    """

    def __init__(self, store: SharedStore, now: Callable[[], Moment]) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._now = now
        self._errands = Errands()
        self._loads: dict[Key, float] = {}
        self._load_timer: asyncio.TimerHandle | None = None

    def begin(self, entry: SharedEntry, token: str, load: float | None) -> SharedLease:
        """Takes note that a stream holds a lease."""
        lease = SharedLease(entry, self._renew, token)
        entry.holder = lease
        self._renew(lease, load)
        self._watch(lease)
        return lease

    def end(self, lease: SharedLease, *, broken: bool) -> None:
        """Takes note that a stream has ended.

        Args:
            lease: What it held.
            broken: Whether it broke, so that the instance goes; else its lease runs on.
        """
        lease.stop()
        entry = lease.entry
        if entry.holder is lease:
            entry.holder = None
            left = max(0.0, lease.heard + lease.seconds - self._loop.time())
            seconds = min(BROKEN_SECONDS, left) if broken else left
            self._let_go(entry.instance.key, lease.tokens, seconds)

    def part(self, key: Key, token: str, seconds: float = BROKEN_SECONDS) -> None:
        """Lets go of what was never taken note of.

        Args:
            key: The instance.
            token: The stream's, which may hold.
            seconds: How long the lease then runs on.
        """
        self._let_go(key, [token], seconds)

    def forget(self, entry: SharedEntry) -> None:
        """Takes note that no stream of this node holds it any more."""
        if isinstance(entry.holder, SharedLease):
            entry.holder.stop()
            entry.holder = entry.record.holder or None

    def compare(self, entry: SharedEntry) -> None:
        """Compares who holds a lease by the store with who does by this node."""
        lease, holder = entry.holder, entry.record.holder
        if not isinstance(lease, SharedLease):
            return
        moved = entry.instance.spec.address != lease.address
        if holder in lease.tokens and not moved:
            return
        if holder or moved:
            lease.end(taken_over(entry.instance.key))
            self.forget(entry)
        elif not lease.expired:
            self._hold(lease)

    def again(self, lease: SharedLease) -> None:
        """Holds a lease with a new token, because the node's tokens are void."""
        if lease.entry.holder is lease:
            lease.tokens.append(self._store.token())
            self._hold(lease)
            if lease.entry.load is not None:
                self._tell_load(lease.entry.instance.key, lease.entry.load)

    def nudge(self) -> None:
        """The store can be used again."""
        self._errands.nudge()

    async def close(self, seconds: float) -> None:
        """Lets go of what is left, for so long at most."""
        if self._load_timer is not None:
            self._load_timer.cancel()
        await self._errands.settle(seconds)
        await self._errands.close()

    def _let_go(self, key: Key, tokens: list[str], seconds: float) -> None:
        async def errand() -> bool:
            for token in reversed(tokens):
                await self._store.let_go(key, token, seconds)
            return True

        self._errands.cancel(("hold", key, tokens[0]))
        self._errands.give(("go", key, tokens[0]), errand)

    def _hold(self, lease: SharedLease) -> None:
        key = lease.entry.instance.key
        self._errands.cancel(("go", key, lease.tokens[0]))
        self._errands.give(("hold", key, lease.tokens[0]), partial(self._held, lease))

    async def _held(self, lease: SharedLease) -> bool:
        key, token = lease.entry.instance.key, lease.tokens[-1]
        if lease.entry.holder is not lease:
            return True
        try:
            before = Hold(lease.tokens, lease.entry.record.birth)
            record = await self._store.hold(key, token, before)
        except NotFoundError:
            lease.end(no_instance(key))
            return True
        if record is None:
            lease.end(taken_over(key))
        elif lease.entry.holder is not lease:
            # It ended meanwhile, and what it said then may have come too early.
            self._let_go(key, [token], BROKEN_SECONDS)
        return True

    def _renew(self, lease: Lease, load: float | None) -> None:
        assert isinstance(lease, SharedLease), "this is who makes them"
        entry = lease.entry
        if entry.holder is not lease:
            return
        now = self._now()
        lease.heard = now.seconds
        entry.lease_until = now.seconds + lease.seconds
        if lease.expired:
            lease.expired = False
            self._hold(lease)
            self._watch(lease)
        if load is not None and load != entry.load:
            entry.load = load
            self._tell_load(entry.instance.key, load)

    def _watch(self, lease: SharedLease) -> None:
        due = lease.heard + lease.seconds
        lease.timer = self._loop.call_at(due, self._look, lease, due)

    def _look(self, lease: SharedLease, due: float) -> None:
        late = self._loop.time() - due
        if late >= ASLEEP_SECONDS:
            # This node was away, and nobody is to blame: requests may lie in the socket.
            lease.heard += late + AWAKE_SECONDS
        if lease.heard + lease.seconds > self._loop.time():
            self._watch(lease)
        elif lease.entry.holder is lease:
            lease.expired = True
            lease.timer = None
            self._let_go(lease.entry.instance.key, lease.tokens, 0.0)

    def _tell_load(self, key: Key, load: float) -> None:
        self._loads[key] = load
        if self._load_timer is None:
            self._load_timer = self._loop.call_later(LOAD_SECONDS, self._tell_loads)

    def _tell_loads(self) -> None:
        self._load_timer = None
        self._errands.give("loads", self._report)

    async def _report(self) -> bool:
        loads, self._loads = self._loads, {}
        try:
            if loads:
                await self._store.report(loads)
        except BaseException:
            self._loads = {**loads, **self._loads}
            raise
        return True

"""What a registry that nodes share asks of the place where it is kept.

The place decides: each call to it is done as a whole, one after the other for all nodes, and what
it changes has the next revision. It tells every node of every write, in order; a node keeps a copy
of all (`Replica`) and answers from that.

Time in there is the registry's own: it stands still while the place cannot be used, so that nobody
runs out meanwhile, and does not jump with a clock that is set.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from switchboard_server.core.registry.entries import Declared, Verdict
from switchboard_server.core.registry.model import (
    Instance,
    Key,
    Registration,
    RemovalCause,
    Status,
)


@dataclass(frozen=True, slots=True)
class Record:
    """An instance as the nodes share it.

    Args:
        instance: As others see it.
        declared: What SetStatus said of it; None: nothing.
        checked: What the check says.
        leased: Whether it goes when its lease ends.
        holder: Token of the KeepAlive stream that holds the lease; empty: none does.
        birth: Grows when the check begins anew, so that a verdict of before is known as such.
        lease_expire_ns: When the lease ends unless a stream holds it, Unix nanoseconds.
        unhealthy_until_ns: When it is removed for being unhealthy, Unix nanoseconds; None: it is
            not.
        unconfirmed: Its eviction is withheld.
        stamp: Grows with every write of any instance, those included that make no revision.
    """

    instance: Instance
    declared: Declared | None
    checked: Verdict
    leased: bool
    holder: str
    birth: int
    lease_expire_ns: int
    unhealthy_until_ns: int | None
    unconfirmed: bool
    stamp: int


@dataclass(frozen=True, slots=True)
class SharedChange:
    """What happened to one instance, at one revision.

    Args:
        revision: The registry's revision with it.
        record: The instance as it is now; of one that was removed, as it was last.
        previous: The status before; None: it was not there.
        cause: Why it was removed; None: it is there.
        quiet: See `Change.quiet`.
        age: How long ago it happened, in seconds.
    """

    revision: int
    record: Record
    previous: Status | None
    cause: RemovalCause | None
    quiet: bool
    age: float


@dataclass(frozen=True, slots=True)
class View:
    """Which nodes live.

    Args:
        number: Another one for each view; what a node does as the one in charge names the view in
            which it was.
        nodes: Their names.
        announced: Changes up to this revision were published as events.
    """

    number: int
    nodes: Collection[str]
    announced: int


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a node puts back when the place has lost it.

    Args:
        revision: The revision up to which it knows everything.
        oldest: The lowest revision after which it knows what was removed.
        records: The instances, those first for which the node itself can speak.
        own: How many those are.
        removed: What was removed after `oldest`, and at which revision.
    """

    revision: int
    oldest: int
    records: Sequence[Record]
    own: int
    removed: Mapping[Key, int]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a node has found of an instance that it checks.

    Args:
        key: The instance.
        birth: As of its `Record`.
        verdict: What was found, often enough.
    """

    key: Key
    birth: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Hold:
    """The hold that a stream has had.

    Args:
        tokens: Those under which it held.
        birth: Of the instance that it held, as of its `Record`.
    """

    tokens: Collection[str]
    birth: int


class SharedHandler(Protocol):
    """Who is told. The methods are called in the event loop and neither block nor raise."""

    def loaded(
        self, revision: int, records: Sequence[Record], changes: Sequence[SharedChange]
    ) -> None:
        """Everything is known now, or again, whatever was known before.

        Args:
            revision: The registry's revision.
            records: All instances; some may be newer than the revision: their changes follow.
            changes: The last ones, up to the revision, without a gap.
        """
        ...

    def changed(self, change: SharedChange) -> None:
        """An instance has changed; revisions come one after the other, without a gap."""
        ...

    def touched(self, record: Record) -> None:
        """Something without a revision is known of an instance: its lease, or who holds it.

        What is older than what is known, or newer than the revision, is to be ignored.
        """
        ...

    def renewed(self, key: Key, lease_expire_ns: int, stamp: int) -> None:
        """An instance was heard of, nothing else."""
        ...

    def loads(self, loads: Mapping[Key, float]) -> None:
        """Instances have reported their loads, wherever that was."""
        ...

    def viewed(self, view: View) -> None:
        """Other nodes live than before, or this one lives anew."""
        ...

    def joined(self) -> None:
        """This node was taken for dead, or what it held is lost: it says again what it holds."""
        ...

    def withheld(self, since_ns: int, count: int) -> None:
        """Eviction is withheld since then, Unix nanoseconds (0: it is not), for so many."""
        ...

    def reported(self, problem: str | None) -> None:
        """The place cannot be used, and why; None: it can again."""
        ...

    def knowledge(self) -> Knowledge:
        """All that is known."""
        ...

    def announced(self) -> int | None:
        """Up to which revision this node has published changes; None: it does not publish them."""
        ...


@dataclass(frozen=True, slots=True)
class SharedCapabilities:
    """What a place promises, read by the conformance tests.

    Args:
        name: Name of the place.
        survives_restart: Whether instances are there again when all nodes were restarted.
    """

    name: str
    survives_restart: bool


class SharedStore(Protocol):
    """The place where nodes share a registry.

    Every coroutine raises UnavailableError (reason REGISTRY_UNAVAILABLE) where the place cannot be
    used; what was asked may then have been done. They may be called concurrently. Cancelling one
    does not take back what it asked for. Nothing may be asked before `SharedHandler.loaded`.
    """

    @property
    def capabilities(self) -> SharedCapabilities:
        """What this place promises."""
        ...

    @property
    def node(self) -> str:
        """Name of this node; another one of the same cluster has another."""
        ...

    @property
    def alive(self) -> bool:
        """Whether this node can be sure that the others take it for alive."""
        ...

    async def open(self, handler: SharedHandler) -> None:
        """Begins to follow; `loaded` is called before it returns, if the place can be used.

        Args:
            handler: Is told.
        """
        ...

    async def register(
        self, spec: Registration, registrant: str, max_instances: int
    ) -> tuple[Record, bool]:
        """Registers an instance or renews its registration; see `Directory.put`.

        Args:
            spec: With defaults filled in.
            registrant: Subject of the caller.
            max_instances: Most instances that may be registered.

        Returns:
            The instance, and whether it was not there before.

        Raises:
            AlreadyExistsError: An instance with its id stands at another address.
            ResourceExhaustedError: There are as many instances as there may be.
        """
        ...

    def token(self) -> str:
        """A new token for a stream of this node."""
        ...

    async def hold(self, key: Key, token: str, before: Hold | None = None) -> Record | None:
        """Lets a stream of this node hold the lease from now on, for as long as both live.

        Args:
            key: The instance.
            token: The stream's.
            before: Only if it is the instance that the stream has held, and no other stream holds
                it; None: whatever stands under the id now, and whoever holds it.

        Returns:
            The instance; None: another stream holds it, or it is another one.

        Raises:
            NotFoundError: There is no such instance.
        """
        ...

    async def let_go(self, key: Key, token: str, seconds: float) -> None:
        """Ends the hold of a stream; nothing happens where it does not hold.

        Args:
            key: The instance.
            token: The stream's.
            seconds: How long the lease then runs on.
        """
        ...

    async def remove(self, key: Key) -> int:
        """Removes an instance because it was deregistered.

        Returns:
            The revision without it.

        Raises:
            NotFoundError: There is none.
        """
        ...

    async def declare(self, key: Key, declared: Declared | None) -> Record:
        """Sets what SetStatus says; None: the check decides again.

        Raises:
            NotFoundError: There is none.
        """
        ...

    async def judge(self, view: int, judgements: Sequence[Judgement]) -> bool:
        """Takes in what checks have found.

        Args:
            view: The view in which this node was the one to check them.
            judgements: What was found; one of an earlier birth is ignored.

        Returns:
            Whether it was taken; False: other nodes live now, so others may be in charge.
        """
        ...

    async def report(self, loads: Mapping[Key, float]) -> None:
        """Tells all nodes what instances have reported as their loads."""
        ...

    async def close(self) -> None:
        """Says that this node leaves, and follows no more. May be called twice."""
        ...

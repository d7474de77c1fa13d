"""What the registry asks of others: to keep instances over a restart, and to try them."""

from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from switchboard_server.core.registry.entries import Declared, Verdict
from switchboard_server.core.registry.model import Instance, Key
from switchboard_server.core.registry.targets import Target


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """An instance as it is kept.

    Args:
        instance: As others saw it.
        declared: What SetStatus said of it; None: nothing.
        leased: Whether it goes when its lease ends.
    """

    instance: Instance
    declared: Declared | None
    leased: bool


@dataclass(frozen=True, slots=True)
class StoredRegistry:
    """A registry as it was found.

    Args:
        instances: What was registered.
        revision: The highest revision that was saved; 0: the registry is new.
        complete: Whether it was closed in order, so that no higher revision was ever told.
    """

    instances: Sequence[StoredInstance] = ()
    revision: int = 0
    complete: bool = True


@dataclass(frozen=True, slots=True)
class RegistryCapabilities:
    """What a store promises, read by the conformance tests.

    Args:
        name: Name of the store.
        survives_restart: Whether a new process finds the instances again.
    """

    name: str
    survives_restart: bool


class RegistryStore(Protocol):
    """Keeps the instances. Called in one event loop, one save after the other."""

    @property
    def capabilities(self) -> RegistryCapabilities:
        """What this store promises."""
        ...

    async def open(self) -> StoredRegistry:
        """Makes the store ready, and reads what it holds.

        Raises:
            UnavailableError: It cannot be opened; the message says why and what to do.
        """
        ...

    def save(
        self, instances: Sequence[StoredInstance], removed: Sequence[Key], revision: int
    ) -> Future[None]:
        """Keeps instances, each in the place of the one with its key, and forgets others.

        Args:
            instances: What is to be kept.
            removed: What is to be forgotten; an instance that is not there is no error.
            revision: The registry's revision with all of it.

        Returns:
            Answers when all of it is durable. Fails with UnavailableError, and then none of it is.
        """
        ...

    async def close(self, *, complete: bool) -> None:
        """Lets go of everything. May be called twice.

        Args:
            complete: Whether everything that was told to anybody has been saved.
        """
        ...


class Prober(Protocol):
    """Tries instances."""

    async def admit(self, target: Target) -> None:
        """Checks that an instance may be tried there.

        A name that cannot be resolved now is let pass: it is resolved again at each check.

        Raises:
            PermissionDeniedError: The hub may not call this address.
        """
        ...

    async def probe(self, target: Target, seconds: float) -> Verdict:
        """Tries an instance.

        Every failure is a verdict. Safe to cancel and to call concurrently.

        Args:
            target: Where.
            seconds: After which it has failed.
        """
        ...

    async def close(self) -> None:
        """Lets go of connections. May be called twice."""
        ...

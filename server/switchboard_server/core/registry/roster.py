"""Who is registered, to be looked up: what every registry has, whoever decides in it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from switchboard_server.core.errors import NotFoundError
from switchboard_server.core.registry.entries import Entry
from switchboard_server.core.registry.model import Key, Registration


class Service:
    """All instances of one name.

    Attributes:
        entries: By their ids.
        version: Revision of the last change to one of them.
    """

    __slots__ = ("entries", "name", "version")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[str, Entry] = {}
        self.version = 0


class Roster(ABC):
    """Instances by service and id.

    Args:
        revision: Revision to go on from.

    Attributes:
        services: By their names; none is empty.
        revision: Grows with every change.
        size: How many instances there are.
    """

    def __init__(self, revision: int = 0) -> None:
        self.services: dict[str, Service] = {}
        self.revision = revision
        self.size = 0

    def __iter__(self) -> Iterator[Entry]:
        """All entries."""
        for service in self.services.values():
            yield from service.entries.values()

    @property
    @abstractmethod
    def preserving_since_ns(self) -> int:
        """Since when eviction is withheld, Unix nanoseconds; 0: it is not."""

    @property
    @abstractmethod
    def withheld(self) -> int:
        """How many instances stand that would else be gone."""

    @property
    def preserving(self) -> bool:
        """Whether eviction is withheld now."""
        return self.preserving_since_ns != 0

    def find(self, key: Key) -> Entry | None:
        """An instance; None: there is none."""
        service = self.services.get(key.service)
        return None if service is None else service.entries.get(key.id)

    def get(self, key: Key) -> Entry:
        """An instance.

        Raises:
            NotFoundError: There is none.
        """
        entry = self.find(key)
        if entry is None:
            raise no_instance(key)
        return entry

    def _add(self, entry: Entry, spec: Registration) -> None:
        service = self.services.get(spec.service)
        if service is None:
            service = self.services[spec.service] = Service(spec.service)
        service.entries[spec.id] = entry
        service.version = self.revision
        self.size += 1

    def _take_out(self, key: Key) -> Service:
        """Takes an instance out that is there; its service is the caller's to number."""
        service = self.services[key.service]
        del service.entries[key.id]
        if not service.entries:
            del self.services[service.name]
        self.size -= 1
        return service


def no_instance(key: Key) -> NotFoundError:
    """The error for an instance that is not there."""
    return NotFoundError(
        "INSTANCE_NOT_FOUND", f"there is no instance {key}; it may have run out: register it"
    )

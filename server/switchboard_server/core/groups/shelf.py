"""The groups that a hub has, by their names and by what they receive."""

from collections.abc import Iterator

from switchboard_server.core.errors import NotFoundError
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.config import validate_name
from switchboard_server.core.groups.group import Group


class Shelf:
    """Holds groups."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}
        self._by_filter: dict[Filter, dict[Group, None]] = {}

    def find(self, name: str) -> Group:
        """A group by its name.

        Raises:
            InvalidArgumentError: That is no name.
            NotFoundError: There is none.
        """
        validate_name(name)
        group = self._groups.get(name)
        if group is None:
            raise unknown(name)
        return group

    def names(self) -> list[str]:
        """The names of all groups, in order."""
        return sorted(self._groups)

    def in_order(self) -> Iterator[Group]:
        """All groups, in the order of their names; none may come or go meanwhile."""
        return (self._groups[name] for name in self.names())

    def count(self, wish: Filter) -> int:
        """How many groups have a filter."""
        return len(self._by_filter.get(wish, ()))

    def deaf(self, wish: Filter) -> int:
        """How many groups with a filter have no member that would get anything new."""
        return sum(
            all(holder.draining for holder in group.ledger.holders)
            for group in self._by_filter.get(wish, ())
        )

    def _put(self, group: Group) -> None:
        self._groups[group.record.name] = group
        self._by_filter.setdefault(group.filter, {})[group] = None

    def _drop(self, group: Group) -> None:
        del self._groups[group.record.name]
        alike = self._by_filter[group.filter]
        del alike[group]
        if not alike:
            del self._by_filter[group.filter]


def unknown(name: str) -> NotFoundError:
    """The error for a group that does not exist."""
    return NotFoundError(
        "GROUP_NOT_FOUND", f"there is no group {name!r}; a Subscribe that names it makes it"
    )

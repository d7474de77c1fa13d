"""Errors on their way from one node to another."""

from __future__ import annotations  # a form names its own class

from collections.abc import Mapping
from dataclasses import dataclass

from switchboard_server.core import errors
from switchboard_server.core.errors import SwitchboardError, Violation

KINDS: Mapping[str, type[SwitchboardError]] = {
    name: each
    for name, each in vars(errors).items()
    if isinstance(each, type) and issubclass(each, SwitchboardError)
}
"""The classes of errors, by their names."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A `SwitchboardError` as plain data, for any codec of dataclasses.

    Args:
        kind: Name of its class, or of the nearest base of it in `core.errors`.
        reason: See `SwitchboardError`.
        message: Likewise.
        violations: Likewise, each with its field and its description.
        metadata: Likewise.
    """

    kind: str
    reason: str
    message: str
    violations: tuple[tuple[str, str], ...]
    metadata: dict[str, str]

    @staticmethod
    def of(error: SwitchboardError) -> Failure:
        """An error as it travels."""
        return Failure(
            next(each.__name__ for each in type(error).__mro__ if each.__name__ in KINDS),
            error.reason,
            error.message,
            tuple((each.field, each.description) for each in error.violations),
            error.metadata,
        )

    def error(self) -> SwitchboardError:
        """The error as it was; of a class that only a later version knows, a plain one."""
        return KINDS.get(self.kind, SwitchboardError)(
            self.reason,
            self.message,
            violations=[Violation(*each) for each in self.violations],
            metadata=self.metadata,
        )

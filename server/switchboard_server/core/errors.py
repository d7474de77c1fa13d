"""What can go wrong in a use case, for every door to map in one table.

    SwitchboardError
    ├── InvalidArgumentError      the caller sent something that can never work
    ├── OutOfRangeError           a position beyond the end of the log
    ├── UnauthenticatedError      who are you
    ├── PermissionDeniedError     you may not
    ├── NotFoundError             no such thing
    ├── AlreadyExistsError        the name is taken
    ├── FailedPreconditionError   not in this state
    ├── AbortedError              somebody else took the place
    ├── ResourceExhaustedError    a limit is reached; later, or less of it
    ├── UnavailableError          not now; try again
    ├── DeadlineExceededError     it took longer than the caller would wait
    ├── DataLossError             stored data cannot be read back
    └── UnimplementedError        this hub does not serve it

`reason` is the name of a `switchboard.v1.ErrorReason` without its prefix. Programs match on it; the
message is for people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of the caller's input that is not allowed, and the remedy."""

    field: str
    description: str


class SwitchboardError(Exception):
    """Base of all errors that a use case raises on purpose.

    Args:
        reason: Name of an `ErrorReason` without its prefix, such as "LOG_UNAVAILABLE".
        message: What happened and what to do about it, in a sentence.
        violations: The fields that are to blame, for bad input.
        metadata: Facts that the reason's comment in the proto promises.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})


class InvalidArgumentError(SwitchboardError):
    """The caller sent something that can never work."""


class OutOfRangeError(SwitchboardError):
    """A position lies beyond the end of the log."""


class UnauthenticatedError(SwitchboardError):
    """The caller did not say who it is, or not so that it can be believed."""


class PermissionDeniedError(SwitchboardError):
    """The caller is known and may not do this."""


class NotFoundError(SwitchboardError):
    """What the caller names does not exist."""


class AlreadyExistsError(SwitchboardError):
    """What the caller wants to make exists, and differs."""


class FailedPreconditionError(SwitchboardError):
    """The thing exists in a state in which the call makes no sense."""


class AbortedError(SwitchboardError):
    """Somebody else took the caller's place."""


class ResourceExhaustedError(SwitchboardError):
    """A limit is reached."""


class UnavailableError(SwitchboardError):
    """The hub cannot do it now; the same call may work later."""


class DeadlineExceededError(SwitchboardError):
    """It took longer than the caller would wait."""


class DataLossError(SwitchboardError):
    """Stored data cannot be read back as it was written."""


class UnimplementedError(SwitchboardError):
    """This hub does not serve the call."""


def entry_of(table: Mapping[type[SwitchboardError], T], error: SwitchboardError) -> T | None:
    """What a table has for an error: that for its class, or for the nearest base of it.

    Args:
        table: Has something for each class of this module.
        error: The error; a backend may have made a class of its own of one of these.
    """
    return next((table[kind] for kind in type(error).__mro__ if kind in table), None)


def invalid_field(
    field: str, description: str, *, reason: str = "INVALID_FIELD"
) -> InvalidArgumentError:
    """Makes the error for one bad field.

    Args:
        field: Path of the field in the request, such as "event.type".
        description: What is wrong and what is allowed.
        reason: The error reason.
    """
    return InvalidArgumentError(
        reason, f"{field}: {description}", violations=[Violation(field, description)]
    )


def limit_reached(problem: str, limit: int, setting: str = "") -> ResourceExhaustedError:
    """Makes the error for one more of something than there may be.

    Args:
        problem: What there is already and what to do about it, for people.
        limit: How many there may be.
        setting: What raises the limit; empty: nothing does.
    """
    metadata = {"limit": str(limit)} | ({"setting": setting} if setting else {})
    return ResourceExhaustedError("LIMIT_REACHED", problem, metadata=metadata)


def shutting_down() -> UnavailableError:
    """Makes the error for what comes, or is still there, when the hub shuts down."""
    return UnavailableError("SHUTTING_DOWN", "the hub shuts down; connect again in a moment")


def too_large(
    field: str, actual: int, limit: int, unit: str, advice: str = ""
) -> InvalidArgumentError:
    """Makes the error for a field with more of something than is allowed.

    Args:
        field: Path of the field in the request; empty: the whole of it.
        actual: How many there are.
        limit: How many there may be.
        unit: Of what, such as "entries".
        advice: What to do instead, for people.
    """
    problem = f"has {actual} {unit}, at most {limit} are allowed"
    text = f"{problem}; {advice}" if advice else problem
    return InvalidArgumentError(
        "TOO_LARGE",
        f"{field}: {text}",
        violations=[Violation(field, problem)],
        metadata={"limit": str(limit), "actual": str(actual)},
    )

"""Core errors as the bridge tells them: the name of the gRPC status, and how a connection ends."""

from collections.abc import Mapping

from switchboard_server.core import errors
from switchboard_server.core.errors import SwitchboardError, entry_of

CODES: dict[type[SwitchboardError], str] = {
    errors.InvalidArgumentError: "INVALID_ARGUMENT",
    errors.OutOfRangeError: "OUT_OF_RANGE",
    errors.UnauthenticatedError: "UNAUTHENTICATED",
    errors.PermissionDeniedError: "PERMISSION_DENIED",
    errors.NotFoundError: "NOT_FOUND",
    errors.AlreadyExistsError: "ALREADY_EXISTS",
    errors.FailedPreconditionError: "FAILED_PRECONDITION",
    errors.AbortedError: "ABORTED",
    errors.ResourceExhaustedError: "RESOURCE_EXHAUSTED",
    errors.UnavailableError: "UNAVAILABLE",
    errors.DeadlineExceededError: "DEADLINE_EXCEEDED",
    errors.DataLossError: "DATA_LOSS",
    errors.UnimplementedError: "UNIMPLEMENTED",
}
"""The code of each error."""

PING_TIMEOUT = 4004
"""Close code where nothing was heard from the client."""
INTERNAL = 4005
"""Close code for what is no fault of the client's."""

_WELCOME_BACK = 4003
_MALFORMED = 4504

CLOSE_CODES: Mapping[str, int] = {
    "SHUTTING_DOWN": 4000,
    "SLOW_CONSUMER": 4001,
    "TOKEN_EXPIRED": 4002,
    "INTERNAL": INTERNAL,
    "LIMIT_REACHED": 4006,
    "ROOM_INTERRUPTED": 4007,
    "REALTIME_UNAVAILABLE": 4008,
    "CONNECTION_REPLACED": 4500,
    "CONNECTION_CLOSED": 4501,
    "TOKEN_MISSING": 4502,
    "TOKEN_INVALID": 4502,
    "PERMISSION_DENIED": 4503,
    "MALFORMED_REQUEST": _MALFORMED,
    "RATE_LIMITED": 4505,
}
"""By an error's reason, the close code of a connection that ends with it. Below 4500 the client is
to come back, from 4500 on it is not to do so by itself."""

_MAX_REASON_BYTES = 123


def code_of(error: SwitchboardError) -> str:
    """The code of an error."""
    return entry_of(CODES, error) or "INTERNAL"


def closing(error: SwitchboardError) -> tuple[int, str]:
    """Close code and reason of a connection that ends with an error."""
    code = CLOSE_CODES.get(error.reason, INTERNAL)
    reason = error.reason if error.reason in CLOSE_CODES else "INTERNAL"
    if code == _MALFORMED:
        # Of frames, not of a request: the connection ends because they were not even that.
        reason = "MALFORMED_FRAME"
    if error.reason == "CONNECTION_CLOSED":
        if error.metadata.get("reconnect") == "true":
            code = _WELCOME_BACK
        reason = error.metadata.get("reason") or reason
    # RFC 6455 section 5.5: 125 bytes for a close frame, two of them for the code.
    return code, reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")

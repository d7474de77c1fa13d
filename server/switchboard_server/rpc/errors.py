"""Core errors as gRPC statuses: one table, and the richer error model in the trailers.

https://google.aip.dev/193
"""

from __future__ import annotations  # grpc's classes take type arguments in its stubs only

import asyncio
import logging
import secrets
from typing import NoReturn

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from switchboard.v1 import errors_pb2, event_service_pb2
from switchboard_server.core import errors
from switchboard_server.core.errors import SwitchboardError

DOMAIN = "switchboard.v1"
"""`domain` of every ErrorInfo."""
ABORT_SECONDS = 5.0
"""How long the end of a stream may wait behind data that its client does not read."""

CODES: dict[type[SwitchboardError], grpc.StatusCode] = {
    errors.InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.OutOfRangeError: grpc.StatusCode.OUT_OF_RANGE,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AbortedError: grpc.StatusCode.ABORTED,
    errors.ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DataLossError: grpc.StatusCode.DATA_LOSS,
    errors.UnimplementedError: grpc.StatusCode.UNIMPLEMENTED,
}
"""The status of each error."""

_RPC_CODES = {code.name: getattr(code_pb2, code.name) for code in grpc.StatusCode}
_logger = logging.getLogger(__name__)


class InternalError(SwitchboardError):
    """A defect of the hub; the log has the particulars under the incident's name."""


def as_switchboard_error(error: Exception, method: str) -> SwitchboardError:
    """What the caller is told of any exception; a defect goes to the log.

    Args:
        error: What was raised.
        method: Name of the rpc.
    """
    if isinstance(error, SwitchboardError):
        return error
    incident = secrets.token_hex(4)
    _logger.error("incident %s in %s", incident, method, exc_info=error)
    return InternalError(
        "INTERNAL",
        f"the hub has a defect; its log tells more of incident {incident}",
        metadata={"incident": incident},
    )


def code_of(error: SwitchboardError) -> grpc.StatusCode:
    """The status code of an error."""
    return CODES.get(type(error), grpc.StatusCode.INTERNAL)


def status_details(error: SwitchboardError) -> bytes:
    """The `google.rpc.Status` for the trailer `grpc-status-details-bin`."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    ]
    if error.violations:
        violation = error_details_pb2.BadRequest.FieldViolation
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    violation(field=each.field, description=each.description)
                    for each in error.violations
                ]
            )
        )
    status = status_pb2.Status(code=_RPC_CODES[code_of(error).name], message=error.message)
    for detail in details:
        status.details.add().Pack(detail)
    encoded: bytes = status.SerializeToString()
    return encoded


def publish_error(error: SwitchboardError) -> event_service_pb2.PublishError:
    """An error of one event among several."""
    return event_service_pb2.PublishError(
        reason=errors_pb2.ErrorReason.Value(f"ERROR_REASON_{error.reason}"),
        field=error.violations[0].field if error.violations else "",
        message=error.message,
    )


async def abort(
    context: grpc.aio.ServicerContext[bytes, bytes], error: SwitchboardError
) -> NoReturn:
    """Ends the rpc with an error; cancels it where its client does not even take the status."""
    try:
        # The end of a stream waits behind what the client has not read yet, which may be for ever.
        async with asyncio.timeout(ABORT_SECONDS):
            await context.abort(
                code_of(error),
                error.message,
                (("grpc-status-details-bin", status_details(error)),),
            )
    except TimeoutError:
        raise asyncio.CancelledError from error

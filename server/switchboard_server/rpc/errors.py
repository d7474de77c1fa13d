"""Core errors as gRPC statuses: one table, and the richer error model in the trailers.

https://google.aip.dev/193
"""

from __future__ import annotations  # grpc's classes take type arguments in its stubs only

import asyncio
from typing import NoReturn

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from switchboard_server.core import errors
from switchboard_server.core.errors import SwitchboardError, entry_of

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
    errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.DataLossError: grpc.StatusCode.DATA_LOSS,
    errors.UnimplementedError: grpc.StatusCode.UNIMPLEMENTED,
}
"""The status of each error."""

_RPC_CODES = {code.name: getattr(code_pb2, code.name) for code in grpc.StatusCode}


def code_of(error: SwitchboardError) -> grpc.StatusCode:
    """The status code of an error."""
    return entry_of(CODES, error) or grpc.StatusCode.INTERNAL


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
    except (TimeoutError, grpc.aio.InternalError):
        # The latter where the client goes away meanwhile.
        raise asyncio.CancelledError from error

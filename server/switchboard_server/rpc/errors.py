"""Core errors as gRPC statuses: one table, and the richer error model in the trailers.

https://google.aip.dev/193
"""

from __future__ import annotations  # grpc's classes take type arguments in its stubs only

import asyncio
from collections.abc import Iterable
from typing import NoReturn

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from switchboard_server.core import errors
from switchboard_server.core.errors import SwitchboardError, Violation, entry_of

DOMAIN = "switchboard.v1"
"""`domain` of every ErrorInfo."""
ABORT_SECONDS = 5.0
"""How long the end of a stream may wait behind data that its client does not read."""
MAX_BYTES = 1000
"""Most bytes of an error's text, of its metadata, and of its violations. A client takes 8 KiB of
trailers, where the text stands twice, once with up to three bytes for each; beyond them it reports
another error."""

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
    room = MAX_BYTES // max(1, len(error.metadata))
    metadata = {name: _cut(value, room) for name, value in error.metadata.items()}
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    ]
    if error.violations:
        details.append(_bad_request(error.violations))
    status = status_pb2.Status(
        code=_RPC_CODES[code_of(error).name], message=_cut(error.message, MAX_BYTES)
    )
    for detail in details:
        status.details.add().Pack(detail)
    encoded: bytes = status.SerializeToString()
    return encoded


def _bad_request(violations: Iterable[Violation]) -> error_details_pb2.BadRequest:
    told, room = error_details_pb2.BadRequest(), MAX_BYTES
    for each in violations:
        field, description = _cut(each.field, MAX_BYTES), _cut(each.description, MAX_BYTES)
        room -= len(field.encode()) + len(description.encode())
        if room < 0 and told.field_violations:
            break
        told.field_violations.add(field=field, description=description)
    return told


def _cut(text: str, size: int) -> str:
    """A text, or as much of it as fits into some bytes."""
    encoded = text.encode()
    if len(encoded) <= size:
        return text
    return encoded[: max(0, size - 3)].decode(errors="ignore") + "…"


async def abort(
    context: grpc.aio.ServicerContext[bytes, bytes], error: SwitchboardError
) -> NoReturn:
    """Ends the rpc with an error; cancels it where its client does not even take the status."""
    try:
        # The end of a stream waits behind what the client has not read yet, which may be for ever.
        async with asyncio.timeout(ABORT_SECONDS):
            await context.abort(
                code_of(error),
                _cut(error.message, MAX_BYTES),
                (("grpc-status-details-bin", status_details(error)),),
            )
    except (TimeoutError, grpc.aio.InternalError):
        # The latter where the client goes away meanwhile.
        raise asyncio.CancelledError from error

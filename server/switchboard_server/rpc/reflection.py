"""Server reflection v1 and v1alpha, by which grpcurl learns the services.

The two versions have the same messages under other names, so one servicer serves both
(https://github.com/grpc/grpc/blob/master/doc/server-reflection.md).
"""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2

_ALPHA = reflection.SERVICE_NAME
_STABLE = _ALPHA.replace("v1alpha", "v1")


def enable(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Registers reflection.

    Args:
        server: The server.
        services: Full names of the other services that it serves.
    """
    _describe_stable()
    servicer = reflection.aio.ReflectionServicer([*services, _STABLE, _ALPHA], pool=_Pool())
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
            for name in (_STABLE, _ALPHA)
        )
    )


class _Pool:
    """The default pool of descriptions, where methods are found by their names too."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        """What else the library asks of a pool."""
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - the pool's
        """The file that declares a symbol. KeyError: none does."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            # The pool leaves out methods, which grpcurl lists and so is asked to describe.
            return self._pool.FindMethodByName(symbol).containing_service.file


def _describe_stable() -> None:
    """Adds the description of v1, which grpcio-reflection lacks, to the pool that is reflected."""
    pool = descriptor_pool.Default()
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = "grpc.reflection.v1"
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace("v1alpha", "v1")
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace("v1alpha", "v1")
            method.output_type = method.output_type.replace("v1alpha", "v1")
    pool.AddSerializedFile(file.SerializeToString())

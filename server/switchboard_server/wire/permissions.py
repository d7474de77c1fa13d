"""The permission that an rpc asks for, which its proto says."""

from google.protobuf.descriptor import MethodDescriptor

from switchboard.v1 import options_pb2
from switchboard_server.core.principal import PERMISSIONS


def permission_of(method: MethodDescriptor) -> str:
    """The permission that the option of an rpc names.

    Raises:
        ValueError: It has none, or one that is unknown.
    """
    permission: str = method.GetOptions().Extensions[options_pb2.permission]
    if permission not in PERMISSIONS:
        raise ValueError(
            f"rpc {method.full_name} has the permission {permission!r}; set the option "
            f"switchboard.v1.permission to one of {', '.join(PERMISSIONS)}"
        )
    return permission

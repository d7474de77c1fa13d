"""Switchboard's Python SDK.

`switchboard.v1` holds the messages and stubs that are generated from `protos/switchboard/v1`. They
are all that a client needs:

    from switchboard.v1 import event_service_pb2_grpc
"""

from importlib.metadata import version

__version__ = version("switchboard-mesh")
"""The version of the installed distribution, such as `0.1.0`."""

__all__ = ["__version__"]

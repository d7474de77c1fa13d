"""The Switchboard hub: a gRPC-first messaging hub and service directory in one process."""

from importlib.metadata import version

__version__ = version("switchboard-mesh")
"""The version of the installed distribution, such as `0.1.0`."""

__all__ = ["__version__"]

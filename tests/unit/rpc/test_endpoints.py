"""The table of rpcs, against the protos as they are written."""

import re
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

import switchboard_server
from switchboard_server.core.principal import PERMISSIONS
from switchboard_server.rpc.endpoints import SERVICES, ApiHandler, endpoints

PROTOS = Path(switchboard_server.__file__).parents[2] / "protos/switchboard/v1"
_SERVICE = re.compile(r"^service (\w+) \{(.*?)^\}", re.MULTILINE | re.DOTALL)
_RPC = re.compile(
    r"rpc (\w+)\((stream )?\w+\) returns \((stream )?\w+\) \{\s*"
    r'option \(switchboard\.v1\.permission\) = "([^"]*)";'
)


def written() -> dict[str, tuple[str, bool, bool]]:
    """Every rpc of the proto files: its permission, and who streams."""
    return {
        f"/switchboard.v1.{service}/{name}": (permission, bool(client), bool(server))
        for path in PROTOS.glob("*.proto")
        for service, body in _SERVICE.findall(path.read_text())
        for name, client, server, permission in _RPC.findall(body)
    }


def test_every_rpc_of_the_protos_is_in_the_table_as_it_is_written() -> None:
    assert {
        path: (each.permission, each.client_streaming, each.server_streaming)
        for path, each in endpoints().items()
    } == written()
    texts = [path.read_text() for path in PROTOS.glob("*.proto")]
    rpcs = sum(len(re.findall(r"^  rpc ", text, re.MULTILINE)) for text in texts)
    assert len(written()) == rpcs > 30
    assert len(SERVICES) == sum(len(_SERVICE.findall(text)) for text in texts) == 4


def test_every_permission_exists() -> None:
    assert {permission for permission, _, _ in written().values()} <= set(PERMISSIONS)


def test_an_rpc_without_a_permission_keeps_the_server_from_starting() -> None:
    health = health_pb2.DESCRIPTOR.services_by_name["Health"]
    with pytest.raises(ValueError, match=r"grpc\.health\.v1\.Health\.Check has the permission ''"):
        endpoints([health])


class Observer:
    def unary_done(self, method: str, code: str, seconds: float) -> None:
        """Hears nothing."""

    stream_opened = stream_done = unary_done


class Details:
    """What gRPC tells of a call."""

    invocation_metadata = ()

    def __init__(self, method: str) -> None:
        self.method = method


def test_every_rpc_has_a_handler_of_its_shape_that_passes_bytes_through() -> None:
    handler = ApiHandler({}, Observer())  # type: ignore[arg-type]
    for path, endpoint in endpoints().items():
        found = handler.service(Details(path))  # type: ignore[arg-type]
        assert found is not None
        assert found.request_streaming == endpoint.client_streaming
        assert found.response_streaming == endpoint.server_streaming
        assert (found.request_deserializer, found.response_serializer) == (None, None)
    assert handler.service(Details("/switchboard.v1.EventService/Nothing")) is None  # type: ignore[arg-type]


def test_a_method_is_named_without_its_first_slash() -> None:
    endpoint = endpoints()["/switchboard.v1.EventService/PublishStream"]
    assert endpoint.method == "switchboard.v1.EventService/PublishStream"
    assert endpoint.streaming
    assert not endpoints()["/switchboard.v1.EventService/Publish"].streaming

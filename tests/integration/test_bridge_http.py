"""The bridge over real sockets: health and metrics for probes, people and Prometheus."""

import asyncio
import http.client
import json
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Collection
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from switchboard_server.bridge.http import BridgeServer, HealthReport
from switchboard_server.security.tls import Tls, TlsFiles
from switchboard_server.telemetry.listeners import BindError
from tests.integration.bridge import make_door
from tests.unit.test_security import write_certificate

WELL = HealthReport(
    serving=True,
    version="1.2.3",
    uptime_seconds=12.3456,
    grpc_port=50099,
    services={"switchboard.v1.EventService": "SERVING"},
    log={"kind": "sqlite", "last_sequence": 7},
    realtime={"problem": None},
    registry={"problem": "not loaded"},
)


class Hub:
    """What the bridge asks; tests change it."""

    def __init__(self) -> None:
        self.report = WELL
        self.metrics = b"switchboard_up 1\n"
        self.broken = False

    def health(self) -> HealthReport:
        if self.broken:
            raise RuntimeError("broken on purpose")
        return self.report

    def render(self) -> tuple[bytes, str]:
        return self.metrics, "text/plain; version=0.0.4"


def server_of(
    hub: Hub,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    allowed_origins: Collection[str] = (),
) -> BridgeServer:
    return BridgeServer(
        host,
        port,
        health=hub.health,
        metrics=hub.render,
        websockets=make_door(allowed_origins=allowed_origins),
        tls=tls,
    )


@pytest.fixture
async def hub() -> Hub:
    return Hub()


@pytest.fixture
async def bridge(hub: Hub) -> AsyncIterator[BridgeServer]:
    server = server_of(hub)
    await server.start()
    yield server
    await server.stop()


class Answer:
    """A response with its body."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()


async def ask(
    bridge: BridgeServer,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    def request() -> Answer:
        with closing(http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=10)) as client:
            client.request(method, path, body, headers or {})
            return Answer(client.getresponse())

    return await asyncio.to_thread(request)


async def send(bridge: BridgeServer, raw: bytes) -> bytes:
    """Sends bytes and returns all that comes until the server ends the stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
    writer.write(raw)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_health_is_an_overview_in_json(bridge: BridgeServer, hub: Hub) -> None:
    answer = await ask(bridge, "/health")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert json.loads(answer.body) == {
        "status": "SERVING",
        "version": "1.2.3",
        "uptime_seconds": 12.346,
        "grpc_port": 50099,
        "services": {"switchboard.v1.EventService": "SERVING"},
        "log": {"kind": "sqlite", "last_sequence": 7},
        "realtime": {"problem": None},
        "registry": {"problem": "not loaded"},
    }


async def test_a_hub_that_does_not_serve_is_alive_but_neither_ready_nor_healthy(
    bridge: BridgeServer, hub: Hub
) -> None:
    assert (await ask(bridge, "/readyz")).status == 200
    hub.report = replace(WELL, serving=False)
    assert (await ask(bridge, "/livez")).status == 200
    assert (await ask(bridge, "/readyz")).status == 503
    answer = await ask(bridge, "/health")
    assert answer.status == 503
    assert json.loads(answer.body)["status"] == "NOT_SERVING"


async def test_metrics_are_what_the_renderer_makes_however_long(
    bridge: BridgeServer, hub: Hub
) -> None:
    hub.metrics = b"switchboard_up 1\n" * 200_000
    answer = await ask(bridge, "/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4"
    assert answer.body == hub.metrics


async def test_a_query_does_not_change_the_page(bridge: BridgeServer) -> None:
    assert (await ask(bridge, "/livez?verbose=1")).status == 200
    raw = await send(bridge, b"GET http://hub.example/livez HTTP/1.1\r\nHost: hub.example\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/health", "/livez", "/metrics", "/nowhere"])
async def test_head_answers_as_get_without_the_body(bridge: BridgeServer, path: str) -> None:
    get, head = await ask(bridge, path), await ask(bridge, path, "HEAD")
    assert head.status == get.status
    assert head.body == b""
    assert head.headers["Content-Length"] == get.headers["Content-Length"]


@pytest.mark.parametrize("path", ["/nowhere", "/health/", "/wsx", "//", "/%68ealth"])
async def test_an_unknown_path_is_not_found(bridge: BridgeServer, path: str) -> None:
    assert (await ask(bridge, path)).status == 404


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def test_a_websocket_handshake_gets_a_page_like_any_request_where_no_websockets_are(
    bridge: BridgeServer,
) -> None:
    assert (await ask(bridge, "/health", headers=UPGRADE)).status == 200


async def test_a_websockets_path_asks_for_a_websocket(bridge: BridgeServer) -> None:
    assert (await ask(bridge, "/ws/client1", headers=UPGRADE)).status == 101
    answer = await ask(bridge, "/ws/client1")
    assert (answer.status, answer.headers["Upgrade"]) == (426, "websocket")


@pytest.mark.parametrize("body", [None, b"{}", b"x" * 3_000_000])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_refused_with_those_allowed_be_there_a_body_or_not(
    bridge: BridgeServer, method: str, body: bytes | None
) -> None:
    answer = await ask(bridge, "/health", method, body)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /health HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /" + "é".encode() + b" HTTP/1.1\r\n\r\n", 400),
    ],
)
async def test_what_is_no_proper_request_is_told_so_and_leaves_no_traceback(
    bridge: BridgeServer, raw: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert (await send(bridge, raw)).startswith(f"HTTP/1.1 {status} ".encode())
    assert not caplog.records
    assert (await ask(bridge, "/livez")).status == 200


async def test_a_method_that_comes_byte_by_byte_is_understood(bridge: BridgeServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
    for byte in b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n":
        writer.write(bytes((byte,)))
        await writer.drain()
    assert (await reader.read()).startswith(b"HTTP/1.1 405 ")
    writer.close()
    await writer.wait_closed()


async def test_a_broken_report_is_an_internal_error_without_its_text(
    bridge: BridgeServer, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.broken = True
    answer = await ask(bridge, "/health")
    assert (answer.status, answer.body) == (500, b"500 Internal Server Error\n")
    assert "broken on purpose" in caplog.text
    assert (await ask(bridge, "/livez")).status == 200


async def test_a_port_in_use_is_told_with_its_holder_and_the_setting_to_change(
    bridge: BridgeServer, hub: Hub
) -> None:
    second = server_of(hub, port=bridge.port)
    with pytest.raises(BindError) as caught:
        await second.start()
    text = str(caught.value)
    assert f"port {bridge.port}" in text
    assert f"process {os.getpid()} " in text
    assert "PORT" in text


@pytest.mark.parametrize(
    ("host", "says"),
    [("203.0.113.7", "does not have this address"), ("no-such-host.invalid", "check HOST")],
)
async def test_an_address_that_cannot_be_had_is_told(hub: Hub, host: str, says: str) -> None:
    server = server_of(hub, host)
    with pytest.raises(BindError, match=says):
        await server.start()


async def test_a_host_name_with_any_port_listens_on_one_port(hub: Hub) -> None:
    server = server_of(hub, "localhost")
    await server.start()
    assert server.port > 0
    await server.stop()


async def test_stopping_does_not_wait_for_a_client_that_never_asks(hub: Hub) -> None:
    server = server_of(hub)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /livez HTTP/1.1\r\n")
    # An answered request shows that the server has seen the connection before it.
    await ask(server, "/livez")
    async with asyncio.timeout(5):
        await server.stop(grace=60)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_stopping_cuts_off_a_client_that_does_not_read_when_its_time_is_up(hub: Hub) -> None:
    hub.metrics = b"x" * 50_000_000
    server = server_of(hub)
    await server.start()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, b"GET /metrics HTTP/1.1\r\n\r\n")
        assert await loop.sock_recv(client, 8) == b"HTTP/1.1"
        async with asyncio.timeout(5):
            await server.stop(grace=0.01)


async def test_a_server_that_was_stopped_frees_its_port(hub: Hub) -> None:
    first = server_of(hub)
    await first.start()
    port = first.port
    await ask(first, "/livez")
    await first.stop()
    second = server_of(hub, port=port)
    await second.start()
    assert (await ask(second, "/livez")).status == 200
    await second.stop()


async def test_with_tls_only_clients_with_a_certificate_of_the_authority_are_answered(
    hub: Hub, tmp_path: Path
) -> None:
    server_cert, server_key = write_certificate(tmp_path, "hub")
    client_cert, client_key = write_certificate(tmp_path, "client")
    context = Tls(TlsFiles(server_cert, server_key, client_cert)).context
    server = server_of(hub, tls=context)
    await server.start()

    def ask_over_tls(*, with_certificate: bool) -> int:
        tls = ssl.create_default_context(cafile=str(server_cert))
        tls.check_hostname = False
        if with_certificate:
            tls.load_cert_chain(client_cert, client_key)
        client = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=10, context=tls)
        with closing(client):
            client.request("GET", "/livez")
            return client.getresponse().status

    assert await asyncio.to_thread(ask_over_tls, with_certificate=True) == 200
    with pytest.raises(OSError, match=r"(?i)certificate required|reset|closed|broken pipe"):
        await asyncio.to_thread(ask_over_tls, with_certificate=False)
    await server.stop()

"""The console's files over HTTP."""

import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from switchboard_server.bridge.assets import FILES
from switchboard_server.bridge.http import BridgeServer
from tests.integration.test_bridge_http import Hub, ask, send, server_of

ROOT = Path(__file__).parents[2]
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@pytest.fixture
async def bridge() -> AsyncIterator[BridgeServer]:
    server = server_of(Hub())
    await server.start()
    yield server
    await server.stop()


@pytest.mark.parametrize("path", FILES)
async def test_a_file_is_served_as_it_is_with_its_type(bridge: BridgeServer, path: str) -> None:
    file = ROOT / "clients" / "web" / FILES[path]
    answer = await ask(bridge, path)
    assert (answer.status, answer.body) == (200, file.read_bytes())
    assert answer.headers["Content-Type"] == TYPES[file.suffix]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    # Which is only worth something while no page of it has a script or style of its own.
    assert b"<script>" not in answer.body
    assert b"style=" not in answer.body
    head = await ask(bridge, path, "HEAD")
    assert (head.status, head.body) == (200, b"")


async def test_a_browser_that_has_a_file_is_not_sent_it_again(bridge: BridgeServer) -> None:
    first = await ask(bridge, "/switchboard.js")
    assert first.headers["Cache-Control"] == "no-cache"
    again = await ask(
        bridge, "/switchboard.js", headers={"If-None-Match": f'"old", {first.headers["ETag"]}'}
    )
    assert (again.status, again.body) == (304, b"")
    changed = await ask(bridge, "/switchboard.js", headers={"If-None-Match": '"old"'})
    assert (changed.status, changed.body) == (200, first.body)


async def test_pages_of_listed_origins_may_import_the_sdk_and_read_nothing_else() -> None:
    listed, other = "https://app.example.com", "https://example.net"
    server = server_of(Hub(), allowed_origins=(listed,))
    await server.start()
    try:
        for path in FILES:
            answers = [
                await ask(server, path, headers={"Origin": each}) for each in (listed, other)
            ]
            allowed = [each.headers["Access-Control-Allow-Origin"] for each in answers]
            is_sdk = path == "/switchboard.js"
            assert allowed == [listed if is_sdk else None, None], path
            # What a cache keeps for one origin is no answer for another.
            assert {each.headers["Vary"] for each in answers} == {"Origin" if is_sdk else None}
        etag = (await ask(server, "/switchboard.js")).headers["ETag"]
        kept = {"Origin": listed, "If-None-Match": etag}
        again = await ask(server, "/switchboard.js", headers=kept)
        assert (again.status, again.headers["Access-Control-Allow-Origin"]) == (304, listed)
    finally:
        await server.stop()


@pytest.mark.parametrize(
    "path",
    [
        "/console",
        "/console/",
        "/console/nothing.js",
        "/console/screenshot.png",
        "/package.json",
        "/console/../package.json",
        "/console/..%2fpackage.json",
        "/console//console.js",
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
    ],
)
async def test_nothing_else_can_be_had(bridge: BridgeServer, path: str) -> None:
    raw = await send(bridge, f"GET {path} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
    assert raw.startswith(b"HTTP/1.1 404 ")


async def test_files_can_only_be_read(bridge: BridgeServer) -> None:
    answer = await ask(bridge, "/switchboard.js", "PUT", b"x")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_wheel_has_all_of_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert packed == {
        f"clients/web/{name}": f"switchboard_server/bridge/web/{name}" for name in FILES.values()
    }

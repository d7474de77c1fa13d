"""A hub whose tokens are signed by keys that their issuer publishes, and changes, over HTTP."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from switchboard.v1.event_service_pb2 import PublishResponse
from switchboard_server.security.jwks import fetch
from tests.integration.client import an_event, failure_of
from tests.integration.credentials import SECRET, run_command, token
from tests.integration.hubs import MEMORY, connect, running
from tests.support.hub import HubProcess

FIRST, SECOND = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


def a_set(**keys: ec.EllipticCurvePrivateKey) -> bytes:
    entries = [
        {**json.loads(ECAlgorithm.to_jwk(key.public_key())), "kid": kid, "alg": "ES256"}
        for kid, key in keys.items()
    ]
    return json.dumps({"keys": entries}).encode()


class Issuer:
    """An HTTP server with a set; None: it is broken."""

    def __init__(self) -> None:
        self.keys: bytes | None = a_set(first=FIRST)
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/elsewhere":
                    self.send_response(302)
                    self.send_header("Location", "/jwks")
                    self.end_headers()
                    return
                if self.path == "/mail":
                    self.wfile.write(b"220 mail.example ESMTP\r\n")
                    return
                self.send_response(503 if issuer.keys is None else 200)
                self.end_headers()
                self.wfile.write(issuer.keys or b"")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"

    def serve(self) -> Iterator["Issuer"]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        yield self
        self._server.shutdown()
        thread.join()
        self._server.server_close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    yield from Issuer().serve()


def signed(key: ec.EllipticCurvePrivateKey, kid: str) -> str:

    claims = {"sub": "shop", "exp": time.time() + 600, "permissions": ["events.publish"]}
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": kid})


async def publish(hub: HubProcess, given: str) -> PublishResponse | tuple[grpc.StatusCode, str]:
    async with connect(hub, given) as client:
        try:
            return await client.publish(an_event())
        except grpc.aio.AioRpcError as error:
            failure = failure_of(error)
            return failure.code, failure.reason


async def eventually(hub: HubProcess, given: str) -> None:
    """Publishes, again and again while the hub asks for that."""
    async with asyncio.timeout(30):
        while True:
            answer = await publish(hub, given)
            if isinstance(answer, PublishResponse):
                return
            assert answer == (grpc.StatusCode.UNAVAILABLE, "KEYS_UNAVAILABLE")
            await asyncio.sleep(0.1)


async def test_tokens_are_checked_with_the_keys_that_their_issuer_publishes(
    issuer: Issuer, tmp_path: Path
) -> None:
    settings = {**MEMORY, "JWT_ALGORITHM": "ES256", "JWT_JWKS": issuer.url}
    with running(tmp_path, settings) as hub:
        assert isinstance(await publish(hub, signed(FIRST, "first")), PublishResponse)
        invalid = (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
        assert await publish(hub, signed(SECOND, "first")) == invalid
        assert await publish(hub, token("events.publish")) == invalid
        issuer.keys = None
        assert isinstance(await publish(hub, signed(FIRST, "first")), PublishResponse)


async def test_a_hub_starts_while_the_issuer_is_away_and_serves_when_it_is_back(
    issuer: Issuer, tmp_path: Path
) -> None:
    issuer.keys, keys = None, issuer.keys
    settings = {**MEMORY, "JWT_ALGORITHM": "ES256", "JWT_JWKS": issuer.url}
    with running(tmp_path, settings) as hub:
        away = (grpc.StatusCode.UNAVAILABLE, "KEYS_UNAVAILABLE")
        assert await publish(hub, signed(FIRST, "first")) == away
        issuer.keys = keys
        await eventually(hub, signed(FIRST, "first"))
    assert "no token can be checked" in hub.text


async def test_keys_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(a_set(first=FIRST))
    settings = {**MEMORY, "JWT_ALGORITHM": "ES256", "JWT_JWKS": str(file)}
    with running(tmp_path / "hub", settings) as hub:
        assert isinstance(await publish(hub, signed(FIRST, "first")), PublishResponse)


async def test_a_hub_starts_where_something_else_than_an_issuer_answers(
    tmp_path: Path, issuer: Issuer
) -> None:
    place = issuer.url.replace("/jwks", "/mail")
    settings = {**MEMORY, "JWT_ALGORITHM": "ES256", "JWT_JWKS": place}
    with running(tmp_path, settings) as hub:
        refused = grpc.StatusCode.UNAVAILABLE, "KEYS_UNAVAILABLE"
        assert await publish(hub, signed(FIRST, "first")) == refused
        assert "does not speak HTTP" in hub.text
        # The command would refuse to.
        assert "make one with" not in hub.text


def test_another_place_is_not_followed_to(issuer: Issuer) -> None:
    with pytest.raises(OSError, match="302"):
        fetch(issuer.url.replace("/jwks", "/elsewhere"))
    assert fetch(issuer.url) == issuer.keys


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"JWT_JWKS": "missing.json", "JWT_ALGORITHM": "ES256"}, "cannot be read"),
        ({"JWT_JWKS": "https://issuer.example/jwks"}, "needs JWT_ALGORITHM"),
        ({"JWT_JWKS": "http://issuer.example/jwks", "JWT_ALGORITHM": "RS256"}, "unencrypted"),
        (
            {"JWT_JWKS": "https://a.example/jwks", "JWT_SECRET_KEY": SECRET},
            "JWT_SECRET_KEY: is set besides JWT_JWKS",
        ),
    ],
)
def test_what_cannot_be_used_stops_the_start(
    tmp_path: Path, settings: dict[str, str], problem: str
) -> None:
    done = run_command(tmp_path, settings=settings)
    assert done.returncode == 2
    assert problem in done.stderr
    assert SECRET not in done.stderr


def test_where_an_issuer_makes_the_tokens_the_command_does_not(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_bytes(a_set(first=FIRST))
    done = run_command(
        tmp_path,
        *("token", "--subject", "me", "--permission", "events.view"),
        settings={"JWT_JWKS": "keys.json", "JWT_ALGORITHM": "ES256"},
    )
    assert done.returncode == 2
    assert "made by the issuer" in done.stderr

"""Encryption of both ports, with an authority that is thrown away."""

import asyncio
import json
import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from websockets.asyncio.client import connect as connect_websocket

from switchboard_server.core.realtime.rounds import MANY
from switchboard_server.security import tls as tls_module
from switchboard_server.security.tls import Tls, TlsFiles
from tests.integration.client import Client, an_event, failing, texts
from tests.integration.credentials import Certificate, certify
from tests.integration.hubs import MEMORY, connect, running
from tests.support.hub import HubProcess


class Served:
    """Two ports that a `Tls` encrypts, and what they show."""

    def __init__(self, ports: tuple[int, int]) -> None:
        self._ports = ports

    async def shows(self) -> set[str]:
        """The certificates that new connections to either port get."""
        ask = [
            asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port), timeout=30)
            for port in self._ports
        ]
        return set(await asyncio.gather(*ask))

    async def until_shown(self, certificate: Certificate) -> None:
        """Waits until both ports show a certificate."""
        wanted = {certificate.cert_file.read_text()}
        async with asyncio.timeout(30):
            while await self.shows() != wanted:
                continue


@asynccontextmanager
async def serving(tls: Tls) -> AsyncIterator[Served]:
    """Serves by gRPC and beside it, and follows the files."""
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", tls.credentials)
    await server.start()
    beside = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=tls.context
    )
    follower = asyncio.create_task(tls.follow())
    try:
        yield Served((port, beside.sockets[0].getsockname()[1]))
    finally:
        follower.cancel()
        beside.close()
        await server.stop(None)


def replace(files: TlsFiles, certificate: Certificate) -> None:
    """Puts another certificate in the place of one, both files at once as far as that goes."""
    for file, new in ((files.cert, certificate.cert_file), (files.key, certificate.key_file)):
        copy = file.with_suffix(".new")
        copy.write_bytes(new.read_bytes())
        copy.replace(file)


@pytest.fixture
def authority(tmp_path: Path) -> Certificate:
    return certify(tmp_path, "authority")


def settings(folder: Path, authority: Certificate) -> dict[str, str]:
    own = certify(folder, "hub", authority)
    return {
        **MEMORY,
        "SWITCHBOARD_TLS_CERT_FILE": str(own.cert_file),
        "SWITCHBOARD_TLS_KEY_FILE": str(own.key_file),
    }


def secure(hub: HubProcess, authority: Certificate, own: Certificate | None = None) -> Client:
    """A client that checks the hub's certificate, and shows its own where it has one."""
    credentials = grpc.ssl_channel_credentials(
        authority.cert_file.read_bytes(),
        own.key_file.read_bytes() if own else None,
        own.cert_file.read_bytes() if own else None,
    )
    options = [("grpc.use_local_subchannel_pool", 1)]
    return Client(grpc.aio.secure_channel(hub.address, credentials, options=options))


async def assert_served(client: Client) -> None:
    async with client, client.subscribe() as subscriber:
        await client.publish(an_event(text="hello"))
        assert texts(await subscriber.events(1)) == ["hello"]


async def assert_shut_out(client: Client) -> None:
    async with client:
        assert (await failing(client.publish(an_event()))).code is grpc.StatusCode.UNAVAILABLE


async def health(hub: HubProcess, context: ssl.SSLContext) -> int:
    """Asks the bridge over HTTPS."""

    def ask() -> int:
        url = f"https://127.0.0.1:{hub.port}/health"
        with urllib.request.urlopen(url, timeout=30, context=context) as response:
            return int(response.status)

    return await asyncio.to_thread(ask)


async def test_an_encrypted_hub_serves_who_trusts_its_authority(
    tmp_path: Path, authority: Certificate
) -> None:
    with running(tmp_path, settings(tmp_path, authority)) as hub:
        await assert_served(secure(hub, authority))
        await assert_shut_out(connect(hub))
        await assert_shut_out(secure(hub, certify(tmp_path, "another")))
        context = ssl.create_default_context(cafile=authority.cert_file)
        assert await health(hub, context) == 200
    assert "-plaintext" not in hub.text
    assert "https://" in hub.text


async def test_with_mutual_tls_clients_need_a_certificate_too(
    tmp_path: Path, authority: Certificate
) -> None:
    mutual = {"SWITCHBOARD_TLS_CLIENT_CA_FILE": str(authority.cert_file)}
    with running(tmp_path, {**settings(tmp_path, authority), **mutual}) as hub:
        member = certify(tmp_path, "member", authority)
        await assert_served(secure(hub, authority, member))
        await assert_shut_out(secure(hub, authority))
        stranger = certify(tmp_path, "stranger", certify(tmp_path, "another"))
        await assert_shut_out(secure(hub, authority, stranger))
        context = ssl.create_default_context(cafile=authority.cert_file)
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            await health(hub, context)
        context.load_cert_chain(member.cert_file, member.key_file)
        assert await health(hub, context) == 200
    assert "grpcurl -cert client.crt -key client.key -d" in hub.text


async def test_what_goes_to_many_browsers_at_once_is_encrypted_too(
    tmp_path: Path, authority: Certificate
) -> None:
    context = ssl.create_default_context(cafile=authority.cert_file)
    with running(tmp_path, settings(tmp_path, authority)) as hub:
        async with AsyncExitStack() as stack:
            url = f"wss://127.0.0.1:{hub.port}/ws"
            members = [
                await stack.enter_async_context(connect_websocket(url, ssl=context))
                for _ in range(MANY)
            ]
            for member in members:
                await member.recv()
            for number in range(3):
                frame = {"type": "chat", "data": {"n": number}, "to": {"all": True}}
                await members[0].send(json.dumps(frame))
                for member in members:
                    assert json.loads(await member.recv())["data"] == {"n": number}


async def test_new_connections_get_what_the_files_hold_by_now(
    tmp_path: Path,
    authority: Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls_module, "LOOK_SECONDS", 0.01)
    first, second = (certify(tmp_path, name, authority) for name in ("first", "second"))
    files = TlsFiles(tmp_path / "hub.crt", tmp_path / "hub.key")
    replace(files, first)
    async with serving(Tls(files)) as served:
        await served.until_shown(first)
        async with telling("cannot be used, those before are: cert_file holds no certificate"):
            files.cert.write_text("no certificate")
        assert await served.shows() == {first.cert_file.read_text()}
        replace(files, second)
        await served.until_shown(second)


async def test_a_certificate_that_expires_soon_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = certify(tmp_path, "hub")
    tls = Tls(TlsFiles(own.cert_file, own.key_file))
    monkeypatch.setattr(tls_module, "EXPIRES_SOON", timedelta(days=36500))
    async with telling(f"the certificate in {own.cert_file} expires 2"):
        follower = asyncio.create_task(tls.follow())
    follower.cancel()


class Told(logging.Handler):
    """Waits until something is told in the log."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self.told = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self.told.set()


@asynccontextmanager
async def telling(text: str) -> AsyncIterator[None]:
    """Ends when a text is told by what looks after certificates."""
    handler, logger = Told(text), logging.getLogger(tls_module.__name__)
    logger.addHandler(handler)
    try:
        async with asyncio.timeout(30):
            yield
            await handler.told.wait()
    finally:
        logger.removeHandler(handler)

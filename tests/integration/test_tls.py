"""Encryption of both ports, with an authority that is thrown away."""

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from websockets.asyncio.client import connect as connect_websocket

from switchboard_server.core.realtime.rounds import MANY
from tests.integration.client import Client, an_event, failing, texts
from tests.integration.credentials import Certificate, certify
from tests.integration.hubs import MEMORY, connect, running
from tests.support.hub import HubProcess


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

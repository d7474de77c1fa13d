"""Tokens over gRPC: who is let in, as whom, to what, and for how long."""

import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from switchboard.v1 import errors_pb2
from switchboard.v1.event_pb2 import Filter
from switchboard.v1.event_service_pb2 import PublishStreamRequest, PublishStreamResponse
from switchboard.v1.subscription_pb2 import START_AT_EARLIEST
from tests.integration.client import Client, Failure, an_event, failing, numbered, texts
from tests.integration.credentials import (
    EVERYTHING,
    SECRET,
    mint,
    run_command,
    token,
    write_keys,
)
from tests.integration.hubs import MEMORY, connect, running
from tests.support.hub import HubProcess

SETTINGS = {**MEMORY, "JWT_SECRET_KEY": SECRET}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with running(tmp_path_factory.mktemp("hub"), SETTINGS) as hub:
        yield hub


@pytest.fixture
async def trusted(hub: HubProcess) -> AsyncIterator[Client]:
    """A client that may do everything with events."""
    async with connect(hub, token(*EVERYTHING, subject="trusted")) as client:
        yield client


async def refusals(hub: HubProcess, given: str | None) -> list[tuple[grpc.StatusCode, str]]:
    """How a token fares with every rpc of EventService, all of which must fail."""
    async with connect(hub, given) as client:
        stream = client.publish_stream()
        failures = [
            await failing(client.publish(an_event())),
            await failing(client.publish_batch([an_event()])),
            await failing(stream.read()),
            await failing(client.subscribe().next()),
            await failing(client.list_events()),
        ]
    assert not any(failure.fields for failure in failures)
    return [(failure.code, failure.reason) for failure in failures]


def unauthenticated(reason: str) -> list[tuple[grpc.StatusCode, str]]:
    return [(grpc.StatusCode.UNAUTHENTICATED, reason)] * 5


def denied(failure: Failure, permission: str, resource: str | None = None) -> bool:
    expected = {"permission": permission} | ({"resource": resource} if resource else {})
    return (failure.code, failure.reason, failure.metadata) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "PERMISSION_DENIED",
        expected,
    )


async def test_a_token_of_the_command_opens_what_it_permits(hub: HubProcess, kind: str) -> None:
    minted = mint(hub.folder, SETTINGS, "shop", *EVERYTHING)
    async with connect(hub, minted) as client, client.subscribe(kind) as subscriber:
        await client.publish(an_event(kind, text="hello"))
        (event,) = await subscriber.events(1)
        assert (event.text, event.publisher) == ("hello", "shop")
        assert list((await client.list_events(kind)).events) == [event]


async def test_a_token_of_any_size_that_is_looked_at_comes_through(
    hub: HubProcess, kind: str
) -> None:
    filling = 16 * 1024 - len(token("events.publish", note=""))
    fitting = filling * 3 // 4 - 8  # Three characters of a claim are four in a token.
    large = token("events.publish", note="x" * fitting)
    assert 16_000 < len(large) <= 16 * 1024
    async with connect(hub, large) as client:
        for _ in range(50):
            await client.publish(an_event(kind))
    longer = token("events.publish", note="x" * (fitting + 100))
    assert await refusals(hub, longer) == unauthenticated("TOKEN_INVALID")


async def test_without_a_token_nothing_is_open(hub: HubProcess) -> None:
    assert await refusals(hub, None) == unauthenticated("TOKEN_MISSING")


@pytest.mark.parametrize("given", ["Basic YTpi", "Bearer", "", "token"])
async def test_what_is_no_bearer_token_counts_as_none(hub: HubProcess, given: str) -> None:
    async with connect(hub) as client:
        client.options["metadata"] = (("authorization", given),)
        failure = await failing(client.publish(an_event()))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")


@pytest.mark.parametrize(
    "make",
    [
        lambda: "garbage",
        lambda: "a.b.c",
        lambda: token(*EVERYTHING, key=SECRET[::-1]),
        lambda: token(*EVERYTHING, key=None, algorithm="none"),
        lambda: token(*EVERYTHING, key=SECRET * 2, algorithm="HS512"),
        lambda: token(*EVERYTHING)[:-4],
        lambda: token(*EVERYTHING, nbf=time.time() + 300),
        lambda: token(*EVERYTHING, aud="another"),
        lambda: token(*EVERYTHING, subject=""),
        lambda: token(*EVERYTHING, exp="never"),
    ],
    ids=[
        "garbage",
        "shape only",
        "another secret",
        "no signature",
        "another algorithm",
        "cut off",
        "not yet valid",
        "for another audience",
        "nobody's",
        "endless",
    ],
)
async def test_a_bad_token_opens_nothing(hub: HubProcess, make: Callable[[], str]) -> None:
    assert await refusals(hub, make()) == unauthenticated("TOKEN_INVALID")


async def test_an_expired_token_opens_nothing_and_is_told_from_a_bad_one(hub: HubProcess) -> None:
    assert await refusals(hub, token(*EVERYTHING, seconds=-1)) == unauthenticated("TOKEN_EXPIRED")


async def test_every_rpc_asks_for_its_permission(hub: HubProcess) -> None:
    async with connect(hub, token("events.subscribe", "events.view")) as client:
        assert denied(await failing(client.publish(an_event())), "events.publish")
        assert denied(await failing(client.publish_batch([an_event()])), "events.publish")
        assert denied(await failing(client.publish_stream().read()), "events.publish")
        assert denied(await failing(client.raw("EventService/Call", b"")), "events.publish")
    async with connect(hub, token("events.publish", "events.view")) as client:
        assert denied(await failing(client.subscribe().next()), "events.subscribe")
        for method in ("Acknowledge", "Reject", "ExtendDeadline"):
            failure = await failing(client.raw(f"EventService/{method}", b""))
            assert denied(failure, "events.subscribe")
    async with connect(hub, token("events.publish", "events.subscribe")) as client:
        assert denied(await failing(client.list_events()), "events.view")


async def test_a_token_is_asked_for_before_the_request_is_looked_at(hub: HubProcess) -> None:
    path = "RegistryService/Register"
    async with connect(hub) as client:
        failure = await failing(client.raw(path, b""))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
    async with connect(hub, token(*EVERYTHING)) as client:
        assert denied(await failing(client.raw(path, b"")), "services.register")


async def test_a_scope_is_asked_of_every_event_of_a_batch(hub: HubProcess, kind: str) -> None:
    inside, outside = f"{kind}.created", f"{kind}x.created"
    given = token(f"events.publish:{kind}.*", "events.publish:exact", "events.view")
    async with connect(hub, given) as client:
        await client.publish(an_event(inside))
        failure = await failing(client.publish(an_event(outside)))
        assert denied(failure, "events.publish", outside)
        results = await client.publish_batch(
            [an_event(inside), an_event(outside), an_event("exact"), an_event("exact.more")]
        )
        assert [result.HasField("error") for result in results] == [False, True, False, True]
        for result in (results[1], results[3]):
            assert result.error.reason == errors_pb2.ERROR_REASON_PERMISSION_DENIED
        stream = client.publish_stream()
        await stream.write(PublishStreamRequest(events=[an_event(inside), an_event(outside)]))
        response = await stream.read()
        assert isinstance(response, PublishStreamResponse)
        (ack,) = response.acks
        (exception,) = ack.exceptions
        assert (exception.index, ack.sequences[0].count) == (1, 1)
        assert exception.result.error.reason == errors_pb2.ERROR_REASON_PERMISSION_DENIED
        await stream.done_writing()
        assert len((await client.list_events([inside, outside])).events) == 3


@pytest.mark.parametrize("permission", ["events.subscribe", "events.view"])
async def test_a_scoped_reader_must_ask_for_types_within(
    hub: HubProcess, trusted: Client, kind: str, permission: str
) -> None:
    await trusted.publish_batch([an_event(f"{kind}.a", text="a"), an_event(f"{kind}x", text="x")])

    async def read(client: Client, wish: Filter) -> list[str]:
        if permission == "events.view":
            return texts((await client.list_events(filter=wish)).events)
        async with client.subscribe(filter=wish, start_at=START_AT_EARLIEST) as subscriber:
            return texts(await subscriber.until_caught_up())

    async with connect(hub, token(f"{permission}:{kind}.*")) as client:
        for types in ([f"{kind}.*"], [f"{kind}.a"], [f"{kind}.a*", f"{kind}.b"]):
            assert await read(client, Filter(types=types)) == ["a"]
        assert denied(await failing(read(client, Filter())), permission, "*")
        for types in ([f"{kind}*"], [kind], [f"{kind}.a", f"{kind}x"], ["*"]):
            failure = await failing(read(client, Filter(types=types)))
            assert failure.reason == "PERMISSION_DENIED"
            assert failure.metadata["resource"] in types
        only_source = Filter(source_services=["shop"])
        assert denied(await failing(read(client, only_source)), permission, "*")


async def test_an_event_bears_who_published_it_whatever_it_says(
    hub: HubProcess, trusted: Client, kind: str
) -> None:
    async with trusted.subscribe(kind) as subscriber:
        async with connect(hub, token("events.publish", subject="mallory")) as client:
            forged = an_event(kind, publisher="root")
            await client.publish(forged)
            await client.publish_batch([forged, an_event(kind)])
            stream = client.publish_stream()
            await stream.write(PublishStreamRequest(events=[forged, an_event(kind)]))
            await stream.read()
        events = await subscriber.events(5)
    assert [event.publisher for event in events] == ["mallory"] * 5


async def test_health_and_reflection_are_open(hub: HubProcess) -> None:
    async with connect(hub) as client:
        health = health_pb2_grpc.HealthStub(client.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        call = reflection_pb2_grpc.ServerReflectionStub(client.channel).ServerReflectionInfo(
            timeout=30
        )
        await call.write(reflection_pb2.ServerReflectionRequest(list_services="*"))
        assert (await call.read()).list_services_response.service
        call.cancel()


async def test_streams_end_when_the_token_expires(hub: HubProcess, kind: str) -> None:
    async with connect(hub, token(*EVERYTHING, seconds=2)) as client:
        async with client.subscribe(kind) as subscriber:
            stream = client.publish_stream()
            await stream.write(PublishStreamRequest(events=numbered(kind, 1)))
            await stream.read()
            assert texts(await subscriber.events(1)) == ["0"]
            for failure in (await failing(subscriber.next()), await failing(stream.read())):
                assert failure.code is grpc.StatusCode.UNAUTHENTICATED
                assert failure.reason == "TOKEN_EXPIRED"
        failure = await failing(client.publish(an_event()))
        assert failure.reason == "TOKEN_EXPIRED"


async def test_a_stream_that_nobody_reads_ends_too_when_the_token_expires(
    hub: HubProcess, trusted: Client, kind: str
) -> None:
    narrow = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536))
    short = token("events.subscribe", seconds=2)
    async with (
        connect(hub, short, narrow) as client,
        connect(hub, short) as clock,
        client.subscribe(kind) as stalled,
        clock.subscribe("nothing") as idle,
    ):
        for _ in range(20):
            await trusted.publish(an_event(kind, binary=bytes(1_000_000)))
        assert (await failing(idle.next())).reason == "TOKEN_EXPIRED"
        # It gets what was on its way before the end, and not the rest.
        failure = await failing(stalled.events(20))
    assert failure.code is grpc.StatusCode.UNAUTHENTICATED
    assert failure.reason == "TOKEN_EXPIRED"


async def test_one_that_leaves_while_its_stream_ends_is_no_defect(tmp_path: Path) -> None:
    narrow = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536))
    with running(tmp_path, SETTINGS) as hub:
        short = token("events.subscribe", seconds=2)
        async with (
            connect(hub, token(*EVERYTHING)) as publisher,
            connect(hub, short, narrow) as leaving,
            connect(hub, short) as clock,
            leaving.subscribe("a"),
            clock.subscribe("nothing") as idle,
        ):
            for _ in range(20):
                await publisher.publish(an_event("a", binary=bytes(1_000_000)))
            # The end of the other one waits behind what is not read.
            assert (await failing(idle.next())).reason == "TOKEN_EXPIRED"
        assert hub.terminate() == 0


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [
        ("RS256", lambda: rsa.generate_private_key(65537, 2048)),
        ("ES256", lambda: ec.generate_private_key(ec.SECP256R1())),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate),
    ],
)
async def test_keys_by_file_sign_and_verify(
    tmp_path: Path, algorithm: str, make: Callable[[], Any]
) -> None:
    key = make()
    files = write_keys(tmp_path, key)
    verifying = {
        **MEMORY,
        "JWT_ALGORITHM": algorithm,
        "JWT_PUBLIC_KEY_FILE": files["JWT_PUBLIC_KEY_FILE"],
    }
    minted = mint(tmp_path, {"JWT_ALGORITHM": algorithm, **files}, "shop", "events.publish")
    with running(tmp_path, verifying) as hub:
        async with connect(hub, minted) as client:
            assert (await client.publish(an_event())).sequence == 1
        own = token("events.publish", key=key, algorithm=algorithm)
        async with connect(hub, own) as client:
            assert (await client.publish(an_event())).sequence == 2
        for forged in (token(*EVERYTHING), token(*EVERYTHING, key=make(), algorithm=algorithm)):
            assert await refusals(hub, forged) == unauthenticated("TOKEN_INVALID")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104 - refused
def test_without_a_key_other_machines_are_shut_out(tmp_path: Path, host: str) -> None:
    settings = {**MEMORY, "HOST": host, "PORT": "0", "GRPC_PORT": "0"}
    done = run_command(tmp_path, settings=settings)
    assert done.returncode == 2
    assert f"HOST='{host}'" in done.stderr
    assert "JWT_SECRET_KEY" in done.stderr
    assert not done.stdout


async def test_with_a_key_other_machines_are_let_in(tmp_path: Path) -> None:
    with running(tmp_path, {**SETTINGS, "HOST": "0.0.0.0"}) as hub:  # noqa: S104 - has a key
        async with connect(hub, token("events.publish")) as client:
            assert (await client.publish(an_event())).sequence == 1


def test_the_command_that_the_hub_names_makes_a_token(hub: HubProcess) -> None:
    (command,) = re.findall(r"make one with: (.*)", hub.text)
    # As from a shell that does not have the hub's environment.
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=hub.folder,
        env={"PATH": "/usr/bin:/bin", "JWT_SECRET_KEY": SECRET},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    claims = jwt.decode(done.stdout.strip(), SECRET, algorithms=["HS256"])
    assert claims["permissions"] == ["events.publish", "events.subscribe"]

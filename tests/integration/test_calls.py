"""Request and reply over events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from switchboard.v1.event_pb2 import Event, Filter
from switchboard.v1.event_service_pb2 import CallRequest
from tests.integration.client import Client, failing
from tests.integration.group_client import Groups, Member


async def call(client: Client, target: str, deadline: float = 20, **fields: object) -> Event:
    """Calls a service."""
    request = Event(source_service="shop", target_service=target, **fields)  # type: ignore[arg-type]
    return (await client.stub.Call(CallRequest(event=request), timeout=deadline)).event


@asynccontextmanager
async def responder(client: Client, target: str, answers: int = 1) -> AsyncIterator[Member]:
    """A service that answers every request some times."""
    groups = Groups(client)
    wish = Filter(types=["service_request"], target_services=[target])
    async with groups.join(target, filter=wish) as member:

        async def answer() -> None:
            while True:
                request = await member.delivery()
                for number in range(answers):
                    await client.publish(
                        Event(
                            type="service_response",
                            source_service=target,
                            target_service=request.event.source_service,
                            correlation_id=request.event.correlation_id,
                            text=f"{number}: {request.event.text}",
                        )
                    )
                await groups.acknowledge(target, [request])

        task = asyncio.create_task(answer())
        try:
            yield member
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_a_call_returns_the_first_response_to_its_request(client: Client, kind: str) -> None:
    async with responder(client, kind, answers=2):
        response = await call(client, kind, text="how much?")
        assert (response.type, response.text) == ("service_response", "0: how much?")
        texts = [f"number {number}" for number in range(50)]
        answered = await asyncio.gather(*(call(client, kind, text=text) for text in texts))
        assert [each.text for each in answered] == [f"0: {text}" for text in texts]
        own = await call(client, kind, correlation_id="mine")
        assert own.correlation_id == "mine"


async def test_a_call_that_nobody_can_answer_fails_at_once(client: Client, kind: str) -> None:
    failure = await failing(call(client, kind))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_RESPONDERS")
    assert failure.metadata == {"target_service": kind}
    async with responder(client, kind):
        await call(client, kind)
    # The group is still there, and nobody in it.
    failure = await failing(call(client, kind))
    assert failure.reason == "NO_RESPONDERS"
    # One that hears everything is no responder.
    async with client.subscribe():
        assert (await failing(call(client, kind))).reason == "NO_RESPONDERS"


async def test_a_subscriber_without_a_group_can_respond_too(client: Client, kind: str) -> None:
    wish = Filter(target_services=[f"{kind}*"])
    async with client.subscribe(filter=wish) as subscriber:
        calling = asyncio.create_task(call(client, kind))
        (request,) = await subscriber.events(1)
        assert request.type == "service_request"
        correlation_id = request.correlation_id
        await client.publish(
            Event(type="service_response", source_service=kind, correlation_id=correlation_id)
        )
        assert (await calling).source_service == kind


async def test_a_call_ends_at_its_deadline(client: Client, kind: str) -> None:
    async with Groups(client).join(kind, filter=Filter(target_services=[kind])):
        failure = await failing(call(client, kind, deadline=0.2))
        assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("field", "event"),
    [
        ("event", None),
        ("event.target_service", Event(source_service="shop")),
        ("event.source_service", Event(target_service="desk")),
        (
            "event.deliver_at",
            Event(source_service="a", target_service="b", deliver_at=Timestamp(seconds=1)),
        ),
        (
            "event.correlation_id",
            Event(source_service="a", target_service="b", correlation_id="x" * 256),
        ),
    ],
)
async def test_what_is_no_call_is_refused_by_its_field(
    client: Client, field: str, event: Event | None
) -> None:
    failure = await failing(client.stub.Call(CallRequest(event=event), timeout=20))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.fields == [field]

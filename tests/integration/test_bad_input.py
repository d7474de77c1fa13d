"""What clients should not send: each is told what is wrong, and nobody else notices."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from switchboard.v1 import errors_pb2
from switchboard.v1.event_pb2 import Event
from switchboard.v1.event_service_pb2 import (
    PublishBatchRequest,
    PublishStreamRequest,
    PublishStreamResponse,
)
from tests.integration.bad_events import BAD_EVENTS, GARBAGE, NOT_UTF8, nested, part
from tests.integration.client import Client, Failure, an_event, failing, numbered, texts
from tests.integration.hubs import MEMORY, connect, running, suspected
from tests.support.hub import HubProcess

INVALID = grpc.StatusCode.INVALID_ARGUMENT
METHODS = ("Publish", "PublishBatch", "ListEvents", "PublishStream", "Subscribe")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    # A file, since it also has limits of its own, such as how large a number may be.
    with running(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
async def client(hub: HubProcess, kind: str) -> AsyncIterator[Client]:
    async with suspected(hub, kind) as client:
        yield client


async def failing_stream(client: Client, request: bytes) -> Failure:
    """Subscribes with the bytes of a request, which must fail at once."""
    return await failing(client.raw_responses("EventService/Subscribe", request).read())


async def failing_publish_stream(client: Client, request: bytes) -> tuple[int, Failure]:
    """Sends a good request and the bytes of another; returns how many were answered."""
    stream = client.raw_stream("EventService/PublishStream")
    await stream.write(PublishStreamRequest(events=[an_event()]).SerializeToString())
    await stream.write(request)
    response = await stream.read()
    assert isinstance(response, bytes)
    answered = len(PublishStreamResponse.FromString(response).acks)
    return answered, await failing(stream.read())


@pytest.mark.parametrize("name", BAD_EVENTS)
async def test_a_bad_event_is_refused_with_its_field(client: Client, name: str) -> None:
    event, field, reason = BAD_EVENTS[name]
    failure = await failing(client.publish(event))
    assert (failure.code, failure.reason) == (INVALID, reason)
    assert failure.fields == [f"event.{field}" if field else "event"]
    if name == "large payload":
        actual = str(event.ByteSize())
        assert failure.metadata == {"limit": "1048576", "actual": actual}


@pytest.mark.parametrize("name", BAD_EVENTS)
async def test_a_bad_event_harms_no_other_of_its_batch(
    client: Client, kind: str, name: str
) -> None:
    event, field, reason = BAD_EVENTS[name]
    good, bad, also_good = await client.publish_batch([an_event(), event, an_event(id=kind)])
    assert not good.HasField("error")
    assert also_good.sequence == good.sequence + 1
    assert errors_pb2.ErrorReason.Name(bad.error.reason) == f"ERROR_REASON_{reason}"
    assert bad.error.field == field
    assert bad.error.message
    assert not bad.sequence


async def test_all_bad_events_together_are_each_reported(client: Client) -> None:
    events = [event for event, _, _ in BAD_EVENTS.values() if event.ByteSize() < 1024 * 1024]
    stream = client.publish_stream()
    await stream.write(PublishStreamRequest(events=events))
    await stream.done_writing()
    response = await stream.read()
    assert isinstance(response, PublishStreamResponse)
    (ack,) = response.acks
    assert not ack.sequences
    assert [each.index for each in ack.exceptions] == list(range(len(events)))
    expected = [(field, reason) for _, field, reason in BAD_EVENTS.values() if field]
    assert [
        (each.result.error.field, errors_pb2.ErrorReason.Name(each.result.error.reason)[13:])
        for each in ack.exceptions
    ] == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", GARBAGE)
async def test_what_is_no_request_is_refused(client: Client, method: str, name: str) -> None:
    if method == "Subscribe":
        failure = await failing_stream(client, GARBAGE[name])
    elif method == "PublishStream":
        answered, failure = await failing_publish_stream(client, GARBAGE[name])
        assert answered == 1
    else:
        failure = await failing(client.raw(f"EventService/{method}", GARBAGE[name]))
    assert (failure.code, failure.reason) == (INVALID, "MALFORMED_REQUEST"), failure
    assert not failure.fields


async def test_a_batch_in_which_one_event_is_no_event_is_refused_as_a_whole(
    client: Client, kind: str
) -> None:
    good = PublishBatchRequest(events=numbered(kind, 2)).SerializeToString()
    failure = await failing(client.raw("EventService/PublishBatch", good + part(1, NOT_UTF8)))
    assert (failure.code, failure.reason) == (INVALID, "MALFORMED_REQUEST")
    assert not (await client.list_events(kind)).events


@pytest.mark.parametrize("method", METHODS)
async def test_a_request_over_the_size_limit_of_grpc_is_refused(
    client: Client, method: str
) -> None:
    request = part(1, an_event(binary=b"." * 5_000_000).SerializeToString())
    if method == "Subscribe":
        failure = await failing_stream(client, request)
    elif method == "PublishStream":
        stream = client.raw_stream("EventService/PublishStream")
        await stream.write(request)
        failure = await failing(stream.read())
    else:
        failure = await failing(client.raw(f"EventService/{method}", request))
    # gRPC itself refuses it, before the hub sees it: there are no details.
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")


async def test_a_request_that_is_small_only_while_it_is_compressed_is_refused(
    client: Client,
) -> None:
    request = part(1, an_event(binary=b"." * 100_000_000).SerializeToString())
    client.options["compression"] = grpc.Compression.Gzip
    failure = await failing(client.raw("EventService/Publish", request))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["Publish", "PublishBatch"])
async def test_what_is_accepted_can_be_read_however_deep_it_is(client: Client, method: str) -> None:
    # Parsers stop at a hundred levels, and a response wraps an event more deeply than a request.
    after, accepted = (await client.publish(an_event())).sequence, []
    for depth in range(40, 55):
        event = nested(depth)
        event.correlation_id = str(depth)
        with suppress(grpc.aio.AioRpcError):
            # As bytes, since the client's own parser has the same limit.
            await client.raw(f"EventService/{method}", part(1, event.SerializeToString()))
            accepted.append(event.correlation_id)
    assert 1 < len(accepted) < 15
    async with client.subscribe("order.created", after_sequence=after) as subscriber:
        assert [each.correlation_id for each in await subscriber.until_caught_up()] == accepted
    listed = await client.list_events("order.created", page_size=len(accepted))
    assert [each.correlation_id for each in listed.events] == accepted[::-1]


async def test_of_two_requests_of_a_unary_call_only_the_first_counts(
    client: Client, kind: str
) -> None:
    stream = client.raw_stream("EventService/Publish")
    for text in ("first", "second"):
        await stream.write(part(1, an_event(kind, text=text).SerializeToString()))
    await stream.done_writing()
    assert isinstance(await stream.read(), bytes)
    assert texts((await client.list_events(kind)).events) == ["first"]


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", bytes(100_000)]
)
async def test_a_peer_that_speaks_no_grpc_is_sent_away(
    client: Client, hub: HubProcess, noise: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.grpc_port)
    writer.write(noise)
    async with asyncio.timeout(30):
        await reader.read()
    writer.close()
    assert (await client.publish(an_event())).sequence


async def test_a_hub_may_be_told_to_take_larger_and_smaller_requests(tmp_path: Path) -> None:
    settings = {
        **MEMORY,
        "SWITCHBOARD_MAX_EVENT_BYTES": "2000",
        "SWITCHBOARD_MAX_MESSAGE_BYTES": "20000",
    }
    with running(tmp_path, settings) as hub:
        async with connect(hub) as client:
            await client.publish(an_event(text="." * 1900))
            failure = await failing(client.publish(an_event(text="." * 2000)))
            assert failure.metadata["limit"] == "2000"
            failure = await failing(client.publish_batch([an_event(text="." * 1900)] * 11))
            assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_data_may_nest_as_deep_as_is_promised_and_deeper_is_told_why(
    client: Client, kind: str
) -> None:
    def nested_objects(depth: int) -> Event:
        data: dict[str, Any] = {}
        for _ in range(depth - 1):
            data = {"in": data}
        event = an_event(kind)
        event.data.update(data)
        return event

    await client.publish(nested_objects(29))
    (listed,) = (await client.list_events(kind)).events
    assert listed.data == nested_objects(29).data
    failure = await failing(client.publish(nested_objects(34)))
    assert failure.reason == "MALFORMED_REQUEST"
    assert "nest `data` less than 30 deep" in failure.message

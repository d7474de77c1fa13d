"""Frames that stand for rpcs of EventService."""

import asyncio
from collections.abc import Sequence
from typing import Any

from switchboard.v1 import event_service_pb2, subscription_pb2
from switchboard_server.bridge.client import Client
from switchboard_server.bridge.frames import Frame
from switchboard_server.core.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    invalid_field,
)
from switchboard_server.core.groups.entries import Outcome
from switchboard_server.wire import encode
from switchboard_server.wire.codec import event_field
from switchboard_server.wire.decode import decode_events, prefixed
from switchboard_server.wire.event_requests import decode_publish, published
from switchboard_server.wire.group_messages import (
    decode_call,
    decode_extension,
    decode_rejection,
    outcomes,
)
from switchboard_server.wire.json_form import from_json, to_full_json

DEFAULT_CALL_SECONDS = 30.0
"""How long `call` waits, unless it says otherwise."""
CALL_SECONDS = (0.1, 300.0)
"""How long it may wait, in seconds."""


async def publish(client: Client, frame: Frame) -> dict[str, Any]:
    """`publish`: as Publish, or with `events` as PublishBatch."""
    if "events" in frame.data:
        return await _publish_batch(client, frame)
    request = from_json({"event": frame.data}, event_service_pb2.PublishRequest)
    draft = decode_publish(request, client.publisher)
    outcome = await client.hub.events.publish(draft, client.principal)
    return to_full_json(published(request, outcome, client.hub.events.log.log_id))


async def _publish_batch(client: Client, frame: Frame) -> dict[str, Any]:
    request = from_json(frame.data, event_service_pb2.PublishBatchRequest)
    drafts, _ = decode_events(type(request), request.SerializeToString(), client.publisher)
    outcome = await client.hub.events.publish(drafts, client.principal)
    results = encode.publish_results(drafts, outcome, client.hub.events.log.log_id)
    answer = to_full_json(event_service_pb2.PublishBatchResponse(results=results))
    for index, refusal in outcome.refused.items():
        # By the name that error frames have for it, without the enum's prefix.
        answer["results"][index]["error"]["reason"] = refusal.reason
    return answer


async def subscribe(client: Client, frame: Frame) -> dict[str, Any]:
    """`subscribe`: as Subscribe, by a name of the client's."""
    data = dict(frame.data)
    name = data.pop("subscription", "")
    if not isinstance(name, str):
        raise invalid_field("subscription", "must be a string")
    request = from_json(data, subscription_pb2.SubscribeRequest)
    return await client.subscriptions.subscribe(name, request, client.principal)


async def unsubscribe(client: Client, frame: Frame) -> dict[str, Any]:
    """`unsubscribe`: ends what `subscribe` began."""
    name = frame.data.get("subscription")
    if not isinstance(name, str) or not name:
        raise invalid_field("subscription", "is required: its name", reason="FIELD_MISSING")
    return {"subscription": name, "position": str(await client.subscriptions.unsubscribe(name))}


def _settled(names: Sequence[str], found: Sequence[Outcome]) -> dict[str, Any]:
    response = event_service_pb2.AcknowledgeResponse
    return to_full_json(response.FromString(outcomes(names, found)))


async def acknowledge(client: Client, frame: Frame) -> dict[str, Any]:
    """`acknowledge`: as Acknowledge."""
    request = from_json(frame.data, event_service_pb2.AcknowledgeRequest)
    found = await client.hub.groups.acknowledge(request.group, request.ack_ids, client.principal)
    return _settled(request.ack_ids, found)


async def reject(client: Client, frame: Frame) -> dict[str, Any]:
    """`reject`: as Reject."""
    request = from_json(frame.data, event_service_pb2.RejectRequest)
    found = await client.hub.groups.reject(
        request.group,
        request.ack_ids,
        client.principal,
        decode_rejection(request),
    )
    return _settled(request.ack_ids, found)


async def extend(client: Client, frame: Frame) -> dict[str, Any]:
    """`extend`: as ExtendDeadline."""
    request = from_json(frame.data, event_service_pb2.ExtendDeadlineRequest)
    found = await client.hub.groups.extend(
        request.group,
        request.ack_ids,
        client.principal,
        extension_ns=decode_extension(request),
    )
    return _settled(request.ack_ids, found)


async def call(client: Client, frame: Frame) -> dict[str, Any]:
    """`call`: as Call, which ends after `timeout_seconds`."""
    data = dict(frame.data)
    seconds = data.pop("timeout_seconds", DEFAULT_CALL_SECONDS)
    low, high = CALL_SECONDS
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise invalid_field("timeout_seconds", "must be a number")
    if not low <= seconds <= high:
        raise invalid_field("timeout_seconds", f"must be {low:g} to {high:g}")
    request = from_json(data, event_service_pb2.CallRequest)
    drafts, correlation_id = decode_call(request, client.publisher)
    try:
        async with asyncio.timeout(seconds):
            response = await client.hub.calls.call(drafts, correlation_id, client.principal)
    except InvalidArgumentError as error:
        raise prefixed(error, "event") from None
    except TimeoutError:
        raise DeadlineExceededError(
            "NO_RESPONSE", f"no response has come within {seconds:g} seconds"
        ) from None
    return to_full_json(event_service_pb2.CallResponse.FromString(event_field(response)))

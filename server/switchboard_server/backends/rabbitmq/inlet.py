"""The door for programs that speak AMQP: takes what they publish to the exchange `<prefix>.in`.

A message is one event. Property `content_type` says how it is written:

    application/json         the JSON form of `switchboard.v1.Event`, as on the bridge
    application/x-protobuf   `switchboard.v1.Event`

What the event does not say is taken from elsewhere: `type` from the routing key, `source_service`
from property `app_id`, `id` from `message_id`, `correlation_id` from the property of that name.
Give it an id: whatever comes twice then, because a publish was repeated or RabbitMQ delivers again,
is stored once.

It is confirmed to its publisher when it is in the quorum queue `<prefix>.v1.in`, and leaves that
when it is in the log. What is no event that the hub takes goes to the quorum queue
`<prefix>.v1.refused` as it came, with the headers `reason` (a `switchboard.v1.ErrorReason` without
its prefix) and `error`.

One node at a time takes events in, so that they stay in order.
"""

import asyncio
import json
import logging
from typing import Any

from google.protobuf.message import DecodeError

from switchboard.v1 import event_pb2, event_service_pb2
from switchboard_server.backends.rabbitmq.channel import Channel
from switchboard_server.backends.rabbitmq.encoding import Delivery, Envelope, Properties
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.topology import Topology
from switchboard_server.backends.rabbitmq.waiting import unavailable
from switchboard_server.core.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    SwitchboardError,
    UnavailableError,
)
from switchboard_server.core.events import EventHub
from switchboard_server.core.records import Drafts
from switchboard_server.wire.decode import parse_events
from switchboard_server.wire.event_requests import decode_publish
from switchboard_server.wire.json_form import from_json

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
PREFETCH = 256
"""Events on their way into the log."""
NOBODY = "amqp"
"""Publisher of events whose message names no user, a name that RabbitMQ has checked."""

_logger = logging.getLogger(__name__)


class Inlet:
    """Takes in what other programs publish.

    Args:
        link: The connection.
        topology: The names; declared when the log is open.
        hub: Takes the events.

    Attributes:
        taken: How many events were taken, duplicates included.
        refused: How many were not.
    """

    def __init__(self, link: Link, topology: Topology, hub: EventHub) -> None:
        self._link = link
        self._topology = topology
        self._hub = hub
        self._task: asyncio.Task[None] | None = None
        self.taken = 0
        self.refused = 0

    async def start(self) -> None:
        """Begins to take events, when it is this node's turn."""
        self._task = asyncio.create_task(
            self._link.keep("taking events of other programs", self._take_all), name="inlet"
        )

    async def close(self) -> None:
        """Stops; what was not stored yet comes to another node, or to this one again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _take_all(self) -> None:
        channel = await self._link.channel(prefetch=PREFETCH, confirms=True)
        arrived: asyncio.Queue[Delivery | None] = asyncio.Queue()
        channel.on_end(lambda: arrived.put_nowait(None))
        tasks: set[asyncio.Task[None]] = set()
        try:
            await channel.consume(self._topology.incoming, arrived.put_nowait)
            while (message := await arrived.get()) is not None:
                await self._hub.room()
                # Tasks begin in the order in which they are made, and so do their appends.
                task = asyncio.create_task(self._take(channel, message))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            for task in tasks:
                task.cancel()
            await channel.close()
        raise unavailable(channel.reason)

    async def _take(self, channel: Channel, message: Delivery) -> None:
        try:
            try:
                await self._publish(message)
                self.taken += 1
            except (UnavailableError, ResourceExhaustedError):
                raise
            except SwitchboardError as error:
                self.refused += 1
                await self._refuse(channel, message, error)
            await channel.acknowledge(message.tag)
        except SwitchboardError as error:
            # It comes again, and those after it too, in order.
            _logger.warning("an event of another program has to wait: %s", error.message)
            await channel.close()

    async def _publish(self, message: Delivery) -> None:
        outcome = await self._hub.publish(read(message), waited=True)
        if outcome.refused:
            raise outcome.refused[0]

    async def _refuse(self, channel: Channel, message: Delivery, error: SwitchboardError) -> None:
        given = message.properties
        headers: dict[str, Any] = {
            **(given.headers or {}),
            "reason": error.reason,
            "error": error.message,
            "routing_key": message.routing_key,
        }
        await channel.publish(
            "",
            self._topology.refused,
            message.body,
            Envelope(
                Properties(
                    content_type=given.content_type,
                    message_id=given.message_id,
                    correlation_id=given.correlation_id,
                    app_id=given.app_id,
                    delivery_mode=2,
                    headers=headers,
                )
            ),
        )


def read(message: Delivery) -> Drafts:
    """The event of a message.

    Raises:
        InvalidArgumentError: It holds none.
    """
    given = message.properties
    event = _event(given.content_type or "", message.body)
    event.type = event.type or message.routing_key
    event.source_service = event.source_service or given.app_id or ""
    event.id = event.id or given.message_id or ""
    event.correlation_id = event.correlation_id or given.correlation_id or ""
    raw = event_service_pb2.PublishRequest(event=event).SerializeToString()
    request = parse_events(event_service_pb2.PublishRequest, raw)
    return decode_publish(request, given.user_id or NOBODY)


def _event(content_type: str, body: bytes) -> event_pb2.Event:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON:
        try:
            data = json.loads(body)
        except ValueError as error:
            raise InvalidArgumentError("MALFORMED_REQUEST", f"no JSON: {error}") from error
        if not isinstance(data, dict):
            raise InvalidArgumentError("MALFORMED_REQUEST", "an event is a JSON object")
        return from_json(data, event_pb2.Event)
    if kind == PROTOBUF:
        try:
            return event_pb2.Event.FromString(body)
        except DecodeError as error:
            text = "the body is no switchboard.v1.Event"
            raise InvalidArgumentError("MALFORMED_REQUEST", text) from error
    raise InvalidArgumentError(
        "MALFORMED_REQUEST",
        f"content_type {content_type[:80]!r} is unknown; {JSON} or {PROTOBUF}",
    )

"""A channel whose publishes are futures, and which ends once and says why."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import aiormq
from aiormq import spec
from aiormq.abc import DeliveredMessage

from switchboard_server.backends.rabbitmq.direct import DirectChannel, Receiver
from switchboard_server.backends.rabbitmq.encoding import TRANSIENT, Delivery, Envelope
from switchboard_server.backends.rabbitmq.ending import Ending
from switchboard_server.backends.rabbitmq.frames import Transport
from switchboard_server.backends.rabbitmq.waiting import (
    CALL_SECONDS,
    answered,
    describe,
    failed,
    unavailable,
)

_logger = logging.getLogger(__name__)


class Channel(Ending):
    """One AMQP channel. It is not made anew: when it has ended, whoever used it opens another.

    All that is published on it reaches the broker in the order of the calls, and nothing after it
    has ended.

    Args:
        raw: The driver's channel, for what this class does not wrap.
        transport: What the connection goes over.
    """

    def __init__(self, raw: aiormq.Channel, transport: Transport) -> None:
        super().__init__()
        self.raw = raw
        self._direct = DirectChannel(raw, transport)
        self._consumers = 0
        self._closing: asyncio.Task[None] | None = None
        raw.on_consumer_cancel_callbacks.add(self._cancelled)
        raw.closing.add_done_callback(self._raw_closed)

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        envelope: Envelope = TRANSIENT,
        *,
        mandatory: bool = False,
        seconds: float = CALL_SECONDS,
    ) -> asyncio.Future[None]:
        """Publishes a message on a channel that confirms, without waiting for earlier ones.

        Args:
            exchange: Where to; empty: the queue that the routing key names.
            routing_key: At most 255 bytes.
            body: The message.
            envelope: Its properties.
            mandatory: Have it come back when no queue takes it.
            seconds: How long the confirm may take.

        Returns:
            Answers when the broker has confirmed it. Fails with UnroutableError when it came back,
            and with UnavailableError when it was refused, or when nobody knows: then it may have
            been stored. Cancelling it takes nothing back.
        """
        if self.ended.is_set():
            return failed(unavailable(f"the channel has ended: {self.reason}"))
        address = exchange, routing_key, mandatory
        return self._direct.publish(address, envelope, body, seconds)

    async def consume(
        self,
        queue: str,
        receiver: Receiver,
        *,
        no_ack: bool = False,
        arguments: Mapping[str, Any] | None = None,
        tag: str | None = None,
    ) -> str:
        """Begins to take messages. If the broker ends it, for the queue is gone, the channel ends.

        Args:
            queue: Where from.
            receiver: Takes each message, in order. Must not block and must not raise.
            no_ack: The broker forgets what it has sent.
            arguments: Such as `x-stream-offset`.
            tag: Name of the consumer; None: any.

        Returns:
            Name of the consumer.
        """

        def receive(message: Delivery) -> None:
            if self.ended.is_set():
                return
            try:
                receiver(message)
            except Exception:
                _logger.exception("a receiver of %s failed", queue)

        self._consumers += 1
        tag = tag or f"{self._consumers}"
        self._direct.listen(tag, receive)
        await answered(
            self.raw.basic_consume(
                queue, _leave, no_ack=no_ack, arguments=dict(arguments or {}), consumer_tag=tag
            ),
            f"consuming {queue}",
        )
        return tag

    async def cancel(self, tag: str) -> None:
        """Takes no more messages. What is on its way may still come until this returns."""
        await answered(self.raw.basic_cancel(tag), "ending a consumer")
        self._direct.listen(tag, None)

    async def acknowledge(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """Tells the broker that a message is done with.

        Args:
            delivery_tag: Its number on this channel.
            multiple: All earlier ones are, too.
        """
        await answered(
            self.raw.basic_ack(delivery_tag, multiple=multiple, wait=False), "an acknowledgement"
        )

    async def declare_queue(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        durable: bool = True,
        exclusive: bool = False,
        passive: bool = False,
    ) -> int:
        """Declares a queue, or asks about it.

        A queue that exists with other arguments ends the channel.

        Returns:
            How many messages are ready in it.
        """
        done = await answered(
            self.raw.queue_declare(
                name,
                durable=durable,
                exclusive=exclusive,
                auto_delete=exclusive,
                passive=passive,
                arguments=dict(arguments),
            ),
            f"declaring queue {name}",
        )
        return int(done.message_count or 0)

    async def delete_queue(self, name: str) -> None:
        """Removes a queue; one that is not there is no failure."""
        await answered(self.raw.queue_delete(name), f"deleting queue {name}")

    async def declare_exchange(
        self, name: str, kind: str, *, durable: bool = True, internal: bool = False
    ) -> None:
        """Declares an exchange."""
        await answered(
            self.raw.exchange_declare(name, exchange_type=kind, durable=durable, internal=internal),
            f"declaring exchange {name}",
        )

    async def bind(self, queue: str, exchange: str, routing_key: str = "") -> None:
        """Has an exchange's messages come into a queue."""
        await answered(
            self.raw.queue_bind(queue, exchange, routing_key), f"binding {queue} to {exchange}"
        )

    async def drain(self, seconds: float) -> None:
        """Waits until what was published has been answered, or for so long."""
        if self._direct.waiting:
            await asyncio.wait(list(self._direct.waiting.values()), timeout=seconds)

    async def close(self) -> None:
        """Ends it; what was published before has reached the broker, unless the link is down."""
        self.end("it was closed")
        try:
            await answered(self.raw.close(), "closing a channel", 3.0)
        except Exception as error:
            _logger.debug("closing a channel: %s", error)

    def _cancelled(self, frame: spec.Basic.Cancel) -> None:
        self.end(f"the broker ended consumer {frame.consumer_tag}")
        self._closing = asyncio.create_task(self.close())

    def _raw_closed(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        # An exception without a class of its own is how the driver ends what waits when it closes.
        known = error is not None and type(error) is not Exception
        reason = describe(error) if error is not None and known else "the connection ended"
        self.end(reason)
        self._direct.end(reason)


async def _leave(_: DeliveredMessage) -> None:
    """What the driver calls for messages, of which it sees none."""

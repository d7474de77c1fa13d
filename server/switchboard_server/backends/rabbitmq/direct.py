"""Publishing without a task for each message, which is most of what it costs in the driver.

It does what `aiormq.Channel.basic_publish` does, at once instead of in a coroutine: the same
bookkeeping, so that the driver's own handling of confirms and of messages that come back finds it.
`tests/integration/test_rabbitmq_direct.py` tells when the driver has changed.
"""

import asyncio
from functools import partial
from typing import Any

import aiormq
from aiormq.abc import ChannelFrame
from aiormq.exceptions import PublishError
from pamqp import commands as spec
from pamqp.header import ContentHeader

from switchboard_server.backends.rabbitmq.waiting import UnroutableError, describe, unavailable


class DirectPublisher:
    """Publishes on a channel that confirms, while nothing waits to be written before.

    Args:
        raw: The driver's channel.
    """

    def __init__(self, raw: aiormq.Channel) -> None:
        self._raw: Any = raw
        self._loop = asyncio.get_running_loop()

    def publish(
        self,
        outcome: "asyncio.Future[None]",
        body: bytes,
        properties: spec.Basic.Properties,
        *,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        seconds: float,
    ) -> bool:
        """Publishes a message.

        Args:
            outcome: Is answered as `Channel.publish` says; the other arguments are its as well.
            body: The message.
            properties: Get an id if they have none.
            exchange: Where to.
            routing_key: By which key.
            mandatory: Have it come back when no queue takes it.
            seconds: How long the confirm may take.

        Returns:
            Whether it was: not where the connection does not write fast enough, and it has to wait.
        """
        raw = self._raw
        if raw.is_closed or raw.write_queue.full() or outcome.done():
            return False
        tag = raw.delivery_tag + 1
        name = properties.message_id
        if not name:
            # By it a message that comes back is found; unlike all that wait on the channel.
            name = properties.message_id = f"{tag:x}"
        frames = [
            spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory),
            ContentHeader(properties=properties, body_size=len(body)),
            *raw._split_body(body),
        ]
        frame = ChannelFrame.marshall(frames=frames, channel_number=raw.number)
        raw.delivery_tag = tag
        confirmation: asyncio.Future[Any] = raw.create_future()
        raw.confirmations[tag] = confirmation
        raw.message_id_delivery_tag[name] = tag
        raw.write_queue.put_nowait(frame)
        late = self._loop.call_later(seconds, _too_late, outcome, seconds)
        confirmation.add_done_callback(partial(self._confirmed, name, tag, outcome, late))
        return True

    def _confirmed(
        self,
        name: str,
        tag: int,
        outcome: "asyncio.Future[None]",
        late: asyncio.TimerHandle,
        confirmation: "asyncio.Future[Any]",
    ) -> None:
        late.cancel()
        tags: dict[str, int] = self._raw.message_id_delivery_tag
        if tags.get(name) == tag:
            del tags[name]
        if outcome.done():
            return
        error = _failure(confirmation)
        if error is None:
            outcome.set_result(None)
        else:
            _fail(outcome, error)


def _failure(confirmation: "asyncio.Future[Any]") -> Exception | None:
    if confirmation.cancelled():
        return unavailable("a publish failed: the connection ended")
    error = confirmation.exception()
    if isinstance(error, PublishError):
        return UnroutableError(
            "LOG_UNAVAILABLE", "RabbitMQ: a publish came back: no queue takes it"
        )
    if error is not None:
        why = "the connection ended" if type(error) is Exception else describe(error)
        return unavailable(f"a publish failed: {why}")
    if not isinstance(confirmation.result(), spec.Basic.Ack):
        return unavailable("a publish was refused")
    return None


def _too_late(outcome: "asyncio.Future[None]", seconds: float) -> None:
    if not outcome.done():
        _fail(outcome, unavailable(f"a publish was not answered within {seconds:g} s"))


def _fail(outcome: "asyncio.Future[None]", error: Exception) -> None:
    outcome.set_exception(error)
    outcome.exception()  # Whoever did not wait for the answer does not care.

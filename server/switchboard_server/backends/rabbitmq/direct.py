"""Publishing and consuming past the driver, which makes tasks for every message.

It gives the driver's channel the same delivery tags, so that one may be told of by the other, and
leaves everything but publishes, their confirms and deliveries to it.
`tests/integration/test_rabbitmq_direct.py` tells when the driver has changed.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiormq
from aiormq.abc import DeliveredMessage
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.frame import marshal, unmarshal
from pamqp.header import ContentHeader

from switchboard_server.backends.rabbitmq.frames import BODY, HEADER, METHOD, Transport
from switchboard_server.backends.rabbitmq.waiting import UnroutableError, unavailable
from switchboard_server.core.errors import SwitchboardError

Receiver = Callable[[DeliveredMessage], None]


def _kind(method: type[Any]) -> bytes:
    """By what the payload of a method's frame begins: its class and number, two bytes each."""
    return int(method.index).to_bytes(4, "big")


_DELIVER, _RETURN = _kind(spec.Basic.Deliver), _kind(spec.Basic.Return)
_ACK, _NACK = _kind(spec.Basic.Ack), _kind(spec.Basic.Nack)
_CLOSE = _kind(spec.Channel.Close)


@dataclass(slots=True)
class _Content:
    """A message of which not all has come.

    Args:
        method: What is done with it.
        header: Its header, once that has come.
        parts: Its body so far.
        missing: Bytes of the body that have not come.
    """

    method: Any
    header: Any = None
    parts: list[bytes] = field(default_factory=list)
    missing: int = 0


class DirectChannel:
    """The frames of one channel that are not the driver's to read and to write.

    Args:
        raw: The driver's channel.
        transport: What its connection goes over.
    """

    def __init__(self, raw: aiormq.Channel, transport: Transport) -> None:
        self._raw = raw
        self._transport = transport
        self._takers = transport.frames.takers
        self._loop = asyncio.get_running_loop()
        self._tag = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._names: dict[str, int] = {}
        self._content: _Content | None = None
        self._closed = False
        self.receivers: dict[str, Receiver] = {}
        """Who takes what comes for a consumer. Must not raise."""
        self._takers[raw.number] = self

    def end(self, reason: str) -> None:
        """Takes no more frames, and fails the publishes that wait."""
        if self._takers.get(self._raw.number) is self:
            del self._takers[self._raw.number]
        self.receivers.clear()
        error = unavailable(f"a publish failed: {reason}")
        for outcome in list(self._waiting.values()):
            _fail(outcome, error)

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
    ) -> None:
        """Publishes a message.

        Args:
            outcome: Is answered as `Channel.publish` says; the other arguments are its as well.
            body: The message.
            properties: Get an id if they have none.
            exchange: Where to.
            routing_key: By which key.
            mandatory: Have it come back when no queue takes it.
            seconds: How long the confirm may take.
        """
        self._tag = tag = self._tag + 1
        # By it a message that comes back is found.
        name = properties.message_id = properties.message_id or f"{tag:x}"
        self._waiting[tag] = outcome
        self._names[name] = tag
        late = self._loop.call_later(seconds, _too_late, outcome, seconds)
        outcome.add_done_callback(partial(self._answered, tag, name, late))
        if self._closed:
            return  # It fails when the driver has noticed.
        number = self._raw.number
        method = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        header = ContentHeader(properties=properties, body_size=len(body))
        most = self._raw.max_content_size
        parts = [body[at : at + most] for at in range(0, len(body), most)]
        frames: list[Any] = [method, header, *map(ContentBody, parts)]
        self._transport.write(b"".join([marshal(each, number) for each in frames]))

    def take(self, frame: bytes) -> bool:
        """See `FrameTaker`."""
        if frame[0] == METHOD:
            return self._take_method(frame)
        content = self._content
        if content is None:
            return False
        if frame[0] == HEADER:
            content.header = unmarshal(frame)[2]
            content.missing = content.header.body_size
        elif frame[0] == BODY:
            content.parts.append(frame[7:-1])
            content.missing -= len(frame) - 8
        if content.missing <= 0:
            self._content = None
            self._arrived(content)
        return True

    def _take_method(self, frame: bytes) -> bool:
        kind = frame[7:11]
        if kind in (_DELIVER, _RETURN):
            self._content = _Content(unmarshal(frame)[2])
        elif kind in (_ACK, _NACK):
            self._confirmed(unmarshal(frame)[2])
        else:
            # After this nothing may be written any more, and the driver notices it later.
            self._closed = self._closed or kind == _CLOSE
            return False
        return True

    def _arrived(self, content: _Content) -> None:
        method, parts = content.method, content.parts
        if isinstance(method, spec.Basic.Return):
            self._returned(content.header.properties.message_id)
            return
        receiver = self.receivers.get(method.consumer_tag)
        if receiver is not None:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            receiver(DeliveredMessage(method, content.header, body, self._raw))

    def _returned(self, name: str) -> None:
        outcome = self._waiting.get(self._names.get(name, 0))
        if outcome is not None:  # Its confirm follows.
            _fail(
                outcome,
                UnroutableError(
                    "LOG_UNAVAILABLE", "RabbitMQ: a publish came back: no queue takes it"
                ),
            )

    def _confirmed(self, method: Any) -> None:
        last = method.delivery_tag
        tags = [last]
        if method.multiple:
            tags = [tag for tag in self._waiting if tag <= last]
        for tag in tags:
            outcome = self._waiting.get(tag)
            if outcome is None or outcome.done():
                continue
            if isinstance(method, spec.Basic.Ack):
                outcome.set_result(None)
            else:
                _fail(outcome, unavailable("a publish was refused"))

    def _answered(
        self, tag: int, name: str, late: asyncio.TimerHandle, _: "asyncio.Future[None]"
    ) -> None:
        late.cancel()
        self._waiting.pop(tag, None)
        if self._names.get(name) == tag:
            del self._names[name]


def _too_late(outcome: "asyncio.Future[None]", seconds: float) -> None:
    _fail(outcome, unavailable(f"a publish was not answered within {seconds:g} s"))


def _fail(outcome: "asyncio.Future[None]", error: SwitchboardError) -> None:
    if not outcome.done():
        outcome.set_exception(error)
        outcome.exception()  # Whoever did not wait for the answer does not care.

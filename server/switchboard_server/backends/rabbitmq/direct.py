"""Publishing and consuming past the driver, which makes tasks for every message.

Publishes, their confirms and deliveries are all that goes past it; everything else of a channel is
the driver's.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import aiormq
from aiormq import spec
from pamqp.frame import unmarshal

from switchboard_server.backends.rabbitmq.encoding import (
    BODY,
    HEAD_BYTES,
    HEADER,
    METHOD,
    Delivery,
    Encoder,
    Envelope,
)
from switchboard_server.backends.rabbitmq.frames import Transport
from switchboard_server.backends.rabbitmq.waiting import UnroutableError, unavailable
from switchboard_server.core.errors import SwitchboardError

Receiver = Callable[[Delivery], None]


def _kind(method: type[Any]) -> bytes:
    """By what the payload of a method's frame begins: its class and number, two bytes each."""
    return int(method.index).to_bytes(4, "big")


_DELIVER, _RETURN = _kind(spec.Basic.Deliver), _kind(spec.Basic.Return)
_ACK, _NACK = _kind(spec.Basic.Ack), _kind(spec.Basic.Nack)
_CLOSES = _kind(spec.Channel.Close), _kind(spec.Channel.CloseOk)
_ARGUMENTS = HEAD_BYTES + 4


class DirectChannel:
    """The frames of one channel that are not the driver's to read and to write.

    Args:
        raw: The driver's channel.
        transport: What its connection goes over.

    Attributes:
        waiting: The publishes that are not answered, by their delivery tags.
    """

    def __init__(self, raw: aiormq.Channel, transport: Transport) -> None:
        self._number = raw.number
        self._transport = transport
        self._takers = transport.frames.takers
        self._takers[raw.number] = self
        self._encoder = Encoder(raw.number, raw.max_content_size)
        self._loop = asyncio.get_running_loop()
        self._tag = 0
        self._names: dict[str, int] = {}
        self._closed = False
        self._content: _Content | None = None
        self._receivers: dict[bytes, Receiver] = {}
        self.waiting: dict[int, asyncio.Future[None]] = {}

    def listen(self, consumer: str, receiver: Receiver | None) -> None:
        """Says who takes what comes for a consumer.

        Args:
            consumer: Its tag.
            receiver: Must not raise; None: nobody.
        """
        if receiver is None:
            self._receivers.pop(consumer.encode(), None)
        else:
            self._receivers[consumer.encode()] = receiver

    def end(self, reason: str) -> None:
        """Hands over no more messages, and fails the publishes that wait.

        RabbitMQ may send messages until it has read that the channel is closed. They are taken and
        dropped: the driver, which reads nothing of a channel that it has ended, would read nothing
        of the connection any more once some have gathered.
        """
        self._receivers.clear()
        error = unavailable(f"a publish failed: {reason}")
        for outcome in list(self.waiting.values()):
            _fail(outcome, error)

    def publish(
        self, address: tuple[str, str, bool], envelope: Envelope, body: bytes, seconds: float
    ) -> "asyncio.Future[None]":
        """Publishes a message.

        Args:
            address: Exchange, routing key, and whether it is to come back if no queue takes it.
            envelope: Its properties.
            body: The message.
            seconds: How long the confirm may take.

        Returns:
            As `Channel.publish` says.
        """
        self._tag = tag = self._tag + 1
        # By its id a message that comes back is found.
        name, frames = self._encoder.message(address, envelope, tag, body)
        outcome = self.waiting[tag] = self._loop.create_future()
        self._names[name] = tag
        late = self._loop.call_later(seconds, _too_late, outcome, seconds)
        outcome.add_done_callback(partial(self._answered, tag, name, late))
        if not self._closed:  # Otherwise it fails when the driver has noticed.
            self._transport.write(frames)
        return outcome

    def take(self, data: bytes, start: int, end: int) -> bool:
        """See `FrameTaker`."""
        kind = data[start]
        if kind == METHOD:
            return self._take_method(data, start, end)
        content = self._content
        if content is None:
            return False
        if kind == HEADER:
            content.header = data[start:end]
            content.missing = int.from_bytes(data[start + 11 : start + 19], "big")
        elif kind == BODY:
            content.parts.append(data[start + HEAD_BYTES : end - 1])
            content.missing -= end - 1 - start - HEAD_BYTES
        if content.missing <= 0:
            self._content = None
            self._arrived(content)
        return True

    def _take_method(self, data: bytes, start: int, end: int) -> bool:
        at = start + _ARGUMENTS
        kind = data[start + HEAD_BYTES : at]
        if kind in (_DELIVER, _RETURN):
            self._content = _Content(data[start:end])
        elif kind in (_ACK, _NACK):
            tag = int.from_bytes(data[at : at + 8], "big")
            self._confirmed(tag, multiple=bool(data[at + 8] & 1), stored=kind == _ACK)
        else:
            if kind in _CLOSES:
                # After this nothing may be written any more, and the driver notices it later.
                # Nothing comes either, until another channel has the number.
                self._closed = True
                del self._takers[self._number]
            return False
        return True

    def _arrived(self, content: "_Content") -> None:
        method = content.method
        if method[HEAD_BYTES:_ARGUMENTS] == _RETURN:
            header: Any = unmarshal(content.header)[2]
            self._returned(header.properties.message_id)
            return
        at = _ARGUMENTS + 1 + method[_ARGUMENTS]
        receiver = self._receivers.get(method[_ARGUMENTS + 1 : at])
        if receiver is not None:
            parts = content.parts
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            tag = int.from_bytes(method[at : at + 8], "big")
            receiver(Delivery(tag, method, content.header, body))

    def _returned(self, name: str) -> None:
        outcome = self.waiting.get(self._names.get(name, 0))
        if outcome is not None:  # Its confirm follows.
            text = "RabbitMQ: a publish came back: no queue takes it"
            _fail(outcome, UnroutableError("LOG_UNAVAILABLE", text))

    def _confirmed(self, last: int, *, multiple: bool, stored: bool) -> None:
        # They are in the order of their tags.
        tags = [tag for tag in self.waiting if tag <= last] if multiple else [last]
        for tag in tags:
            outcome = self.waiting.get(tag)
            if outcome is None or outcome.done():
                continue
            if stored:
                outcome.set_result(None)
            else:
                _fail(outcome, unavailable("a publish was refused"))

    def _answered(
        self, tag: int, name: str, late: asyncio.TimerHandle, _: "asyncio.Future[None]"
    ) -> None:
        late.cancel()
        del self.waiting[tag]
        if self._names.get(name) == tag:
            del self._names[name]


class _Content:
    """A message of which not all has come.

    Attributes:
        method: The frame of what is done with it.
        header: The frame of its header.
        parts: Its body so far.
        missing: Bytes of the body that have not come; while there is no header, at least one.
    """

    __slots__ = ("header", "method", "missing", "parts")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self.header = b""
        self.parts: list[bytes] = []
        self.missing = 1


def _too_late(outcome: "asyncio.Future[None]", seconds: float) -> None:
    _fail(outcome, unavailable(f"a publish was not answered within {seconds:g} s"))


def _fail(outcome: "asyncio.Future[None]", error: SwitchboardError) -> None:
    if not outcome.done():
        outcome.set_exception(error)
        outcome.exception()  # Whoever did not wait for the answer does not care.

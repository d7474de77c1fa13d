"""Messages as frames: the driver's own coder says what they are."""

from datetime import UTC, datetime
from typing import Any

import pytest
from aiormq import spec
from pamqp.body import ContentBody
from pamqp.frame import marshal, unmarshal
from pamqp.header import ContentHeader

from switchboard_server.backends.rabbitmq.encoding import (
    OFFSET,
    PERSISTENT,
    Delivery,
    Encoder,
    Envelope,
    Properties,
)

EVERYTHING: dict[str, Any] = {
    "content_type": "text/plain",
    "content_encoding": "gzip",
    "delivery_mode": 2,
    "priority": 9,
    "correlation_id": "to what",
    "reply_to": "to whom",
    "expiration": "60000",
    "timestamp": datetime(2024, 5, 6, tzinfo=UTC),
    "message_type": "events",
    "user_id": "guest",
    "app_id": "a program",
}


def frames(data: bytes) -> list[Any]:
    """What the driver makes of some frames, all of channel 7."""
    found = []
    while data:
        size, channel, frame = unmarshal(data)
        assert channel == 7
        found.append(frame)
        data = data[size:]
    return found


def test_a_message_is_what_the_driver_would_have_made_of_it() -> None:
    encoder = Encoder(7, 100)
    address = ("an exchange", "a.key", True)
    properties = {**EVERYTHING, "headers": {"CC": ["b", "c"]}}
    for tag, size in ((1, 0), (2, 1), (3, 100), (0xABCDEF, 101), (1 << 40, 300)):
        body = bytes(number % 251 for number in range(size))
        name, data = encoder.message(address, Envelope(Properties(**properties)), tag, body)
        method, header, *parts = frames(data)
        assert (method.exchange, method.routing_key, method.mandatory) == address
        assert len(name) == 8
        assert header.body_size == size
        assert header.properties == Properties(**properties, message_id=name)
        assert [len(part.value) for part in parts] == [
            min(100, size - at) for at in range(0, size, 100)
        ]
        assert b"".join(part.value for part in parts) == body


def test_an_id_that_is_given_is_kept() -> None:
    envelope = Envelope(Properties(message_id="its own", app_id="a program"))
    name, data = Encoder(7, 100).message(("", "q", False), envelope, 5, b"x")
    assert name == frames(data)[1].properties.message_id == "its own"


def test_messages_to_many_addresses_each_go_to_their_own() -> None:
    encoder = Encoder(7, 100)
    for number in [*range(1000), *range(1000)]:
        _, data = encoder.message(("", f"q{number}", number % 2 == 0), PERSISTENT, 1, b"")
        method = frames(data)[0]
        assert (method.routing_key, method.mandatory) == (f"q{number}", number % 2 == 0)


def delivered(**properties: Any) -> Delivery:
    """A message with some properties, as it comes."""
    method = spec.Basic.Deliver("consumer", 5, exchange="an exchange", routing_key="a.key")
    header = ContentHeader(body_size=1, properties=Properties(**properties))
    return Delivery(5, bytes(marshal(method, 7)), bytes(marshal(header, 7)), b"x")


@pytest.mark.parametrize("without", [None, *EVERYTHING])
@pytest.mark.parametrize("headers", [{OFFSET: 1 << 40}, {"a": "b", OFFSET: 7, "c": [1, 2]}, None])
def test_what_is_asked_for_is_found_whatever_else_there_is(
    without: str | None, headers: dict[str, Any] | None
) -> None:
    given = {name: value for name, value in EVERYTHING.items() if name != without}
    message = delivered(**given, headers=headers, message_id="id")
    assert message.type == given.get("message_type", "")
    assert message.reply_to == given.get("reply_to", "")
    assert message.routing_key == "a.key"
    assert message.properties.message_id == "id"
    if headers is not None:
        assert message.offset == headers[OFFSET]


def test_a_message_without_properties_has_none() -> None:
    message = delivered()
    assert (message.type, message.reply_to) == ("", "")
    assert ContentBody(message.body).value == b"x"

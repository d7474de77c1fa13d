"""What peers say to each other, as those see it who send and receive."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from switchboard_server.backends.rabbitmq.packets import Bytes

T = TypeVar("T")

Body = Bytes | Sequence[Bytes]
"""Bytes that go with a message, in pieces or whole."""


@dataclass(frozen=True, slots=True)
class AtSeat:
    """Whoever holds a seat, as a target."""

    name: str


Target = str | AtSeat
"""A node's address (`Node.session`), or a seat."""


@dataclass(frozen=True, slots=True)
class Received(Generic[T]):
    """A message of another node, or of this one.

    Args:
        message: What it says.
        body: Bytes that came with it, as they were sent.
        sender: Address of the node that sent it.
    """

    message: T
    body: Bytes
    sender: str


Handler = Callable[[Received[Any]], Awaitable[object]]
Receiver = Callable[[Received[Any]], None]


def name_of(kind: type[Any]) -> str:
    """How a message is called on its way."""
    return kind.__name__


def joined(body: Body) -> Bytes:
    """A body in one piece."""
    return body if isinstance(body, bytes | memoryview) else b"".join(body)

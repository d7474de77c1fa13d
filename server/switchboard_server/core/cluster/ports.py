"""What crosses nodes: messages to one of them, or to whoever holds a seat."""

from collections.abc import Awaitable, Callable, Collection
from typing import Protocol, TypeVar

T = TypeVar("T")

Handler = Callable[[T, str], Awaitable[object]]
"""Answers a message, of a node with an address."""
Receiver = Callable[[T, bytes | memoryview, str], None]
"""Takes a message, and the bytes that came with it, of a node with an address."""


class CarrierListener(Protocol):
    """What a carrier tells. Called in the event loop; must not block and must not raise."""

    def node_gone(self, address: str) -> None:
        """Takes notice that nothing more comes from an address, nor arrives there.

        The node that had it may be there under another one. A node that has lost its own address
        hears that all others are gone.
        """
        ...

    def seat_moved(self, seat: str, address: str) -> None:
        """Takes notice that somebody else holds a seat; empty: nobody does."""
        ...


class Carrier(Protocol):
    """Carries messages between the nodes of a hub.

    A node has an address for as long as its connection lasts. Messages of one address to another
    arrive in the order of the calls, each at most once; where one does not arrive, both sides hear
    that the other is gone.

    A seat is held by one node at a time, or by nobody. Messages are frozen dataclasses of plain
    things, known by the names of their classes.

    All methods are called in one event loop.
    """

    @property
    def node(self) -> str:
        """Name of this node, the same for as long as the process runs."""
        ...

    @property
    def address(self) -> str:
        """This node's address; empty while it has none."""
        ...

    @property
    def nodes(self) -> Collection[str]:
        """The addresses of those who are there, this node's included."""
        ...

    async def request(
        self, target: str, message: object, expects: type[T], seconds: float, *, seat: bool
    ) -> T:
        """Sends a message and waits for the answer.

        Safe to cancel: what has been sent is done all the same.

        Args:
            target: The seat, or the address of a node.
            message: What to say.
            expects: Of which class the answer is.
            seconds: How long to wait at most.
            seat: Whether the target is a seat. While nobody holds it, the message waits; where its
                holder is lost before it answered, the message goes to the next one, so that it may
                be handled twice.

        Raises:
            UnavailableError: There was no answer in time, or the node is gone.
            ResourceExhaustedError: Too much waits to be sent.
            SwitchboardError: What the handler raised.
        """
        ...

    def tell(self, address: str, message: object, body: bytes = b"") -> bool:
        """Sends a message that wants no answer, with some bytes that are left as they are.

        Returns:
            Whether it was sent; False: the node is gone.

        Raises:
            ResourceExhaustedError: Too much waits to be sent.
        """
        ...

    def on_request(self, kind: type[T], handler: Handler[T]) -> None:
        """Says who answers messages of a class.

        Each is handled in a task of its own, and what is raised of `SwitchboardError` is raised
        where the answer is waited for.
        """
        ...

    def on_tell(self, kind: type[T], receiver: Receiver[T]) -> None:
        """Says who takes messages of a class; must not block and must not raise."""
        ...

    def watch(self, listener: CarrierListener) -> None:
        """Says who hears of nodes and seats."""
        ...

"""Groups of many nodes over RabbitMQ: what crosses nodes, and which node has which groups."""

from collections.abc import Collection
from typing import TypeVar

from switchboard_server.backends.rabbitmq.groups import JournalGroups
from switchboard_server.backends.rabbitmq.journal import Journal
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.messages import AtSeat, Received
from switchboard_server.backends.rabbitmq.peers import Peers
from switchboard_server.backends.rabbitmq.roster import Holding, Node
from switchboard_server.backends.rabbitmq.seat import Seat, Term
from switchboard_server.backends.rabbitmq.topology import Topology
from switchboard_server.core.cluster.groups import SpreadGroups
from switchboard_server.core.cluster.ports import CarrierListener, Handler, Receiver
from switchboard_server.core.cluster.seats import all_seats
from switchboard_server.core.events import EventHub
from switchboard_server.core.groups.fetching import Fetcher

T = TypeVar("T")


class PeersCarrier:
    """A `Carrier` over the peers of a node.

    Args:
        peers: The nodes.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    @property
    def node(self) -> str:
        """See `Carrier.node`."""
        return self._peers.id

    @property
    def address(self) -> str:
        """See `Carrier.address`."""
        return self._peers.session

    @property
    def nodes(self) -> Collection[str]:
        """See `Carrier.nodes`."""
        return self._peers.nodes

    async def request(
        self, target: str, message: object, expects: type[T], seconds: float, *, seat: bool
    ) -> T:
        """See `Carrier.request`."""
        reply = await self._peers.request(
            AtSeat(target) if seat else target, message, expects, seconds=seconds, again=seat
        )
        return reply.message

    def tell(self, address: str, message: object, body: bytes = b"") -> bool:
        """See `Carrier.tell`."""
        return self._peers.tell(address, message, body)

    def on_request(self, kind: type[T], handler: Handler[T]) -> None:
        """See `Carrier.on_request`."""

        async def answer(received: Received[T]) -> object:
            return await handler(received.message, received.sender)

        self._peers.on_request(kind, answer)

    def on_tell(self, kind: type[T], receiver: Receiver[T]) -> None:
        """See `Carrier.on_tell`."""

        def take(received: Received[T]) -> None:
            receiver(received.message, received.body, received.sender)

        self._peers.on_tell(kind, take)

    def watch(self, listener: CarrierListener) -> None:
        """See `Carrier.watch`."""

        def node_changed(node: Node, is_there: bool) -> None:
            if not is_there:
                listener.node_gone(node.session)

        def seat_changed(seat: str, holding: Holding | None) -> None:
            listener.seat_moved(seat, "" if holding is None else holding.session)

        self._peers.watch_nodes(node_changed)
        self._peers.watch_seats(seat_changed)


class GroupSeats:
    """Stands for the seats of groups, and has the groups of those that it gets served.

    Args:
        link: The connection.
        topology: The names.
        peers: The nodes, on the same connection.
        groups: Serves groups.
        events: The node's events.

    Attributes:
        seats: The seats, of which each node holds some.
    """

    def __init__(
        self,
        link: Link,
        topology: Topology,
        peers: Peers,
        groups: SpreadGroups,
        events: EventHub,
    ) -> None:
        self._link = link
        self._topology = topology
        self._groups = groups
        self._events = events
        self._fetcher = Fetcher(events)
        self._stores: dict[str, JournalGroups] = {}
        self.seats = [
            Seat(
                link,
                topology,
                peers,
                name,
                taken=self._taken,
                leaving=self._leaving,
                lost=self._lost,
            )
            for name in all_seats()
        ]

    async def start(self) -> None:
        """Begins to stand for them, and does not wait until any is taken."""
        for seat in self.seats:
            await seat.start()

    async def close(self) -> None:
        """Saves the groups that are here, and gives all seats up."""
        for seat in self.seats:
            await seat.close()

    async def _taken(self, term: Term) -> None:
        journal = Journal(self._link, self._topology, term)
        store = JournalGroups(journal, self._fetcher.read_each, self._earliest)
        self._stores[term.seat] = store
        await store.open()
        await self._groups.take(term.seat, store)
        # From the very moment that nothing is kept any more: whoever waits for it asks the next.
        term.on_end(lambda: self._groups.lose(term.seat))

    async def _leaving(self, term: Term) -> None:
        await self._groups.give_up(term.seat)

    async def _lost(self, term: Term) -> None:
        store = self._stores.pop(term.seat, None)
        if store is not None:
            await store.close()

    def _earliest(self) -> int:
        return self._events.log.window.first - 1

"""The seats that a node holds, and what it answers for them."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from switchboard_server.core.clock import Clock
from switchboard_server.core.cluster import messages
from switchboard_server.core.cluster.holding import Holding
from switchboard_server.core.cluster.messages import Drains, Join, Joined, Leave, Look, Taken
from switchboard_server.core.cluster.ports import Carrier
from switchboard_server.core.cluster.seats import seat_of
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.events import EventHub
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.group import LeaseCodec
from switchboard_server.core.groups.hub import GroupLimits
from switchboard_server.core.groups.moving import MovedError
from switchboard_server.core.groups.ports import GroupStore
from switchboard_server.core.groups.reports import GroupStats

MOVED = "GROUP_MOVED"
"""Reason of an error that never reaches a client: whoever gets it asks again."""

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Holdings:
    """What a node holds, and answers the other nodes for.

    Args:
        events: The node's events.
        carrier: The way to the other nodes.
        codec: How deliveries look as bytes.
        limits: How much each seat takes on.
        clock: Unix time in nanoseconds.

    Attributes:
        draining: Tells whether an instance drains, by "service_name/instance_id".
    """

    def __init__(
        self,
        events: EventHub,
        carrier: Carrier,
        codec: LeaseCodec,
        limits: GroupLimits,
        clock: Clock,
    ) -> None:
        self._events = events
        self._carrier = carrier
        self._codec = codec
        self._limits = limits
        self._clock = clock
        self._held: dict[str, Holding] = {}
        self.draining: Callable[[str], bool] = lambda _instance: False
        self._serve()

    # --- which ones ------------------------------------------------------------------------------

    async def take(self, seat: str, store: GroupStore) -> None:
        """Serves the groups of a seat from now on.

        Raises:
            UnavailableError: The groups cannot be read.
        """
        holding = Holding(
            self._events,
            store,
            self._codec,
            self._limits,
            self._clock,
            carrier=self._carrier,
            draining=self._is_draining,
        )
        try:
            await holding.open()
        except BaseException:
            holding.let_go()
            raise
        self._held[seat] = holding
        _logger.info("this node serves %s: %d groups", seat, len(holding.hub.names()))

    def lose(self, seat: str) -> None:
        """Lets go of a seat, and saves nothing."""
        holding = self._held.pop(seat, None)
        if holding is not None:
            _logger.info("this node has lost %s", seat)
            holding.let_go()

    async def give_up(self, seat: str) -> None:
        """Saves the groups of a seat, which the node holds for as long as that takes."""
        holding = self._held.pop(seat, None)
        if holding is not None:
            _logger.info("this node gives %s up", seat)
            await holding.close()

    def get(self, seat: str) -> Holding | None:
        """The groups of a seat; None: they are elsewhere."""
        return self._held.get(seat)

    @property
    def seats(self) -> list[str]:
        """The seats whose groups are served here."""
        return sorted(self._held)

    # --- all of them -----------------------------------------------------------------------------

    def node_gone(self, address: str) -> None:
        """Lets members go whose streams were on a node."""
        for holding in self._held.values():
            holding.node_gone(address)

    def drain(self, instance: str) -> None:
        """See `GroupHub.drain`."""
        for holding in self._held.values():
            holding.hub.drain(instance)

    def stats(self) -> list[GroupStats]:
        """What the groups count."""
        return [each for holding in self._held.values() for each in holding.hub.stats()]

    def count(self, wish: Filter) -> int:
        """How many groups have a filter."""
        return sum(holding.hub.count(wish) for holding in self._held.values())

    # --- what others ask -------------------------------------------------------------------------

    def _serve(self) -> None:
        self._carrier.on_request(Join, self._join)
        self._carrier.on_request(Look, self._look)
        served: list[tuple[type[Any], Callable[[Holding, Any], Awaitable[object]]]] = [
            (messages.Acknowledge, Holding.acknowledge),
            (messages.Reject, Holding.reject),
            (messages.Extend, Holding.extend),
            (messages.View, Holding.view),
            (messages.Seek, Holding.seek),
            (messages.Delete, Holding.delete),
            (messages.PageLetters, Holding.page_letters),
            (messages.Redrive, Holding.redrive),
        ]
        for kind, answer in served:
            self._carrier.on_request(kind, self._answering(answer))
        self._carrier.on_tell(Taken, self._taken)
        self._carrier.on_tell(Leave, self._leave)
        self._carrier.on_tell(Drains, self._drains)

    async def _join(self, asked: Join, address: str) -> Joined:
        seat = seat_of(asked.wish.group)
        return await self._with(seat, lambda holding: holding.join(asked, address))

    async def _look(self, asked: Look, _address: str) -> object:
        return await self._with(asked.seat, lambda holding: holding.look(asked))

    def _answering(
        self, answer: Callable[[Holding, Any], Awaitable[object]]
    ) -> Callable[[Any, str], Awaitable[object]]:
        async def handle(asked: Any, _address: str) -> object:
            return await self._with(seat_of(asked.group), lambda holding: answer(holding, asked))

        return handle

    async def _with(self, seat: str, work: Callable[[Holding], Awaitable[T]]) -> T:
        holding = self._held.get(seat)
        try:
            if holding is not None:
                return await holding.guard(work)
        except MovedError:
            pass
        raise UnavailableError(MOVED, f"another node has {seat} now")

    def _is_draining(self, instance: str) -> bool:
        return self.draining(instance)

    def _taken(self, told: Taken, _body: object, address: str) -> None:
        for holding in self._held.values():
            guest = holding.guests.get((address, told.session))
            if guest is not None:
                guest.taken(told.number)

    def _leave(self, told: Leave, _body: object, address: str) -> None:
        for holding in self._held.values():
            holding.leave(address, told.session, told.number)

    def _drains(self, told: Drains, _body: object, address: str) -> None:
        for holding in self._held.values():
            guest = holding.guests.get((address, told.session))
            if guest is not None:
                guest.drain(draining=told.draining)

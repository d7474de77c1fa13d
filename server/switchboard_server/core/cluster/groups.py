"""Consumer groups of a cluster, as each of its nodes serves them.

Each group has a seat, and the node that holds the seat runs its groups as a hub on its own would.
Every other node forwards what it is asked, and gives the streams of its own clients what the holder
sends. Where a seat moves, streams follow it, and what was asked is asked again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from switchboard_server.core.clock import Clock
from switchboard_server.core.cluster import messages
from switchboard_server.core.cluster.asking import Asking
from switchboard_server.core.cluster.holding import Holding
from switchboard_server.core.cluster.holdings import Holdings
from switchboard_server.core.cluster.messages import Look, Outcomes, Place, Seen, Who
from switchboard_server.core.cluster.ports import Carrier
from switchboard_server.core.cluster.roaming import RoamingMember
from switchboard_server.core.cluster.seats import all_seats, seat_of
from switchboard_server.core.cluster.streams import Streams
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.events import Begin, EventHub, Start
from switchboard_server.core.groups.config import validate_name
from switchboard_server.core.groups.entries import RETRY, Outcome, Rejection
from switchboard_server.core.groups.group import LeaseCodec
from switchboard_server.core.groups.hub import GroupLimits, GroupWish
from switchboard_server.core.groups.listing import list_groups
from switchboard_server.core.groups.ports import GroupStore
from switchboard_server.core.groups.reports import GroupReport, GroupStats
from switchboard_server.core.heartbeats import DEFAULT_HEARTBEAT
from switchboard_server.core.principal import ANONYMOUS, Principal


class SpreadGroups:
    """The groups of all nodes, as one of them sees them; see `Groups`.

    Args:
        events: The node's events.
        carrier: The way to the other nodes.
        codec: How deliveries look as bytes.
        limits: How much each seat takes on.
        clock: Unix time in nanoseconds.
        patience: Seconds that something may take while a seat moves, before it fails.

    Attributes:
        holdings: The groups that this node has itself.
        asking: Finds who has a group.
        streams: The members whose clients are connected to it.
    """

    def __init__(
        self,
        events: EventHub,
        carrier: Carrier,
        codec: LeaseCodec,
        limits: GroupLimits,
        clock: Clock,
        *,
        patience: float = 30.0,
    ) -> None:
        self._events = events
        self.holdings = Holdings(events, carrier, codec, limits, clock)
        self.asking = Asking(self.holdings, carrier, patience, events.check_open)
        self.streams = Streams(events, self.holdings, carrier, self.asking, clock)
        carrier.watch(self)

    # --- what the backend tells ------------------------------------------------------------------

    async def take(self, seat: str, store: GroupStore) -> None:
        """Serves the groups of a seat from now on, once it returns. Safe to cancel.

        Args:
            seat: The seat, which this node holds.
            store: Keeps its groups, for as long as the node holds it: afterwards it fails with
                UnavailableError.

        Raises:
            UnavailableError: The groups cannot be read.
        """
        await self.holdings.take(seat, store)

    def lose(self, seat: str) -> None:
        """Lets go of a seat that another node has, or may have, from now on: nothing is saved."""
        self.holdings.lose(seat)
        self.streams.seat_lost(seat)

    async def give_up(self, seat: str) -> None:
        """Saves the groups of a seat that the node still holds, and serves them no more."""
        try:
            await self.holdings.give_up(seat)
        finally:
            self.streams.seat_lost(seat)

    def node_gone(self, address: str) -> None:
        """See `CarrierListener.node_gone`."""
        self.holdings.node_gone(address)
        self.streams.node_gone(address)

    def seat_moved(self, seat: str, address: str) -> None:
        """See `CarrierListener.seat_moved`."""
        # While nobody has it, who had it may still send what is due.
        if address:
            self.streams.seat_moved(seat, address)

    # --- life ------------------------------------------------------------------------------------

    def begin_shutdown(self, error: UnavailableError) -> None:
        """Ends the streams of this node's clients, and takes no new ones.

        What other nodes ask is served on, until the seats are given up.
        """
        self.streams.begin_shutdown(error)

    async def close(self) -> None:
        """Lets go of everything; the seats have been given up."""
        await self.streams.close()
        for seat in self.holdings.seats:
            self.holdings.lose(seat)

    # --- members ---------------------------------------------------------------------------------

    async def subscribe(
        self,
        wish: GroupWish,
        start: Start = Begin.LATEST,
        principal: Principal = ANONYMOUS,
        heartbeat: float = DEFAULT_HEARTBEAT,
    ) -> RoamingMember:
        """See `GroupHub.subscribe`."""
        return await self.streams.open(wish, start, principal, heartbeat)

    def follow_draining(self, draining: Callable[[str], bool]) -> None:
        """See `GroupHub.follow_draining`."""
        self.holdings.draining = draining

    def drain(self, instance: str) -> None:
        """See `GroupHub.drain`."""
        self.holdings.drain(instance)
        self.streams.drain(instance, draining=self.holdings.draining(instance))

    # --- settling --------------------------------------------------------------------------------

    async def acknowledge(
        self, name: str, ack_ids: Sequence[str], principal: Principal = ANONYMOUS
    ) -> list[Outcome]:
        """See `GroupHub.acknowledge`."""
        return await self._settle(
            name,
            lambda held: held.hub.acknowledge(name, ack_ids, principal),
            lambda: messages.Acknowledge(name, tuple(ack_ids), Who.of(principal)),
        )

    async def reject(
        self,
        name: str,
        ack_ids: Sequence[str],
        principal: Principal = ANONYMOUS,
        how: Rejection = RETRY,
    ) -> list[Outcome]:
        """See `GroupHub.reject`."""
        return await self._settle(
            name,
            lambda held: held.hub.reject(name, ack_ids, principal, how),
            lambda: messages.Reject(name, tuple(ack_ids), Who.of(principal), how),
        )

    async def extend(
        self,
        name: str,
        ack_ids: Sequence[str],
        principal: Principal = ANONYMOUS,
        *,
        extension_ns: int | None = None,
    ) -> list[Outcome]:
        """See `GroupHub.extend`."""
        return await self._settle(
            name,
            lambda held: held.hub.extend(name, ack_ids, principal, extension_ns=extension_ns),
            lambda: messages.Extend(name, tuple(ack_ids), Who.of(principal), extension_ns),
        )

    # --- from outside ----------------------------------------------------------------------------

    async def view(self, name: str, principal: Principal = ANONYMOUS) -> GroupReport:
        """See `GroupHub.view`."""
        return await self.asking.of(
            name,
            lambda held: held.hub.view(name, principal),
            lambda: messages.View(name, Who.of(principal)),
            GroupReport,
        )

    async def page(
        self, prefix: str, page_size: int, page_token: str, principal: Principal = ANONYMOUS
    ) -> tuple[list[GroupReport], str]:
        """See `GroupHub.page`."""
        return await list_groups(self._visible, prefix, page_size, page_token, principal)

    async def seek(
        self, name: str, target: Start, principal: Principal, *, require_no_members: bool = False
    ) -> GroupReport:
        """See `GroupHub.seek`."""
        last = self._events.tail.last
        return await self.asking.of(
            name,
            lambda held: held.hub.seek(
                name, target, principal, require_no_members=require_no_members
            ),
            lambda: messages.Seek(
                name, Place.of(target, last), Who.of(principal), require_no_members
            ),
            GroupReport,
        )

    async def delete(
        self, name: str, principal: Principal, *, require_no_members: bool = False
    ) -> GroupReport:
        """See `GroupHub.delete`."""
        return await self.asking.of(
            name,
            lambda held: held.hub.delete(name, principal, require_no_members=require_no_members),
            lambda: messages.Delete(name, Who.of(principal), require_no_members),
            GroupReport,
        )

    def stats(self) -> list[GroupStats]:
        """What the groups count whose seats this node holds."""
        return self.holdings.stats()

    # --- inside ----------------------------------------------------------------------------------

    async def _settle(
        self,
        name: str,
        here: Callable[[Holding], Awaitable[list[Outcome]]],
        there: Callable[[], object],
    ) -> list[Outcome]:
        validate_name(name)
        return await self.asking.at(seat_of(name), here, there, Outcomes, _outcomes)

    async def _visible(
        self, prefix: str, after: str, limit: int, principal: Principal
    ) -> list[GroupReport]:
        async def of(seat: str) -> list[GroupReport]:
            return await self.asking.at(
                seat,
                lambda held: held.hub.visible(prefix, after, limit, principal),
                lambda: Look(seat, prefix, after, limit, Who.of(principal)),
                Seen,
                lambda seen: list(seen.reports),
            )

        found = await asyncio.gather(*map(of, all_seats()))
        return sorted((each for part in found for each in part), key=_name)[:limit]


def _outcomes(told: Outcomes) -> list[Outcome]:
    return [Outcome(each) for each in told.values]


def _name(report: GroupReport) -> str:
    return report.record.name

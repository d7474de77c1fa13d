"""What a node does for the others with the groups that it has."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from switchboard_server.core.clock import Clock
from switchboard_server.core.cluster.guests import Guest
from switchboard_server.core.cluster.messages import (
    Acknowledge,
    Delete,
    Extend,
    Join,
    Joined,
    Look,
    Outcomes,
    PageLetters,
    Redrive,
    Reject,
    Seek,
    Seen,
    View,
)
from switchboard_server.core.cluster.ports import Carrier
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.events import EventHub
from switchboard_server.core.groups.group import LeaseCodec
from switchboard_server.core.groups.hub import GroupHub, GroupLimits
from switchboard_server.core.groups.letters import DeadLetters, LetterPage, Redriven
from switchboard_server.core.groups.moving import MovedError
from switchboard_server.core.groups.ports import GroupStore
from switchboard_server.core.groups.reports import GroupReport

T = TypeVar("T")


class Holding:
    """The groups of one seat, on the node that holds it.

    Args:
        events: The node's events.
        store: Keeps the groups, for as long as the node holds the seat.
        codec: How deliveries look as bytes.
        limits: How much the seat takes on.
        clock: Unix time in nanoseconds.
        carrier: The way to the other nodes.
        draining: Tells whether an instance drains.

    Attributes:
        hub: The groups.
        letters: Their dead letters.
        guests: Members whose streams are on other nodes, by address and session.
        lost: Whether the node has lost the seat, or is giving it up.
    """

    def __init__(
        self,
        events: EventHub,
        store: GroupStore,
        codec: LeaseCodec,
        limits: GroupLimits,
        clock: Clock,
        *,
        carrier: Carrier,
        draining: Callable[[str], bool],
    ) -> None:
        self._events = events
        self._carrier = carrier
        self.hub = GroupHub(events, store, codec, limits, clock)
        self.hub.follow_draining(draining)
        self.letters = DeadLetters(self.hub, store, clock)
        self.guests: dict[tuple[str, int], Guest] = {}
        self.lost = False
        self._joining: set[tuple[str, int]] = set()

    async def open(self) -> None:
        """Takes up all groups where they stood.

        Raises:
            UnavailableError: They cannot be read.
        """
        await self.hub.open()

    async def close(self) -> None:
        """Saves what is to be saved, and sends everybody to who has the groups next.

        The node still holds the seat, and nothing is asked of it any more.
        """
        self.lost = True
        try:
            await self.hub.close(MovedError())
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Sends everybody to who has the groups now, and saves nothing."""
        self.lost = True
        self.hub.let_go()
        for guest in list(self.guests.values()):
            guest.moved()

    async def guard(self, work: Callable[["Holding"], Awaitable[T]]) -> T:
        """Asks something of the groups.

        Raises:
            MovedError: The node has lost the seat, and whether it was done is not known.
            SwitchboardError: What the groups raise.
        """
        try:
            return await work(self)
        except UnavailableError:
            # Nothing can be stored any more once the seat is lost.
            if self.lost:
                raise MovedError from None
            raise

    # --- members of other nodes ------------------------------------------------------------------

    async def join(self, asked: Join, address: str) -> Joined:
        """Lets somebody take part whose stream is on another node."""
        key = (address, asked.session)
        self._joining.add(key)
        try:
            await self._events.reach(asked.place.last)
            member = await self.hub.subscribe(
                asked.wish,
                asked.place.start(),
                asked.who.principal(),
                asked.heartbeat,
                node=asked.node,
                create=asked.create,
            )
            if self.lost or key not in self._joining or address not in self._carrier.nodes:
                member.close()
                raise MovedError
        finally:
            self._joining.discard(key)
        if asked.draining:
            member.drain(draining=True)
        self.guests[key] = Guest(
            member, address, asked.session, self._carrier, lambda: self._left(key)
        )
        started = member.start()
        return Joined(self._carrier.address, started.member_id, started.position)

    def leave(self, address: str, session: int, taken: int) -> bool:
        """Lets one of them go; False: it is not here."""
        key = (address, session)
        self._joining.discard(key)
        guest = self.guests.get(key)
        if guest is not None:
            guest.leave(taken)
        return guest is not None

    def node_gone(self, address: str) -> None:
        """Lets go of all whose streams were on a node."""
        self._joining = {each for each in self._joining if each[0] != address}
        for guest in [each for each in self.guests.values() if each.address == address]:
            guest.leave()

    def _left(self, key: tuple[str, int]) -> None:
        self.guests.pop(key, None)

    # --- what is asked of groups -----------------------------------------------------------------

    async def acknowledge(self, asked: Acknowledge) -> Outcomes:
        """See `GroupHub.acknowledge`."""
        found = await self.hub.acknowledge(asked.group, asked.ack_ids, asked.who.principal())
        return Outcomes(bytes([each.value for each in found]))

    async def reject(self, asked: Reject) -> Outcomes:
        """See `GroupHub.reject`."""
        found = await self.hub.reject(asked.group, asked.ack_ids, asked.who.principal(), asked.how)
        return Outcomes(bytes([each.value for each in found]))

    async def extend(self, asked: Extend) -> Outcomes:
        """See `GroupHub.extend`."""
        found = await self.hub.extend(
            asked.group, asked.ack_ids, asked.who.principal(), extension_ns=asked.extension_ns
        )
        return Outcomes(bytes([each.value for each in found]))

    async def view(self, asked: View) -> GroupReport:
        """See `GroupHub.view`."""
        return await self.hub.view(asked.group, asked.who.principal())

    async def look(self, asked: Look) -> Seen:
        """See `GroupHub.visible`."""
        found = await self.hub.visible(
            asked.prefix, asked.after, asked.limit, asked.who.principal()
        )
        return Seen(tuple(found))

    async def seek(self, asked: Seek) -> GroupReport:
        """See `GroupHub.seek`."""
        await self._events.reach(asked.place.last)
        return await self.hub.seek(
            asked.group,
            asked.place.start(),
            asked.who.principal(),
            require_no_members=asked.unused,
        )

    async def delete(self, asked: Delete) -> GroupReport:
        """See `GroupHub.delete`."""
        return await self.hub.delete(
            asked.group, asked.who.principal(), require_no_members=asked.unused
        )

    async def page_letters(self, asked: PageLetters) -> LetterPage:
        """See `DeadLetters.page`."""
        return await self.letters.page(asked.group, asked.query, asked.who.principal())

    async def redrive(self, asked: Redrive) -> Redriven:
        """See `DeadLetters.redrive`."""
        return await self.letters.redrive(
            asked.group,
            sequences=asked.sequences,
            wish=asked.wish,
            principal=asked.who.principal(),
        )

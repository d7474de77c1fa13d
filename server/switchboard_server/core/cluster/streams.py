"""The streams of a node's clients that are members of groups, wherever those are."""

import asyncio
import itertools
from collections.abc import Callable

from switchboard_server.core.cluster.asking import Asking
from switchboard_server.core.cluster.holding import Holding
from switchboard_server.core.cluster.holdings import Holdings
from switchboard_server.core.cluster.messages import (
    Delivery,
    Drains,
    Ended,
    Join,
    Joined,
    Leave,
    Place,
    Taken,
    Who,
    Word,
)
from switchboard_server.core.cluster.ports import Carrier
from switchboard_server.core.cluster.roaming import RoamingMember, Session, Told
from switchboard_server.core.cluster.seats import seat_of
from switchboard_server.core.errors import ResourceExhaustedError, UnavailableError
from switchboard_server.core.events import Begin, EventHub, Start
from switchboard_server.core.groups.config import validate_name
from switchboard_server.core.groups.hub import GroupWish
from switchboard_server.core.groups.membership import Member
from switchboard_server.core.groups.moving import MovedError
from switchboard_server.core.principal import Principal
from switchboard_server.core.router import Router
from switchboard_server.core.subscription import Started

FOLLOW_SECONDS = 60.0
"""How long a stream stays open while nobody has its group, and says that it lives.

Where all heals by itself, its client need do nothing. Then it ends."""
RETRY_SECONDS = 0.1
"""How long to wait where too much is on its way to a node."""

Say = Callable[[Session], object]


class Streams:
    """The members of groups whose clients are connected to this node.

    Args:
        events: The node's events, which count them.
        holdings: The groups that the node has itself.
        carrier: The way to the others.
        asking: Finds who has a group.
        clock: Unix time in nanoseconds.

    Attributes:
        by_event: The streams, by what their groups receive.
    """

    def __init__(
        self,
        events: EventHub,
        holdings: Holdings,
        carrier: Carrier,
        asking: Asking,
        clock: Callable[[], int],
    ) -> None:
        self._events = events
        self._holdings = holdings
        self._carrier = carrier
        self._asking = asking
        self._members: dict[RoamingMember, None] = {}
        self._sessions: dict[int, Session] = {}
        # Never used again, by a later run of this node either.
        self._numbers = itertools.count(clock() // 1000)
        self._joining: set[asyncio.Task[Started]] = set()
        self._closing: UnavailableError | None = None
        self.by_event: Router[RoamingMember] = Router()
        carrier.on_tell(Delivery, self._told)
        carrier.on_tell(Word, self._told)
        carrier.on_tell(Ended, self._told)

    async def open(
        self, wish: GroupWish, start: Start, principal: Principal, heartbeat: float
    ) -> RoamingMember:
        """Joins a group; see `GroupHub.subscribe`."""
        validate_name(wish.group)
        self._admit(principal)
        member = RoamingMember(
            self,
            wish,
            principal,
            heartbeat,
            draining=bool(wish.instance) and self._holdings.draining(wish.instance),
        )
        self._events.join(principal)
        self._members[member] = None
        try:
            member.introduce(await self._join(member, start, create=True))
            self._admit(principal)
        except BaseException:
            member.close()
            raise
        return member

    def begin_shutdown(self, error: UnavailableError) -> None:
        """Ends all streams, and opens no new ones."""
        self._closing = error
        for member in list(self._members):
            member.end(error)

    async def close(self) -> None:
        """Waits for nobody any more."""
        for member in list(self._members):
            member.close()
        for task in self._joining:
            task.cancel()
        if self._joining:
            await asyncio.wait(self._joining)

    def drain(self, instance: str, *, draining: bool) -> None:
        """Takes notice whether an instance drains, and tells the nodes that have its groups."""
        for member in self._members:
            if member.wish.instance == instance:
                session = member.drain(draining=draining)
                if session is not None:
                    self._say(session, lambda each: Drains(each.number, draining))

    def node_gone(self, address: str) -> None:
        """Has streams follow whose groups a node had."""
        for session in [each for each in self._sessions.values() if each.address == address]:
            session.member.move()

    def seat_lost(self, seat: str) -> None:
        """Has streams follow whose groups were here."""
        for member in list(self._members):
            if member.is_here and seat_of(member.wish.group) == seat:
                member.move()

    def seat_moved(self, seat: str, address: str) -> None:
        """Has streams follow whose groups another node has now."""
        for session in list(self._sessions.values()):
            if session.address not in ("", address) and seat_of(session.member.wish.group) == seat:
                session.member.move()

    # --- what a stream asks ----------------------------------------------------------------------

    async def settle(self, member: RoamingMember) -> None:
        """See `Home.settle`."""
        await self._join(member, Begin.LATEST, create=False)

    def taken(self, session: Session) -> None:
        """See `Home.taken`."""
        self._say(session, lambda each: Taken(each.number, each.taken))

    def part(self, session: Session) -> None:
        """See `Home.part`."""
        if self._sessions.pop(session.number, None) is not None:
            self._say(session, lambda each: Leave(each.number, each.taken))

    def left(self, member: RoamingMember) -> None:
        """See `Home.left`."""
        if self._members.pop(member, self) is None:
            self._events.part(member.principal)
            if member.listed:
                self.by_event.remove(member)

    # --- joining ---------------------------------------------------------------------------------

    def _admit(self, principal: Principal) -> None:
        if self._closing is not None:
            raise self._closing
        self._events.admit(principal)

    async def _join(self, member: RoamingMember, start: Start, *, create: bool) -> Started:
        """Joins, to the end even where nobody waits for it: else the other node would keep it."""
        task = asyncio.create_task(self._find_place(member, start, create=create))
        self._joining.add(task)
        task.add_done_callback(self._joined)
        return await asyncio.shield(task)

    def _joined(self, task: asyncio.Task[Started]) -> None:
        self._joining.discard(task)
        if not task.cancelled():
            task.exception()  # Whoever waits has it; where nobody does it does not matter.

    async def _find_place(self, member: RoamingMember, start: Start, *, create: bool) -> Started:
        sessions: list[Session] = []

        async def here(holding: Holding) -> Started:
            joined = await holding.hub.subscribe(
                member.wish,
                start,
                member.principal,
                member.heartbeat,
                node=self._carrier.node,
                create=create,
            )
            return self._stay(member, joined)

        def there() -> Join:
            # A session each time: who was asked before may have let it in, and not have said so.
            self._drop(sessions)
            session = Session(next(self._numbers), member)
            self._sessions[session.number] = session
            sessions.append(session)
            return self._asked(session, start, create=create)

        def back(joined: Joined) -> Started:
            return self._follow(sessions.pop(), joined)

        try:
            seat = seat_of(member.wish.group)
            patience = None if create else FOLLOW_SECONDS
            return await self._asking.at(seat, here, there, Joined, back, patience=patience)
        finally:
            self._drop(sessions)

    def _asked(self, session: Session, start: Start, *, create: bool) -> Join:
        member = session.member
        return Join(
            session.number,
            self._carrier.node,
            member.wish,
            Place.of(start, self._events.tail.last),
            Who.of(member.principal),
            member.heartbeat,
            create,
            member.draining,
        )

    def _stay(self, member: RoamingMember, joined: Member) -> Started:
        started = joined.start()
        self._list(member)
        member.stay(joined, started)
        if member.draining:
            joined.drain(draining=True)
        return started

    def _follow(self, session: Session, joined: Joined) -> Started:
        session.address = joined.address
        if joined.address not in self._carrier.nodes:
            self.part(session)
            raise MovedError
        started = Started(joined.position, joined.member_id)
        self._list(session.member)
        session.member.follow(session, started)
        early, session.early = session.early, []
        for sender, told, body in early:
            self._take(session, told, body, sender)
        return started

    def _list(self, member: RoamingMember) -> None:
        if not member.listed and member in self._members:
            member.listed = True
            self.by_event.add(member)

    def _drop(self, sessions: list[Session]) -> None:
        for session in sessions:
            self._sessions.pop(session.number, None)
        sessions.clear()

    # --- what other nodes tell -------------------------------------------------------------------

    def _told(self, told: Told, body: bytes | memoryview, sender: str) -> None:
        session = self._sessions.get(told.session)
        if session is None:
            # Nobody waits for it, and what it was given has reached nobody.
            self._tell(sender, Leave(told.session, 0))
        elif not session.address:
            session.early.append((sender, told, bytes(body)))
        else:
            self._take(session, told, bytes(body), sender)

    def _take(self, session: Session, told: Told, body: bytes, sender: str) -> None:
        if sender != session.address:
            return
        if not isinstance(told, Ended):
            session.tell(told, body)
            session.member.told()
        elif told.failure is None:
            session.member.move()
        else:
            session.member.end(told.failure.error())

    def _say(self, session: Session, say: Say) -> None:
        if session.address:
            self._tell(session.address, say(session))

    def _tell(self, address: str, message: object) -> None:
        try:
            self._carrier.tell(address, message)
        except ResourceExhaustedError:
            # Words are few and short, and none may be missing.
            loop = asyncio.get_running_loop()
            loop.call_later(RETRY_SECONDS, self._tell, address, message)

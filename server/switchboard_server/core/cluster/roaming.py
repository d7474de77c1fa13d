"""A member's stream on the node of its client, wherever its group is and goes."""

from __future__ import annotations  # a session and its member name each other

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from switchboard_server.core.cluster.messages import Delivery, Ended, Word
from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.hub import GroupWish
from switchboard_server.core.groups.membership import Member
from switchboard_server.core.groups.moving import MovedError
from switchboard_server.core.principal import Principal
from switchboard_server.core.sleeping import Sleeper
from switchboard_server.core.subscription import Gap, Heartbeat, Item, Started
from switchboard_server.core.tail import Chunk

GRACE = 2.0
"""By so many seconds a heartbeat of the group's node may be late, before the stream says by itself
that it lives."""

Told = Delivery | Word | Ended
"""What a session is told."""


@dataclass(slots=True, eq=False)
class Session:
    """A time with one node that has the group.

    Args:
        number: Names it.
        member: Whose time it is.
        address: Of the node; empty until it has answered.
        told: What has come and waits for the client, with its number and where the group stood. It
            is bounded by the sender's window.
        early: What came before the answer, and from where.
        taken: Up to where it has been handed to the client.
    """

    number: int
    member: RoamingMember
    address: str = ""
    told: deque[tuple[int, int, Item]] = field(default_factory=deque)
    early: list[tuple[str, Told, bytes]] = field(default_factory=list)
    taken: int = 0

    def tell(self, told: Delivery | Word, body: bytes) -> None:
        """Takes what has come for the client."""
        self.told.append((told.number, told.position, _item(told, body)))


class Home(Protocol):
    """The node, as a stream on it sees it."""

    async def settle(self, member: RoamingMember) -> None:
        """Joins the group of a member where it is now; calls `stay` or `follow`.

        Raises:
            SwitchboardError: It cannot be joined any more, or was not in time.
        """
        ...

    def taken(self, session: Session) -> None:
        """Tells the other node how far the client has come."""
        ...

    def part(self, session: Session) -> None:
        """Ends a session."""
        ...

    def left(self, member: RoamingMember) -> None:
        """Takes notice that a member has left for good."""
        ...


class RoamingMember(Sleeper):
    """A member's stream, which goes on where its group moves to another node.

    One task calls `next`; `close` must be called in the end. What was in flight at the move comes
    again, as after a restart.

    Args:
        home: The node that it is on.
        wish: What it asked for.
        principal: Who subscribes.
        heartbeat: Seconds of silence after which a heartbeat is due.
        draining: Whether the instance that it is drains.

    Attributes:
        listed: Whether others find it by what its group receives; it has joined once.
    """

    def __init__(
        self,
        home: Home,
        wish: GroupWish,
        principal: Principal,
        heartbeat: float,
        *,
        draining: bool,
    ) -> None:
        super().__init__()
        self._home = home
        self.wish = wish
        self.principal = principal
        self.heartbeat = heartbeat
        self.draining = draining
        self._here: Member | None = None
        self._there: Session | None = None
        self._started: Started | None = None
        self._position = 0
        self._spoken = self._loop.time()
        self._settling: asyncio.Task[None] | None = None
        self._end: SwitchboardError | None = None
        self._closed = False
        self.listed = False

    @property
    def filter(self) -> Filter:
        """What its group receives."""
        return self.wish.config.filter

    @property
    def position(self) -> int:
        """See `Member.position`; of another node's group, as it said last."""
        return self._position if self._here is None else self._here.position

    async def next(self) -> Item:
        """See `Member.next`."""
        if self._started is not None:
            started, self._started = self._started, None
            return started
        while True:
            if self._end is not None:
                raise self._end
            here = self._here
            if here is not None:
                try:
                    return await here.next()
                except MovedError:
                    if self._here is here:
                        self.move()
                    continue
            item = self._told()
            if item is None and self._loop.time() >= self._due:
                item = Heartbeat(self._position)
            if item is not None:
                self._spoken = self._loop.time()
                return item
            await self._sleep_until(self._due)

    def close(self) -> None:
        """See `Member.close`."""
        if not self._closed:
            self._closed = True
            self._unsettle()
            if self._settling is not None:
                self._settling.cancel()
            self._home.left(self)

    def end(self, error: SwitchboardError) -> None:
        """Has `next` raise an error."""
        self._end = error
        if self._here is not None:
            self._here.end(error)
        self.wake()

    # --- where it is -----------------------------------------------------------------------------

    @property
    def place(self) -> object:
        """What stands for its stay where its group is now; None: it is on its way."""
        return self._here or self._there

    @property
    def is_here(self) -> bool:
        """Whether its group is on its own node."""
        return self._here is not None

    @property
    def lively(self) -> bool:
        """Whether it would get something new."""
        return not self.draining and self._end is None and not self._closed

    def drain(self, *, draining: bool) -> Session | None:
        """Takes notice whether the instance that it is drains; the session that is to be told."""
        self.draining = draining
        return self._there

    def stay(self, member: Member, started: Started) -> None:
        """Takes part in a group of its own node."""
        self._here = member
        self._begin(started)

    def follow(self, session: Session, started: Started) -> None:
        """Takes part in a group of another node."""
        self._there = session
        self._begin(started)

    def move(self) -> None:
        """Takes notice that its group is on another node now, and follows it."""
        self._unsettle()
        if self._settling is None and self._end is None and not self._closed:
            self._settling = self._loop.create_task(self._settle())

    def told(self) -> None:
        """Takes notice that its session was told something."""
        self.wake()

    def _begin(self, started: Started) -> None:
        if self._closed:
            self._unsettle()
            return
        # Only the first one is for the client, whose stream goes on.
        self._position = started.position
        self.wake()

    def introduce(self, started: Started) -> None:
        """Has `next` begin with how the stream stands."""
        self._started = started

    def _unsettle(self) -> None:
        here, self._here = self._here, None
        there, self._there = self._there, None
        if here is not None:
            self._position = here.position
            here.close()
        if there is not None:
            self._home.part(there)

    async def _settle(self) -> None:
        try:
            await self._home.settle(self)
        except SwitchboardError as error:
            self.end(error)
        finally:
            self._settling = None

    # --- waiting ---------------------------------------------------------------------------------

    @property
    def _due(self) -> float:
        return self._spoken + self.heartbeat + GRACE

    def _told(self) -> Item | None:
        there = self._there
        if there is None or not there.told:
            return None
        there.taken, self._position, item = there.told.popleft()
        self._home.taken(there)
        return item


def _item(told: Delivery | Word, body: bytes) -> Item:
    if isinstance(told, Delivery):
        return Chunk(body, told.count, told.last)
    return Gap(told.first, told.last) if told.first else Heartbeat(told.position)

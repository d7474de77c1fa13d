"""Members whose streams are on other nodes, as the node that has their group drives them."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from switchboard_server.core.cluster.messages import Delivery, Ended, Word
from switchboard_server.core.cluster.ports import Carrier
from switchboard_server.core.errors import (
    ResourceExhaustedError,
    SwitchboardError,
    UnavailableError,
)
from switchboard_server.core.failures import Failure
from switchboard_server.core.groups.entries import Entry
from switchboard_server.core.groups.membership import Member
from switchboard_server.core.groups.moving import MovedError
from switchboard_server.core.subscription import Gap, Item
from switchboard_server.core.tail import Chunk

WINDOW = 4
"""So much is on its way to a member, or waits there for its client to read, before it is asked for
more. A slow client so holds little that others could have, and never more than its credit."""
RETRY_SECONDS = 0.1
"""How long to wait where too much is on its way to a node."""


class _NodeGoneError(Exception):
    """Nothing arrives any more."""


class Guest:
    """A member's stream, from its group to the node that it is on.

    Args:
        member: The member, whose `Started` has been taken.
        address: Where its stream is.
        session: Its number there.
        carrier: The way there.
        left: Is called once it has left.
    """

    def __init__(
        self,
        member: Member,
        address: str,
        session: int,
        carrier: Carrier,
        left: Callable[[], None],
    ) -> None:
        self._member = member
        self._address = address
        self._session = session
        self._carrier = carrier
        self._left = left
        self._sent = 0
        self._taken = 0
        self._open: deque[tuple[int, Sequence[Entry]]] = deque()
        self._room: asyncio.Future[None] | None = None
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._done)

    @property
    def address(self) -> str:
        """Where its stream is."""
        return self._address

    def taken(self, number: int) -> None:
        """Takes notice up to where it has been handed to its client."""
        self._taken = max(self._taken, number)
        while self._open and self._open[0][0] <= self._taken:
            self._open.popleft()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def drain(self, *, draining: bool) -> None:
        """Gives it nothing new, or something again."""
        self._member.drain(draining=draining)

    def leave(self, taken: int | None = None) -> None:
        """Lets the member go.

        Args:
            taken: Up to where it has been handed to its client: the rest was never delivered. None:
                that is not known.
        """
        if taken is not None:
            self.taken(taken)
        untaken = [] if taken is None else [entry for _, each in self._open for entry in each]
        self._member.close(untaken)
        self._task.cancel()

    def moved(self) -> None:
        """Sends its node to who has the group now."""
        with suppress(ResourceExhaustedError):  # Its node hears of the seat in any case.
            self._carrier.tell(self._address, Ended(self._session, None))
        self.leave()

    async def _run(self) -> None:
        try:
            while True:
                while self._sent - self._taken >= WINDOW:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
                await self._send(await self._member.next())
        except MovedError:
            await self._tell(Ended(self._session, None))
        except SwitchboardError as error:
            await self._tell(Ended(self._session, Failure.of(error)))

    async def _send(self, item: Item) -> None:
        self._sent += 1
        number, position = self._sent, self._member.position
        if isinstance(item, Chunk):
            self._open.append((number, self._member.latest))
            message = Delivery(self._session, number, position, item.count, item.last)
            await self._tell(message, item.frames)
        elif isinstance(item, Gap):
            await self._tell(Word(self._session, number, position, item.first, item.last))
        else:
            await self._tell(Word(self._session, number, position, 0, 0))

    async def _tell(self, message: object, body: bytes = b"") -> None:
        while True:
            try:
                if not self._carrier.tell(self._address, message, body):
                    raise _NodeGoneError
                return
            except ResourceExhaustedError:
                # It waits, and holds up this member alone: its window is small.
                await asyncio.sleep(RETRY_SECONDS)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._member.close()
        self._left()
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, _NodeGoneError):
            failure = UnavailableError(
                "LOG_UNAVAILABLE", "the node that has the group failed; subscribe again"
            )
            with suppress(ResourceExhaustedError):
                self._carrier.tell(self._address, Ended(self._session, Failure.of(failure)))
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a member's stream failed", "exception": error, "task": task}
            )

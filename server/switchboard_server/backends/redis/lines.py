"""Messages as they arrive on a node: each room's in the order of its history, none missing.

Redis runs the scripts that send one after the other, and what they publish arrives in that order.
So messages come in order and without a hole, as long as the connection to Redis stands and Redis
knows where this node's connections stand. When either was not so, the node reads from the histories
what it has missed, while what arrives waits; where a history does not reach back so far, those who
stand in the room are sent away to come back and recover.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from switchboard_server.backends.redis import frames
from switchboard_server.backends.redis.desk import Desk, SweptError
from switchboard_server.backends.redis.frames import Arrival, Kept
from switchboard_server.backends.redis.link import LinkError
from switchboard_server.backends.redis.scripts import Script
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.realtime.floor import Floor
from switchboard_server.core.realtime.messages import Delivered, Message
from switchboard_server.core.realtime.wishes import BroadcastWish

CATCH_UP_BYTES = 8 * 1024 * 1024
"""About how much is read at once of what was missed; rooms beyond it are interrupted."""
CATCH_UP_ROOMS = 2000
RETRY_SECONDS = 0.5
MAX_QUEUED = 10_000
"""Most messages that wait while this node catches up."""

_logger = logging.getLogger(__name__)


class Line:
    """How far one room's members on this node are.

    Attributes:
        epoch: Epoch of the history; empty: not known yet.
        offset: Offset of the last message that was handed to them.
        entrants: Those that are about to stand there: how far the members were when each began to.
        recent: Messages that came since the first of these began to.
        moved: Set and replaced when the offset changes.
    """

    __slots__ = ("entrants", "epoch", "moved", "offset", "recent")

    def __init__(self) -> None:
        self.epoch = ""
        self.offset = 0
        self.entrants: dict[object, tuple[str, int]] = {}
        self.recent: list[Delivered] = []
        self.moved = asyncio.Event()

    def move(self, epoch: str, offset: int) -> None:
        """Sets how far the members are."""
        self.epoch, self.offset = epoch, offset
        self.moved.set()
        self.moved = asyncio.Event()

    def took(self, delivered: Delivered) -> None:
        """Notes a message that is about to be handed to the members."""
        place = delivered.rooms[0]
        if self.entrants:
            self.recent.append(delivered)
        if self.epoch:
            self.move(place.epoch, place.offset)

    def ended(self, entrant: object) -> None:
        """Forgets one that is about to stand there no longer, and messages that nobody needs."""
        del self.entrants[entrant]
        if not self.entrants:
            self.recent = []
        elif all(epoch == self.epoch for epoch, _ in self.entrants.values()):
            # What came before all of them began, their histories have.
            first = min(offset for _, offset in self.entrants.values())
            self.recent = self.since(self.epoch, first)

    def since(self, epoch: str, offset: int) -> list[Delivered]:
        """Messages that came since the first began to enter, after a place."""
        return [
            each
            for each in self.recent
            if each.rooms[0].epoch == epoch and each.rooms[0].offset > offset
        ]


class Lines:
    """All rooms with a history in which somebody of this node stands, and all that arrives.

    Args:
        floor: The connections of this node.
        desk: Runs scripts.
        catch_up: The script that reads what was missed.

    Attributes:
        received: Messages that arrived.
        caught_up: Messages that were read from histories since they had not arrived.
        interruptions: Rooms whose members had to be sent away.
        overflows: Times that too much waited while this node caught up.
    """

    def __init__(self, floor: Floor, desk: Desk, catch_up: Script) -> None:
        self._floor = floor
        self._desk = desk
        self._script = catch_up
        self._lines: dict[str, Line] = {}
        self._queue: deque[Arrival] = deque()
        self._behind = False
        self._again = False
        self._task: asyncio.Task[None] | None = None
        # Messages that were read from histories, with the rooms they were handed to.
        self._brought: dict[str, set[str]] = {}
        # Messages of this node that have not arrived yet, and who wants to know when they have.
        self._own: dict[str, Message] = {}
        self._handed: dict[str, asyncio.Future[int]] = {}
        self.received = 0
        self.caught_up = 0
        self.interruptions = 0
        self.overflows = 0

    def expect(self, message: Message) -> asyncio.Future[int]:
        """Tells how many outboxes took a message of this node, once it has arrived."""
        handed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._own[message.message_id] = message
        self._handed[message.message_id] = handed
        return handed

    def forget(self, message: Message) -> None:
        """Takes back `expect`."""
        self._own.pop(message.message_id, None)
        self._handed.pop(message.message_id, None)

    def entering(self, room: str, entrant: object) -> Line:
        """The line of a room that somebody is about to enter; `entered` ends that."""
        line = self._lines.get(room)
        if line is None:
            line = self._lines[room] = Line()
        line.entrants[entrant] = line.epoch, line.offset
        return line

    def entered(self, room: str, line: Line, entrant: object) -> None:
        """Somebody stands in a room now, or does not after all."""
        line.ended(entrant)
        self.left(room)

    def left(self, room: str) -> None:
        """Forgets a room in which nobody of this node stands."""
        line = self._lines.get(room)
        if line is not None and not line.entrants and room not in self._floor.directory.rooms:
            del self._lines[room]

    async def reach(self, line: Line, epoch: str, offset: int) -> None:
        """Waits until the members of a room are as far as a place, or begins with it.

        Raises:
            TimeoutError: They are not, for too long.
        """
        if not line.epoch:
            later = line.since(epoch, offset)
            line.move(epoch, later[-1].rooms[0].offset if later else offset)
            return
        if line.epoch != epoch:
            self.fall_behind()
        async with asyncio.timeout(4 * self._desk.link.timeout):
            while line.epoch != epoch or line.offset < offset:
                await line.moved.wait()

    def heard(self, frame: bytes) -> None:
        """Takes a frame with a message."""
        arrival = frames.arrival(frame, self._own)
        self.received += 1
        if self._behind:
            self._queue.append(arrival)
            if len(self._queue) > MAX_QUEUED:
                # What is in histories will be read; the rest is lost, as if it had not arrived.
                self.overflows += 1
                self._queue.clear()
                self._again = True
            return
        if not self._take(arrival):
            self._queue.append(arrival)
            self.fall_behind()

    def fall_behind(self) -> None:
        """Reads what was missed, before anything else that arrives is handed out."""
        self._behind = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._catch_up(), name="room lines")
        else:
            self._again = True

    def cut_off(self) -> None:
        """Redis cannot be used: nothing that was expected will arrive."""
        self._behind = True
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._queue.clear()
        self._brought.clear()
        for handed in self._handed.values():
            if not handed.done():
                handed.set_result(0)

    def _take(self, arrival: Arrival, *, fresh: bool = False) -> bool:
        """Hands out a message; whether no room's message before it is missing.

        Args:
            arrival: The message.
            fresh: The lines were just read: what is of another epoch is of one that is gone.
        """
        known: list[str] = []
        kept: dict[str, Delivered] = {}
        for room, place in arrival.places.items():
            line = self._lines.get(room)
            if line is None:
                continue
            if not line.epoch:
                kept[room] = Delivered(arrival.message, (place,))
            elif line.epoch != place.epoch:
                if not fresh:
                    return False
                known.append(room)
            elif place.offset <= line.offset:
                known.append(room)
            elif place.offset == line.offset + 1:
                kept[room] = Delivered(arrival.message, (place,))
            else:
                return False
        for room, delivered in kept.items():
            self._lines[room].took(delivered)
        wish = arrival.wish if not known else self._less(arrival, known)
        handed = self._hand(arrival.message, wish, kept)
        waiting = self._handed.get(arrival.message.message_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(handed)
        return True

    def _less(self, arrival: Arrival, known: Sequence[str]) -> BroadcastWish:
        """Whom a message is still for of which some rooms have been handed their part."""
        wish = arrival.wish
        excluded = list(wish.exclude_clients)
        for room in self._brought.get(arrival.message.message_id, ()):
            standing = self._floor.directory.rooms.get(room)
            if standing is not None:
                excluded += [each.client_id for each in standing.members]
        rooms = [room for room in wish.rooms if room not in known]
        return replace(wish, rooms=rooms, exclude_clients=excluded)

    def _hand(self, message: Message, wish: BroadcastWish, kept: Mapping[str, Delivered]) -> int:
        # Numbers say in what order this node tells things.
        message.number = next(self._floor.numbers)
        for delivered in kept.values():
            delivered.number = message.number
        handed = self._floor.deliver(message, wish, kept)
        self._floor.settle()
        return handed

    async def _catch_up(self) -> None:
        while self._desk.link.up:
            try:
                await self._caught_up()
            except (LinkError, SweptError) as error:
                # The link comes back, and then this is done again; or Redis is short of something.
                _logger.debug("catching up: %r", error)
            except Exception:
                _logger.exception("catching up with rooms has failed; trying again")
            else:
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _caught_up(self) -> None:
        """Reads what was missed, and hands out what has waited."""
        while True:
            self._again = False
            lines = {room: line for room, line in self._lines.items() if line.epoch}
            names = list(lines)
            for start in range(0, len(names), CATCH_UP_ROOMS):
                await self._read({name: lines[name] for name in names[start:][:CATCH_UP_ROOMS]})
            if not self._again and self._drained():
                break
        self._behind = False
        self._brought.clear()

    def _drained(self) -> bool:
        """Hands out what has waited; whether nothing of it leaves a hole."""
        while self._queue:
            if not self._take(self._queue[0], fresh=True):
                return False
            self._queue.popleft()
        return True

    async def _read(self, lines: Mapping[str, Line]) -> None:
        """Brings some rooms up to date."""
        args: list[str | int] = [CATCH_UP_BYTES]
        for room, line in lines.items():
            args += [room, line.epoch, line.offset]
        answers = await self._desk.run(self._script, *args)
        missed: dict[int, list[Kept]] = {}
        for (room, line), (epoch, offset, found) in zip(lines.items(), answers, strict=True):
            if found is None:
                self.interruptions += 1
                line.move(epoch.decode(), offset)
                self._interrupt(room)
            else:
                for each in frames.kept(room, line.epoch, offset, found):
                    missed.setdefault(each.seq, []).append(each)
        for _, several in sorted(missed.items()):
            self._bring(several)
        self._floor.settle()

    def _bring(self, several: Iterable[Kept]) -> None:
        """Hands out a message that was missed in one room or more."""
        kept: dict[str, Delivered] = {}
        message: Message | None = None
        excluded: Sequence[str] = ()
        for each in several:
            line = self._lines.get(each.place.room)
            if line is not None and line.offset < each.place.offset:
                message = message or each.message
                excluded = each.excluded
                kept[each.place.room] = delivered = Delivered(message, (each.place,))
                line.took(delivered)
        if message is not None:
            self.caught_up += 1
            self._brought.setdefault(message.message_id, set()).update(kept)
            wish = BroadcastWish(message.message_type, rooms=list(kept), exclude_clients=excluded)
            self._hand(message, wish, kept)

    def _interrupt(self, room: str) -> None:
        """Sends the members of a room away."""
        standing = self._floor.directory.rooms.get(room)
        for connection in [] if standing is None else list(standing.members):
            self._floor.end(connection, _interruption(room))


def _interruption(room: str) -> UnavailableError:
    return UnavailableError(
        "ROOM_INTERRUPTED",
        f"what was sent to the room {room!r} meanwhile can not be told; connect again and recover",
    )

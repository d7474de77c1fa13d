"""Joins and leaves of a room, gathered for those who want to hear of them.

All watchers of a room share what changes until most of them have taken it, so that a room of
thousands costs one notice a loop turn and not one for each pair, be it that all of them come at
once. Who is slower holds several, which become one when it takes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from switchboard_server.core.realtime.items import Member, PresenceNotice

if TYPE_CHECKING:
    from switchboard_server.core.realtime.connection import Connection
    from switchboard_server.core.realtime.rooms import Room

CHANGE_BYTES = 256
"""What a change costs that waits for a slow watcher, about."""
MAX_GATHERINGS = 8
"""A slow watcher's gatherings become one when there are as many."""
LONGEST = 256
"""So many changes, and what follows is another gathering: what waits for slow ones is counted when
it has ended."""

Changes = dict[str, tuple[Member | None, Member | None]]
"""By `client_id`: who stood there before, and who does now."""


class Gathering:
    """What has changed in a room since somebody was told last.

    Args:
        room: The room.
        changes: What has changed.

    Attributes:
        late: Those who watch and do not wait to be told of it: they began to watch, or took it,
            since it was begun. They are to be told of what changes next.
    """

    __slots__ = ("_asked", "_log", "_made", "_taken", "changes", "late", "room")

    def __init__(self, room: Room, changes: Changes | None = None) -> None:
        self.room = room
        self.changes: Changes = {} if changes is None else changes
        self.late: dict[Connection, None] = {}
        self._log: list[tuple[str, Member | None, Member | None]] = []
        self._asked = self._taken = 0
        # The notice of all of it, and of how many changes that was.
        self._made: tuple[int, PresenceNotice | None] | None = None

    @property
    def length(self) -> int:
        """How many changes it has."""
        return len(self._log)

    @property
    def told(self) -> bool:
        """Whether so many have taken it, or it has become so long, that another is to be begun."""
        return 2 * self._taken >= self._asked or len(self._log) >= LONGEST

    def add(self, client_id: str, before: Member | None, now: Member | None) -> None:
        """Adds a change."""
        self._log.append((client_id, before, now))
        _add(self.changes, client_id, before, now)

    def ask(self) -> int:
        """Takes note of one that waits for it, and returns how many changes came before."""
        self._asked += 1
        return len(self._log)

    def take(self, watcher: Connection) -> None:
        """Takes note of one that waits for it no longer."""
        self._taken += 1
        if not self.told:
            self.late[watcher] = None

    def since(self, length: int) -> Changes:
        """What has changed after so many changes."""
        if not length:
            return self.changes
        changes: Changes = {}
        for change in self._log[length:]:
            _add(changes, *change)
        return changes

    def notice(self, length: int = 0) -> PresenceNotice | None:
        """What to tell of it after so many changes; None: everything is as it was."""
        if length:
            return _notice(self.room, self.since(length))
        if self._made is None or self._made[0] != len(self._log):
            self._made = len(self._log), _notice(self.room, self.changes)
        return self._made[1]


def _add(changes: Changes, client_id: str, before: Member | None, now: Member | None) -> None:
    first = changes.get(client_id)
    changes[client_id] = (before if first is None else first[0], now)


def _notice(room: Room, changes: Changes) -> PresenceNotice | None:
    joined = tuple(
        now
        for before, now in changes.values()
        # One that left and came back is no news, unless it is another user's now.
        if now is not None and (before is None or before.user != now.user)
    )
    left = tuple(before for before, now in changes.values() if before is not None and now is None)
    if not joined and not left:
        return None
    return PresenceNotice(room.name, joined, left, *room.counts)


def merged(room: Room, parts: Iterable[tuple[Gathering, int]]) -> Gathering:
    """One gathering of several, earliest first, each after so many of its changes."""
    together = Gathering(room)
    for gathering, length in parts:
        for client_id, (before, now) in gathering.since(length).items():
            _add(together.changes, client_id, before, now)
    return together


class Waiting:
    """What one watcher has still to be told of a room.

    Args:
        number: Its place among what waits for the watcher.
        watcher: The watcher.
        gathering: The first that it has to be told, from now on.
        size: Bytes that it costs the watcher to begin with, about. What it no longer shares with
            other watchers is added.

    Attributes:
        room: Name of the room.
    """

    __slots__ = ("_own", "_parts", "_watcher", "number", "room", "size")

    def __init__(self, number: int, watcher: Connection, gathering: Gathering, size: int) -> None:
        self.number = number
        self.room = gathering.room.name
        self.size = size
        self._watcher = watcher
        self._parts = [(gathering, gathering.ask())]
        self._own = 0

    def add(self, gathering: Gathering) -> int:
        """Adds what came after, and returns by how many bytes the size has changed."""
        own = self._own + CHANGE_BYTES * len(self._parts[-1][0].changes)
        if len(self._parts) >= MAX_GATHERINGS:
            together = merged(gathering.room, self._parts)
            self._parts = [(together, 0)]
            own = CHANGE_BYTES * len(together.changes)
        self._parts.append((gathering, gathering.ask()))
        change, self._own = own - self._own, own
        self.size += change
        return change

    def notice(self) -> PresenceNotice | None:
        """What to tell of it all, which ends the waiting; None: nothing."""
        last, length = self._parts[-1]
        last.take(self._watcher)
        if len(self._parts) == 1:
            return last.notice(length)
        return merged(last.room, self._parts).notice()

"""Joins and leaves of a room, gathered for those who want to hear of them.

All watchers of a room share what changes until one of them takes it, so that a room of thousands
costs one notice a loop turn and not one for each pair. Who is slower holds several, which become
one when it takes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from switchboard_server.core.realtime.items import Member, PresenceNotice

if TYPE_CHECKING:
    from switchboard_server.core.realtime.rooms import Room

CHANGE_BYTES = 256
"""What a change costs that waits for a slow watcher, about."""
MAX_GATHERINGS = 8
"""A slow watcher's gatherings become one when there are as many."""

Changes = dict[str, tuple[Member | None, Member | None]]
"""By `client_id`: who stood there before, and who does now."""


class Gathering:
    """What has changed in a room since somebody was told last.

    Args:
        room: The room.
        changes: What has changed.
    """

    __slots__ = ("_notice", "changes", "room", "told")

    def __init__(self, room: Room, changes: Changes | None = None) -> None:
        self.room = room
        self.changes: Changes = {} if changes is None else changes
        self.told = False
        self._notice: PresenceNotice | None = None

    def add(self, client_id: str, before: Member | None, now: Member | None) -> None:
        """Adds a change."""
        first = self.changes.get(client_id)
        self.changes[client_id] = (before if first is None else first[0], now)

    def notice(self) -> PresenceNotice | None:
        """What to tell, which ends the gathering; None: everything is as it was before."""
        if not self.told:
            self.told = True
            joined = tuple(
                now
                for before, now in self.changes.values()
                # One that left and came back is no news, unless it is another user's now.
                if now is not None and (before is None or before.user != now.user)
            )
            left = tuple(
                before
                for before, now in self.changes.values()
                if before is not None and now is None
            )
            if joined or left:
                room = self.room
                self._notice = PresenceNotice(room.name, joined, left, *room.counts)
        return self._notice


def merged(room: Room, gatherings: Iterable[Gathering]) -> Gathering:
    """One gathering of several, earliest first."""
    together = Gathering(room)
    for gathering in gatherings:
        for client_id, (before, now) in gathering.changes.items():
            together.add(client_id, before, now)
    return together


class Waiting:
    """What one watcher has still to be told of a room.

    Args:
        number: Its place among what waits for the watcher.
        gathering: The first that it has to be told.
        size: Bytes that it costs the watcher to begin with, about. What it no longer shares with
            other watchers is added.
    """

    __slots__ = ("_own", "gatherings", "number", "room", "size")

    def __init__(self, number: int, gathering: Gathering, size: int) -> None:
        self.number = number
        self.room = gathering.room.name
        self.gatherings = [gathering]
        self.size = size
        self._own = 0

    def add(self, gathering: Gathering) -> int:
        """Adds what came after, and returns by how many bytes the size has changed."""
        own = self._own + CHANGE_BYTES * len(self.gatherings[-1].changes)
        if len(self.gatherings) >= MAX_GATHERINGS:
            together = merged(gathering.room, self.gatherings)
            self.gatherings = [together]
            own = CHANGE_BYTES * len(together.changes)
        self.gatherings.append(gathering)
        change, self._own = own - self._own, own
        self.size += change
        return change

    def notice(self) -> PresenceNotice | None:
        """What to tell of it all; None: nothing."""
        last = self.gatherings[-1]
        # The others who share the last one are told of it as it is now, too.
        notice = last.notice()
        return notice if len(self.gatherings) == 1 else merged(last.room, self.gatherings).notice()

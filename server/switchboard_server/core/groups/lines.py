"""Keeps the events of each key in order, and each key with one member."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from switchboard_server.core.groups.entries import Entry, Holder
from switchboard_server.core.groups.ready import ReadyQueue


@dataclass(slots=True)
class _Line:
    """The events of one key: one is everybody's turn, the others wait for it to be settled."""

    head: Entry
    waiting: list[Entry] = field(default_factory=list)


class KeyLines:
    """The lines of a KEY_SHARED group.

    Which member a key belongs to is decided by rendezvous hashing (Thaler and Ravishankar, 1996):
    when a member comes or goes, only keys that it gets or had move.
    """

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._members: Sequence[Holder] = ()
        self._bids: Sequence[tuple[int, tuple[int, Holder]]] = ()
        self._pools: dict[Holder, ReadyQueue] = {}
        self._orphans: list[Entry] = []

    def pool(self, holder: Holder) -> ReadyQueue:
        """What is ready for a member; empty where it gets nothing."""
        return self._pools.get(holder, _EMPTY)

    def claim(self, entry: Entry) -> bool:
        """Lines an event up.

        Returns:
            Whether it is its turn.
        """
        if not entry.key:
            return True
        line = self._lines.get(entry.key)
        if line is None:
            self._lines[entry.key] = _Line(entry)
            return True
        if line.head is entry:
            return True
        # Its bytes would have to be kept for as long as others take.
        entry.batch = None
        heappush(line.waiting, entry)
        return False

    def advance(self, entry: Entry) -> Entry | None:
        """Takes an event that is settled out of its line.

        Returns:
            Whose turn it is now; None: nobody's.
        """
        line = self._lines.get(entry.key) if entry.key else None
        if line is None:
            return None
        if line.head is not entry:
            line.waiting.remove(entry)
            heapify(line.waiting)
            return None
        if not line.waiting:
            del self._lines[entry.key]
            return None
        line.head = heappop(line.waiting)
        return line.head

    def place(self, entry: Entry) -> None:
        """Lets an event whose turn it is wait for the member that its key belongs to."""
        if self._members:
            key = hash(entry.key)
            _, _, owner = max((_mixed(key ^ seed), at, each) for at, (seed, each) in self._bids)
            self._pools[owner].push(entry)
        else:
            self._orphans.append(entry)

    def rehome(self, members: Sequence[Holder]) -> None:
        """Has keys belong to other members from now on."""
        homeless, self._orphans = self._orphans, []
        for pool in self._pools.values():
            homeless += pool.clear()
        self._members = members
        self._bids = list(enumerate((hash(each.identity.member_id), each) for each in members))
        # The queues of members that stay keep their place in the rule of priorities.
        self._pools = {
            each: self._pools[each] if each in self._pools else ReadyQueue() for each in members
        }
        for entry in homeless:
            self.place(entry)

    def clear(self) -> None:
        """Forgets all events."""
        self._lines.clear()
        self._orphans.clear()
        for pool in self._pools.values():
            pool.clear()


_EMPTY = ReadyQueue()
_MASK = (1 << 64) - 1


def _mixed(number: int) -> int:
    """Spreads numbers evenly over 64 bits, which the hash of a tuple does not.

    The finalizer of splitmix64 (Steele, Lea and Flood, 2014).
    """
    number = ((number ^ number >> 30 & _MASK) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ number >> 27) * 0x94D049BB133111EB) & _MASK
    return number ^ number >> 31

"""Where in the stream some records stand, so that reading can begin near any of them."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from operator import attrgetter

SPACING_BYTES = 512 * 1024
"""One record in about so many bytes is noted while tailing."""
SPACING_RECORDS = 64
"""One record in so many is noted at least."""
MOST_ENTRIES = 65_536
"""Every other entry is forgotten when there are more."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A record of the stream.

    Args:
        first: Sequence of its first event.
        time_ns: When its events entered the log.
        offset: Its offset.
    """

    first: int
    time_ns: int
    offset: int


_first, _time, _offset = attrgetter("first"), attrgetter("time_ns"), attrgetter("offset")


class Index:
    """Spots in the order of the stream, sparse."""

    def __init__(self) -> None:
        self._spots: list[Spot] = []
        self._bytes = 0
        self._records = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._spots)

    def pass_by(self, spot: Spot, size: int) -> None:
        """Notes a record that follows all others, if none near it is.

        Args:
            spot: Where it stands.
            size: Its bytes.
        """
        self._bytes += size
        self._records += 1
        if not self._spots or self._bytes >= SPACING_BYTES or self._records >= SPACING_RECORDS:
            self._bytes = self._records = 0
            self.add(spot)

    def add(self, spot: Spot) -> None:
        """Notes a record, wherever it stands."""
        at = bisect_left(self._spots, spot.offset, key=_offset)
        if at < len(self._spots) and self._spots[at].offset == spot.offset:
            return
        self._spots.insert(at, spot)
        if len(self._spots) > MOST_ENTRIES:
            del self._spots[1:-1:2]

    def trim(self, offset: int) -> None:
        """Forgets what stands before an offset."""
        del self._spots[: bisect_left(self._spots, offset, key=_offset)]

    def clear(self) -> None:
        """Forgets everything."""
        self._spots.clear()

    def around(self, sequence: int) -> tuple[Spot | None, Spot | None]:
        """The last spot that does not begin after a sequence, and the one after it."""
        return self._at(bisect_right(self._spots, sequence, key=_first))

    def around_time(self, time_ns: int) -> tuple[Spot | None, Spot | None]:
        """The last spot of before a time, and the one after it."""
        return self._at(bisect_left(self._spots, time_ns, key=_time))

    def _at(self, at: int) -> tuple[Spot | None, Spot | None]:
        spots = self._spots
        return spots[at - 1] if at else None, spots[at] if at < len(spots) else None

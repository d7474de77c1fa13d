"""The deliveries that members hold, by the names under which they settle them."""

from collections.abc import Sequence
from zlib import crc32

from switchboard_server.core.groups import ack_ids
from switchboard_server.core.groups.entries import Entry, Holder, State

_IN_FLIGHT = State.IN_FLIGHT
_READY = State.READY


class Leases:
    """Who holds which event, and under which name.

    Each delivery has a number of its own, its nonce: a multiple of four, to which the event's
    priority is added, from 0 up.

    Args:
        secret: The group's own number, 32 bits, from which names are made.
        nonce: Deliveries are numbered from beyond here.
        floor: No delivery with a nonce up to here is held any more, whatever became of its event.

    Attributes:
        floor: As given, or as `forget` has set it.
        by_name: The events that are held. Who takes one out hands it to `settle`.
    """

    def __init__(self, secret: int, nonce: int, floor: int) -> None:
        self._secret = secret
        self._nonce = nonce
        self.floor = floor
        self.by_name: dict[str, Entry] = {}

    @property
    def latest(self) -> int:
        """No delivery has a higher nonce so far."""
        return self._nonce | 3

    def give(self, entries: Sequence[Entry], holder: Holder) -> int:
        """Gives events to a member.

        Returns:
            How many of them had been delivered before.
        """
        nonce, secret, held, by_name = self._nonce, self._secret, holder.held, self.by_name
        in_flight, pack = _IN_FLIGHT, ack_ids.PACKED.pack
        again = 0
        for entry in entries:
            nonce += 4
            entry.nonce = given = nonce | entry.priority - 1
            entry.state = in_flight
            entry.holder = holder
            entry.attempts += 1
            held[given] = entry
            sequence = entry.sequence
            # As `ack_ids.make` does, without the call.
            name = "%x-%x-%08x" % (sequence, given, crc32(pack(sequence, given), secret))  # noqa: UP031
            entry.ack_id = name
            by_name[name] = entry
            if entry.attempts > 1:
                again += 1
        self._nonce = nonce
        return again

    def settle(self, entries: Sequence[Entry]) -> None:
        """Takes from their members what was taken out of `by_name`."""
        for entry in entries:
            del (entry.holder or _holder(entry)).held[entry.nonce]

    def take_back(self, entry: Entry) -> Holder:
        """Takes a delivery from the member that holds it."""
        holder = _holder(entry)
        del holder.held[entry.nonce]
        del self.by_name[entry.ack_id]
        entry.state = _READY
        entry.batch = None
        return holder

    def forget(self) -> None:
        """Voids all names that were ever given."""
        self.by_name.clear()
        self.floor = self.latest

    def read(self, name: str) -> tuple[int, int] | None:
        """The sequence and the nonce of a delivery; None: the group never gave out this name."""
        return ack_ids.read(self._secret, name)


def _holder(entry: Entry) -> Holder:
    if entry.holder is None:
        raise AssertionError(f"event {entry.sequence} is in flight and nobody holds it")
    return entry.holder

"""What is sent: the same payloads on every side, so that every receiver can check each byte."""

import random
from collections.abc import Iterable
from itertools import count, cycle, islice

from switchboard.v1.event_pb2 import Event
from switchboard.v1.event_service_pb2 import PublishStreamRequest

TYPE = "bench.order"
"""Type of every event, and the peers' subject or channel."""
SOURCE = "bench"
"""Source service of every event."""
CYCLE = 4096
"""After so many events the payloads repeat; a whole number of batches of any size used here."""


def _payloads() -> list[bytes]:
    # Digits and lower case only, so that words of a peer's protocol stand out.
    rng = random.Random(20)
    letters = b"abcdefghijklmnopqrstuvwxyz"
    return [
        b"%06d" % number + bytes(rng.choices(letters, k=rng.randint(122, 194)))
        for number in range(CYCLE)
    ]


PAYLOADS = _payloads()
"""128 to 200 bytes each; event number n of a run carries number n modulo `CYCLE`."""


class CheckError(Exception):
    """Events did not arrive exactly once and in order, so no figure is worth quoting."""


class Expected:
    """What one receiver has to receive.

    Args:
        first_sequence: The sequence of the first event; None where the peer has no sequences.
        payloads: The payloads, over and over.
    """

    def __init__(
        self, first_sequence: int | None = None, payloads: Iterable[bytes] = PAYLOADS
    ) -> None:
        self._payloads = cycle(payloads)
        self._sequences = None if first_sequence is None else count(first_sequence)
        self.received = 0

    def take(self, payloads: list[bytes], sequences: list[int] | None = None) -> None:
        """Checks the next events.

        Args:
            payloads: Their payloads.
            sequences: Their sequences, where there are any.

        Raises:
            CheckError: They are not the next ones.
        """
        number = len(payloads)
        if payloads != list(islice(self._payloads, number)):
            raise CheckError(f"other payloads than those sent, after {self.received} events")
        if self._sequences is not None and sequences != list(islice(self._sequences, number)):
            raise CheckError(f"sequences with a gap or a repetition after {self.received} events")
        self.received += number


def event(number: int) -> Event:
    """Builds event number n of a run."""
    return Event(type=TYPE, source_service=SOURCE, binary=PAYLOADS[number % CYCLE])


def prebuilt_requests(batch: int) -> list[bytes]:
    """Encodes a cycle of events as PublishStream requests, without a `request_id`.

    Args:
        batch: Events of each, a divisor of `CYCLE`.
    """
    return [
        PublishStreamRequest(
            events=[event(number) for number in range(first, first + batch)]
        ).SerializeToString()
        for first in range(0, CYCLE, batch)
    ]

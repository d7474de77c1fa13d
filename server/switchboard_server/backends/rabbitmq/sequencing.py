"""Numbers events and writes them to the stream, while this node holds the seat for it."""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from switchboard_server.backends.clocks import LogTime
from switchboard_server.backends.rabbitmq.encoding import Envelope, Properties
from switchboard_server.backends.rabbitmq.entries import Entry, Known, Sifter, keys_of
from switchboard_server.backends.rabbitmq.place import Place
from switchboard_server.backends.rabbitmq.records import (
    CONTENT_TYPE,
    EVENTS,
    MARKER_CONTENT_TYPE,
    TERM,
    VERSION,
    Answers,
    Columns,
    Marker,
    encode_marker,
    encode_record,
    routing_keys,
)
from switchboard_server.backends.rabbitmq.seat import Term
from switchboard_server.backends.rabbitmq.topology import Topology
from switchboard_server.backends.rabbitmq.waiting import unavailable
from switchboard_server.core.clock import Clock
from switchboard_server.core.records import Batch, Codec, build_batches

IN_FLIGHT = 6
"""Records on their way to the broker while others gather."""
RECORD_BYTES = 256 * 1024
"""A record takes no further call once it holds so many bytes; while others are on their way it
waits for so many, or for as many events as it may hold."""
RECORD_TYPES = 64
"""A record takes no further call once it holds events of so many types."""
GATHER_TURNS = 16
"""Most turns of the loop for which a record waits while more arrives in each of them."""
DOUBT_SECONDS = 1.0
"""How long what is late is waited for: a node that was frozen finds confirms when it goes on."""
TERM_SECONDS = 20.0
"""How long the marker of a term may take until it is read."""

_MARKER = Envelope(Properties(content_type=MARKER_CONTENT_TYPE, message_type=TERM, delivery_mode=2))

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Sent:
    """A record that has not been read yet."""

    first: int
    batches: list[Batch]


class Sequencer:
    """Numbers events in the order in which it is given them, and writes them as records.

    Gathers by load: what waits while records are on their way goes into the next, and a lone event
    goes at once.

    Args:
        topology: The names.
        place: How far the log has been read here, which is how far it goes when a term begins.
        codec: How events look as bytes.
        clock: Unix time in nanoseconds.
        batch_size: Events that a record holds at most, unless one call has more.
        timeout: Seconds that a request waits, on whichever node.
        known: Tells which events were accepted before.

    Attributes:
        term: The term in which it numbers; None: it does not.
        epoch: What records of this term say.
        sifter: Keeps out what was accepted before.
    """

    def __init__(
        self,
        topology: Topology,
        place: Place,
        codec: Codec,
        clock: Clock,
        *,
        batch_size: int,
        timeout: float,
        known: Known,
    ) -> None:
        self._topology = topology
        self._place = place
        self._codec = codec
        self._clock = clock
        self._batch_size = batch_size
        self._timeout = timeout
        self.sifter = Sifter(known)
        self._loop = asyncio.get_running_loop()
        self._marker: asyncio.Future[None] | None = None
        self.term: Term | None = None
        self.epoch = 0
        self._idle: asyncio.Future[None] = self._loop.create_future()
        self._reset()

    def _reset(self) -> None:
        self._waiting: deque[Entry] = deque()
        self._events = self._bytes = self._in_flight = 0
        self._gathering = self._doubted = False
        self._next = 0
        self._sent: deque[_Sent] = deque()
        self.sifter.reset()
        if not self._idle.done():
            self._idle.set_result(None)

    async def begin(self, term: Term) -> None:
        """Begins to number.

        Returns when all that was written before is known to be read, and nothing that earlier
        terms write will count any more.

        Raises:
            UnavailableError: It cannot, or another node began at the same moment.
        """
        place = self._place
        epoch = place.epoch + 1
        term.epoch = term.epoch or epoch
        log_id = place.log_id or secrets.token_hex(4)
        marker = Marker(VERSION, log_id, epoch, term.nonce, place.last, place.time_ns, term.epoch)
        self._marker = self._loop.create_future()
        try:
            await self._publish_marker(term, marker)
            async with asyncio.timeout(TERM_SECONDS):
                await self._marker
        except TimeoutError:
            raise unavailable(f"the marker of term {epoch} was not read") from None
        finally:
            self._marker = None
        if (place.epoch, place.nonce) != (epoch, term.nonce):
            raise unavailable(f"another node began term {place.epoch}")
        self._reset()
        self._next = place.last + 1
        self._time = LogTime(self._clock, place.time_ns)
        self.epoch = epoch
        self.term = term
        term.on_end(lambda: self.end(term))
        _logger.info("events are numbered here from %d on, term %d", self._next, epoch)

    async def drained(self) -> None:
        """Waits until all that it was given has been read back."""
        while self.term is not None and (self._waiting or self._sent):
            self._idle = self._loop.create_future()
            await self._idle

    def end(self, term: Term) -> None:
        """Numbers no more. Those whose requests wait send them to the next."""
        if self.term is term:
            self.term = None
            self._reset()

    def marked(self, marker: Marker) -> None:
        """Takes notice that a marker was read, whatever it did."""
        if self._marker is not None and not self._marker.done():
            self._marker.set_result(None)
        begun = self._place.nonce == marker.nonce
        if self.term is not None and begun and marker.nonce != self.term.nonce:
            self.term.end(f"another node began term {marker.epoch}")

    def rise(self, last: int) -> None:
        """Goes on after a sequence at least, since some node has read so far in a lost stream."""
        term = self.term
        if term is not None and last >= self._next:
            self._next = last + 1
            self._publish_marker(
                term,
                Marker(
                    VERSION,
                    self._place.log_id,
                    self.epoch,
                    term.nonce,
                    last,
                    self._time.now(),
                    term.epoch,
                ),
            )

    def add(self, entry: Entry) -> None:
        """Takes events to number, unless its term has ended: then they come again with the next."""
        if self.term is None:
            return
        entry.since = self._loop.time()
        if self._late and not self._doubted:
            self._doubted = True
            self._loop.call_later(DOUBT_SECONDS, self._judge, self.term)
        self._waiting.append(entry)
        self._events += len(entry.drafts)
        self._bytes += entry.size
        if not self._gathering:
            self._gathering = True
            self._loop.call_soon(self._gather, 0, 0)

    @property
    def _late(self) -> bool:
        """Whether some have waited for so long that their requests have failed meanwhile."""
        since = self._waiting[0].since if self._waiting else inf
        return self._loop.time() - since > self._timeout

    def _judge(self, term: Term) -> None:
        """Ends the term where nothing can be written, so that what waits stays bounded.

        To let go of what is late alone would let what came after it overtake it.
        """
        self._doubted = False
        if term is self.term and self._late:
            term.end(f"nothing was written for {self._timeout:g} s")

    def own(self, columns: Columns) -> list[Batch] | None:
        """The batches of a record that this node wrote in this term and that was just read."""
        if self.term is None or columns.epoch != self.epoch or not self._sent:
            return None
        sent = self._sent[0]
        if sent.first != columns.first:
            return None
        self._sent.popleft()
        return sent.batches

    def learned(self, columns: Columns) -> None:
        """Takes notice that the listener knows of a record."""
        if self.term is None:
            return
        if not (self._waiting or self._sent or self._idle.done()):
            self._idle.set_result(None)
        self.sifter.learned(columns)

    def missed(self, columns: Columns) -> None:
        """Takes notice that a record does not count, which was this term's: one before is lost."""
        if self.term is not None and columns.epoch == self.epoch:
            self.term.end("a record was lost on its way into the log")

    def _gather(self, turns: int, seen: int) -> None:
        """Waits while every turn of the loop brings more, as long as nothing is on its way."""
        if self.term is None:
            return
        waiting = len(self._waiting)
        more = waiting > seen or not turns
        if more and turns < GATHER_TURNS and not self._full() and not self._in_flight:
            self._loop.call_soon(self._gather, turns + 1, waiting)
            return
        self._gathering = False
        self._pump()

    def _full(self) -> bool:
        return self._events >= self._batch_size or self._bytes >= RECORD_BYTES

    def _pump(self) -> None:
        while (
            self.term is not None
            and self._waiting
            and self._in_flight < IN_FLIGHT
            and (not self._in_flight or self._full())
        ):
            self._send(self.term)

    def _send(self, term: Term) -> None:
        """Writes what waits as one record."""
        taken = self._take()
        first, time_ns = self._next, self._time.now()
        entering: list[Entry] = []
        for entry in taken:
            if self.sifter.sift(entry, self._next):
                self._next += len(entry.drafts)
                entering.append(entry)
        if not entering:
            return
        drafts = [each.drafts for each in entering]
        try:
            batches = build_batches(drafts, first, time_ns, self._codec)
            body = encode_record(
                batches,
                log_id=self._place.log_id,
                epoch=self.epoch,
                answers=_answers(entering),
                released=[row for each in entering for row in each.released],
            )
        except Exception as error:  # A defect must fail these calls, not all later ones.
            self._next = first
            for each in entering:
                self.sifter.end_keys(keys_of(each.drafts).values())
                each.fail(error)
            return
        keys = routing_keys(batches)
        self._sent.append(_Sent(first, batches))
        self._in_flight += 1
        envelope = _RECORD if len(keys) == 1 else _record_for(keys)
        done = term.publish(self._topology.events, keys[0], body, envelope, mandatory=True)
        done.add_done_callback(lambda outcome: self._confirmed(term, outcome))

    def _take(self) -> list[Entry]:
        taken: list[Entry] = []
        events = size = 0
        types: set[str] = set()
        while self._waiting:
            entry = self._waiting[0]
            added = {route.type for route in entry.drafts.distinct_routes()}
            if taken and (
                events + len(entry.drafts) > self._batch_size
                or size + entry.size > RECORD_BYTES
                or len(types | added) > RECORD_TYPES
            ):
                break
            types |= added
            events += len(entry.drafts)
            size += entry.size
            taken.append(self._waiting.popleft())
        self._events -= events
        self._bytes -= size
        return taken

    def _confirmed(self, term: Term, outcome: "asyncio.Future[None]") -> None:
        error = outcome.exception()
        if term is not self.term:
            return
        if error is not None:
            term.end(f"a record was not confirmed: {error}")
            return
        self._in_flight -= 1
        self._pump()

    def _publish_marker(self, term: Term, marker: Marker) -> "asyncio.Future[None]":
        return term.publish("", self._topology.log, encode_marker(marker), _MARKER, mandatory=True)


def _record_for(keys: Sequence[str]) -> Envelope:
    """The properties of a record of events of some types; the first is the routing key."""
    headers: Any = {"CC": keys[1:]} if len(keys) > 1 else None
    return Envelope(
        Properties(content_type=CONTENT_TYPE, message_type=EVENTS, delivery_mode=2, headers=headers)
    )


_RECORD = _record_for(("",))


def _answers(entries: Sequence[Entry]) -> list[Answers]:
    """What requests the events of a record answer, runs of them together."""
    made: list[Answers] = []
    for entry in entries:
        newest = made[-1] if made else None
        if (
            newest is None
            or newest.node != entry.node
            or (entry.node and newest.number + len(newest.counts) != entry.number)
        ):
            newest = Answers(entry.node, entry.number, [], {})
            made.append(newest)
        if entry.duplicates:
            newest.duplicates[len(newest.counts)] = dict(entry.duplicates)
        newest.counts.append(len(entry.drafts))
    return made

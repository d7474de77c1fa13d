"""A stream that the holder of a seat writes, and reads to know what stands there.

A confirm says that a message is in the stream. It does not say that nobody had taken the seat
before it came there: only who reads the stream knows. So what is written is answered when it has
been read.
"""

import asyncio
import logging
from collections.abc import Callable
from enum import IntEnum

import msgspec

from switchboard_server.backends.rabbitmq.channel import Channel
from switchboard_server.backends.rabbitmq.credit import Credit
from switchboard_server.backends.rabbitmq.encoding import PERSISTENT, Delivery
from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.seat import Term
from switchboard_server.backends.rabbitmq.waiting import unavailable

READ_SECONDS = 15.0
"""How long what was written may take to be read."""
_PREFETCH = 200

_logger = logging.getLogger(__name__)


class Kind(IntEnum):
    """What an entry is."""

    TERM = 0
    """Somebody has taken the seat: what another writes after this does not count."""
    RECORDS = 1
    """What the journal keeps."""
    INTENT = 2
    """A stream of this name is going to be made."""
    POINT = 3
    """The journal is in the stream of this name, and so many of its bytes are live, its record
    says."""
    GONE = 4
    """The stream of this name has been removed."""
    PART = 5
    """The beginning of a record that is too large for one message: the first record of the next
    entry goes on."""


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """A message of a stream.

    Args:
        kind: What it is.
        epoch: Term of who wrote it; 0 in a term entry that is the first of its term, and whose
            place in the stream is what numbers the term.
        nonce: `Term.nonce` of who wrote it.
        number: Of the entry in its term and stream.
        name: Of a stream.
        records: What the journal keeps, in order.
    """

    kind: int
    epoch: int
    nonce: str
    number: int
    name: str = ""
    records: list[bytes] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


class Fence:
    """Tells what counts in a stream. All who read it from its beginning come to the same answer.

    Attributes:
        epoch: The latest term that has begun.
    """

    def __init__(self) -> None:
        self.epoch = 0

    def counts(self, entry: Entry, offset: int) -> bool:
        """Takes the next entry.

        Args:
            entry: The entry.
            offset: Its place in the stream.

        Returns:
            Whether it counts: no later term had begun before it.
        """
        if not self.epoch and offset:
            # What came before is not retained; it began with the term of what is.
            self.epoch = entry.epoch
        if entry.kind != Kind.TERM:
            return entry.epoch == self.epoch
        epoch = entry.epoch or offset + 1
        self.epoch = max(self.epoch, epoch)
        return epoch == self.epoch


Reader = Callable[[Entry, int], None]
"""Takes each entry that counts, with its place in the stream."""


class Track:
    """One stream, written and read in a term.

    Args:
        link: For the channel that reads; what is written goes through the term's own.
        term: The term. It ends where reading fails, or when a later one has begun.
        queue: Name of the stream, which exists.
        read: Takes each entry that counts.

    Attributes:
        size: Bytes that have been read of it.
    """

    def __init__(self, link: Link, term: Term, queue: str, read: Reader) -> None:
        self.queue = queue
        self.size = 0
        self._link = link
        self._term = term
        self._read = read
        self._fence = Fence()
        self._numbers = 0
        self._written: dict[int, asyncio.Future[int]] = {}
        self._channel: Channel | None = None
        self._credit: Credit | None = None

    async def open(self) -> None:
        """Begins to read from the beginning."""
        self._channel = await self._link.channel(prefetch=_PREFETCH)
        self._channel.on_end(self._ended)
        self._credit = Credit(self._channel, _PREFETCH // 2)
        await self._channel.consume(
            self.queue, self._receive, arguments={"x-stream-offset": "first"}
        )

    def write(
        self, kind: Kind, *, name: str = "", records: list[bytes] | None = None
    ) -> asyncio.Future[int]:
        """Writes an entry, after those before it.

        Returns:
            Answers with its place in the stream when it has been read, and counts. Fails with
            UnavailableError where it does not count, or nobody knows; then the term has ended.
        """
        self._numbers += 1
        number = self._numbers
        entry = Entry(kind, self._term.epoch, self._term.nonce, number, name, records or [])
        outcome: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        outcome.add_done_callback(_heard)
        self._written[number] = outcome
        sending = self._term.publish(
            "", self.queue, _encoder.encode(entry), PERSISTENT, mandatory=True
        )
        sending.add_done_callback(lambda done: self._sent(number, done))
        return outcome

    async def written(
        self, kind: Kind, *, name: str = "", records: list[bytes] | None = None
    ) -> int:
        """Writes an entry and waits until it has been read. See `write`.

        All that stands before it is read first, which may be much: it takes its time as long as
        something comes.
        """
        writing = self.write(kind, name=name, records=records)
        while True:
            before = self.size
            await asyncio.wait([writing], timeout=READ_SECONDS)
            if writing.done():
                return writing.result()
            if self.size == before:
                raise unavailable(f"nothing came from {self.queue} in {READ_SECONDS:g} s")

    async def close(self) -> None:
        """Stops reading. What has not been read fails."""
        channel, self._channel = self._channel, None
        self._fail("the journal was closed")
        if channel is not None:
            await channel.close()

    def _sent(self, number: int, sending: "asyncio.Future[None]") -> None:
        error = sending.exception()
        if error is not None and number in self._written:
            # What comes after it may be there, so that the stream is not what it should be.
            self._term.end(f"{self.queue}: {error}")
            self._fail(str(error))

    def _receive(self, message: Delivery) -> None:
        if self._credit is not None:
            self._credit.took(message.tag)
        offset = message.offset
        self.size += len(message.body)
        try:
            entry = _decoder.decode(message.body)
        except msgspec.MsgspecError:
            _logger.exception("entry %d of %s cannot be read", offset, self.queue)
            return
        counts = self._fence.counts(entry, offset)
        if counts:
            self._read(entry, offset)
        mine = entry.nonce == self._term.nonce
        if mine and (outcome := self._written.pop(entry.number, None)) and not outcome.done():
            if counts:
                outcome.set_result(offset)
            else:
                outcome.set_exception(unavailable(f"another node has taken {self._term.seat}"))
        if self._term.epoch and self._fence.epoch > self._term.epoch:
            self._term.end("another node has taken it")

    def _ended(self) -> None:
        if self._channel is not None:
            self._term.end(f"{self.queue} cannot be read: {self._channel.reason}")
        self._fail("the journal cannot be read")

    def _fail(self, text: str) -> None:
        written, self._written = self._written, {}
        for outcome in written.values():
            if not outcome.done():
                outcome.set_exception(unavailable(text))


def _heard(outcome: "asyncio.Future[int]") -> None:
    """Nobody need be waiting: then it is not an error left unheard."""
    if not outcome.cancelled():
        outcome.exception()

"""Workers that load nats-server and Redis by their protocols over plain sockets.

What a subscriber is to receive is known to the byte, so a comparison of memory checks it, and the
clients cost next to nothing: the server is the bottleneck.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from scripts.benchmarks.load import CYCLE, PAYLOADS, TYPE, CheckError
from scripts.benchmarks.worker import Link

BATCH = 1024
"""Events that are written together."""
WINDOW = 16
"""Batches that may be unanswered, as many as the hub's publisher has."""

_PING, _PONG = b"PING\r\n", b"PONG\r\n"
_SUBJECT = TYPE.encode()


@dataclass(frozen=True)
class Protocol:
    """How a peer says things."""

    hello: bytes
    """What a client sends first."""
    subscribe: bytes
    """What a subscriber sends then."""
    subscribed: Callable[[bytes], bool]
    """Whether these first bytes say that the subscription stands."""
    publication: Callable[[bytes], bytes]
    """A payload as its publisher sends it."""
    delivery: Callable[[bytes], bytes]
    """A payload as a subscriber receives it."""
    batch_end: bytes
    """What a publisher sends after a batch."""
    batch_answer: Callable[[int], bytes]
    """What it receives for a batch, given the number of subscribers."""


def _bulk(*words: bytes) -> bytes:
    """An array of strings in Redis's protocol."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


PROTOCOLS = {
    "nats": Protocol(
        hello=b'CONNECT {"verbose":false,"pedantic":false,"lang":"bench","version":"1"}\r\n',
        subscribe=b"SUB %s 1\r\n%s" % (_SUBJECT, _PING),
        subscribed=lambda data: data.endswith(_PONG),
        publication=lambda payload: b"PUB %s %d\r\n%s\r\n" % (_SUBJECT, len(payload), payload),
        delivery=lambda payload: b"MSG %s 1 %d\r\n%s\r\n" % (_SUBJECT, len(payload), payload),
        batch_end=_PING,
        batch_answer=lambda _: _PONG,
    ),
    "redis": Protocol(
        hello=b"",
        subscribe=_bulk(b"SUBSCRIBE", _SUBJECT),
        subscribed=lambda data: data.endswith(b":1\r\n"),
        publication=lambda payload: _bulk(b"PUBLISH", _SUBJECT, payload),
        delivery=lambda payload: _bulk(b"message", _SUBJECT, payload),
        batch_end=b"",
        batch_answer=lambda subscribers: b":%d\r\n" % subscribers * BATCH,
    ),
}


class _Stream(asyncio.Protocol):
    """Receives bytes that repeat in a cycle, and tells when there have been so many."""

    def __init__(self, cycle: bytes) -> None:
        self._twice = cycle * 2
        self._length = len(cycle)
        self._held = b""
        self._goal = 0
        self._reached: asyncio.Future[None] | None = None
        self._handshake: Callable[[bytes], bool] | None = None
        self.received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self.transport = cast("asyncio.Transport", transport)

    async def shake_hands(self, hello: bytes, done: Callable[[bytes], bool]) -> None:
        """Sends the first bytes and waits for an answer, which is not counted."""
        self._handshake = done
        self._reached = asyncio.get_running_loop().create_future()
        self.transport.write(hello)
        await self._reached

    async def exactly(self, goal: int) -> None:
        """Waits until so many bytes have come in all, which is all that may come by then."""
        await self.at_least(goal)
        if self.received != goal:
            raise CheckError(f"{self.received} bytes instead of {goal}")

    async def at_least(self, goal: int) -> None:
        """Waits until so many bytes have come in all."""
        self._goal = goal
        self._reached = asyncio.get_running_loop().create_future()
        self._look()
        await self._reached

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._handshake is not None:
            self._held += data
            if self._handshake(self._held):
                self._handshake, self._held = None, b""
                self._finish()
            return
        if self._held or b"P" in data:
            data = self._without_pings(self._held + data)
        place = self.received % self._length
        while data:
            part, data = data[: self._length], data[self._length :]
            if not self._twice.startswith(part, place):
                self._fail(f"other bytes than those sent, after {self.received}")
                return
            self.received += len(part)
            place = self.received % self._length
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._fail(f"the server closed the connection: {exc}")

    def _without_pings(self, data: bytes) -> bytes:
        """Answers nats-server's pings and takes them out; payloads and MSG lines have no P."""
        parts = data.split(_PING)
        self.transport.write(_PONG * (len(parts) - 1))
        data = b"".join(parts)
        # One may have come in half.
        half = data.rfind(b"P", max(0, len(data) - len(_PING)))
        if half >= 0 and _PING.startswith(data[half:]):
            data, self._held = data[:half], data[half:]
        else:
            self._held = b""
        return data

    def _look(self) -> None:
        if self.received >= self._goal:
            self._finish()

    def _finish(self) -> None:
        if self._reached is not None and not self._reached.done():
            self._reached.set_result(None)

    def _fail(self, text: str) -> None:
        if self._reached is not None and not self._reached.done():
            self._reached.set_exception(CheckError(text))


async def publish(
    link: Link, *, peer: str, port: int, subscriptions: int, events: int, warm: int
) -> None:
    """Publishes events that are encoded beforehand; both counts are whole batches."""
    protocol = PROTOCOLS[peer]
    batches = [
        b"".join(map(protocol.publication, PAYLOADS[first : first + BATCH])) + protocol.batch_end
        for first in range(0, CYCLE, BATCH)
    ]
    answer = protocol.batch_answer(subscriptions)
    loop = asyncio.get_running_loop()
    # Its answers are PONGs, which is no ping, so they pass the stream's look for these.
    transport, stream = await loop.create_connection(lambda: _Stream(answer), "127.0.0.1", port)
    if protocol.hello:
        await stream.shake_hands(protocol.hello + _PING, lambda data: data.endswith(_PONG))

    async def send(first: int, last: int) -> None:
        for number in range(first, last):
            await stream.at_least((number + 1 - WINDOW) * len(answer))
            transport.write(batches[number % len(batches)])
        await stream.at_least(last * len(answer))

    await send(0, warm // BATCH)
    link.report("ready")
    await link.go()
    began = time.monotonic()
    await send(warm // BATCH, (warm + events) // BATCH)
    link.report("done", seconds=time.monotonic() - began)


async def subscribe(
    link: Link, *, peer: str, port: int, subscriptions: int, events: int, warm: int
) -> None:
    """Receives events on several connections, each of which gets every event."""
    protocol = PROTOCOLS[peer]
    deliveries = [protocol.delivery(payload) for payload in PAYLOADS]
    cycle = b"".join(deliveries)
    loop = asyncio.get_running_loop()
    streams = []
    for _ in range(subscriptions):
        _, stream = await loop.create_connection(lambda: _Stream(cycle), "127.0.0.1", port)
        await stream.shake_hands(protocol.hello + protocol.subscribe, protocol.subscribed)
        streams.append(stream)
    link.report("ready")
    for stage, count in ("warm", warm), ("done", warm + events):
        rounds, rest = divmod(count, CYCLE)
        size = rounds * len(cycle) + sum(map(len, deliveries[:rest]))
        await asyncio.gather(*(stream.exactly(size) for stream in streams))
        link.report(stage)
    await link.go()

"""Chunks of events as JSON, made once for all who receive the same chunk."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator

import orjson

from switchboard.v1 import subscription_pb2
from switchboard_server.core.tail import Chunk
from switchboard_server.wire.json_form import to_json

SLICE = 64
"""Most events of one frame: making it takes about a millisecond, and the loop waits meanwhile."""
MAX_REMEMBERED_BYTES = 4 * 1024 * 1024
"""Chunks are remembered up to so many bytes. Subscriptions with an equal filter get the same ones,
all within a few turns of the loop."""


class Slice:
    """Some deliveries that stand one after the other in a chunk.

    Attributes:
        json: The JSON of their list.
        last: Everything up to this sequence was in here or before, or is not wanted.
    """

    __slots__ = ("json", "last")

    def __init__(self, json: bytes, last: int) -> None:
        self.json = json
        self.last = last


class EventJson:
    """Turns chunks into JSON. Shared by all connections."""

    def __init__(self) -> None:
        # By the identity of the chunk's bytes, which stay alive as long as they are here.
        self._made: OrderedDict[int, _Slices] = OrderedDict()
        self._bytes = 0

    async def slices(self, chunk: Chunk) -> AsyncIterator[Slice]:
        """Yields the events of a chunk, some at a time, with turns of the loop in between.

        Args:
            chunk: The chunk.
        """
        key = id(chunk.frames)
        slices = self._made.get(key)
        if slices is None:
            slices = self._made[key] = _Slices(chunk)
            self._bytes += slices.size
            while self._bytes > MAX_REMEMBERED_BYTES:
                self._bytes -= self._made.popitem(last=False)[1].size
        for number in range(slices.count):
            if number:
                await asyncio.sleep(0)
            yield slices.get(number)


class _Slices:
    """The slices of one chunk, made when they are first asked for."""

    def __init__(self, chunk: Chunk) -> None:
        self._frames = chunk.frames
        self.size = len(chunk.frames)
        self._last = chunk.last
        self._deliveries = subscription_pb2.SubscribeResponse.FromString(chunk.frames).deliveries
        self.count = -(-len(self._deliveries) // SLICE)
        self._made: list[Slice] = []

    def get(self, number: int) -> Slice:
        while len(self._made) <= number:
            start = len(self._made) * SLICE
            part = self._deliveries[start : start + SLICE]
            at_end = start + SLICE >= len(self._deliveries)
            self._made.append(
                Slice(
                    orjson.dumps(list(map(to_json, part))),
                    self._last if at_end else part[-1].event.sequence,
                )
            )
        return self._made[number]

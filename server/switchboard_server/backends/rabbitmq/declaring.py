"""Declares the exchange of the events, the stream that is the log, and where others publish to."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from switchboard_server.backends.rabbitmq.link import Link
from switchboard_server.backends.rabbitmq.topology import QUORUM, SEAT, STREAM, Topology
from switchboard_server.core.errors import UnavailableError

MEBIBYTE = 1024 * 1024
LARGEST_SEGMENT = 256 * MEBIBYTE
SMALLEST_SEGMENT = MEBIBYTE
SEGMENTS = 16
"""The log is removed in so many pieces."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What the stream keeps. It removes whole segments, and never the last one.

    Args:
        age_seconds: How long; 0: for ever.
        bytes: How much; 0: without bound.
    """

    age_seconds: int = 0
    bytes: int = 0

    @property
    def segment_bytes(self) -> int:
        """Size of a segment."""
        if not self.bytes:
            return LARGEST_SEGMENT
        return min(max(self.bytes // SEGMENTS, SMALLEST_SEGMENT), LARGEST_SEGMENT)

    def arguments(self) -> Mapping[str, Any]:
        """The stream's arguments."""
        made: dict[str, Any] = {
            **STREAM,
            "x-stream-max-segment-size-bytes": self.segment_bytes,
        }
        if self.age_seconds:
            made["x-max-age"] = f"{self.age_seconds}s"
        if self.bytes:
            made["x-max-length-bytes"] = self.bytes
        return made


class Declaring:
    """Sees to it that everything is there that events need.

    Args:
        link: The connection.
        topology: The names.
        limits: What the stream is to keep.
    """

    def __init__(self, link: Link, topology: Topology, limits: StreamLimits) -> None:
        self._link = link
        self._topology = topology
        self._limits = limits
        self._warned = False

    async def __call__(self) -> int:
        """Declares what is not there.

        Returns:
            How many messages are in the log, about.

        Raises:
            UnavailableError: It cannot be declared now, or the log is no stream.
        """
        names = self._topology
        count = await self._declare_log()
        channel = await self._link.channel()
        try:
            await channel.declare_exchange(names.events, "topic")
            await channel.bind(names.log, names.events, "#")
            await channel.declare_exchange(names.inlet, "topic")
            await channel.declare_queue(names.incoming, SEAT)
            await channel.bind(names.incoming, names.inlet, "#")
            await channel.declare_queue(names.refused, QUORUM)
        finally:
            await channel.close()
        return count

    async def _declare_log(self) -> int:
        """Declares the stream, or takes it as it is where its limits are others."""
        name = self._topology.log
        channel = await self._link.channel()
        try:
            return await channel.declare_queue(name, self._limits.arguments())
        except UnavailableError as error:
            if not self._link.connected or "inequivalent" not in str(error):
                raise
            return await self._take_as_it_is(name, str(error))
        finally:
            await channel.close()

    async def _take_as_it_is(self, name: str, why: str) -> int:
        channel = await self._link.channel()
        try:
            count = await channel.declare_queue(name, {}, passive=True)
        finally:
            await channel.close()
        if not self._warned:
            self._warned = True
            _logger.warning(
                "the log keeps what it was made to keep, not what this node is set to: %s. "
                "To change it: %s",
                why,
                self._command(),
            )
        return count

    def _command(self) -> str:
        """How an operator changes the limits."""
        limits = self._limits
        parts = []
        if limits.age_seconds:
            parts.append(f'"max-age":"{limits.age_seconds}s"')
        if limits.bytes:
            parts.append(f'"max-length-bytes":{limits.bytes}')
        pattern = self._topology.log.replace(".", "\\.")
        return (
            f"rabbitmqctl set_policy switchboard-log '^{pattern}$' '{{{','.join(parts)}}}' "
            "--apply-to queues"
        )

"""Killing a hub under load, and looking at what its log holds afterwards."""

import asyncio
import signal

import grpc

from tests.e2e.load import Publisher, check_log, list_events, subscribe_to_end
from tests.support.hub import HubProcess


class Assassin:
    """Kills a hub with the answer that brings the number of answered events to a limit."""

    def __init__(self) -> None:
        self._hub: HubProcess | None = None
        self._left = 0

    def aim(self, hub: HubProcess | None, limit: int = 0) -> None:
        """Chooses whom to kill after how many answered events; None: nobody."""
        self._hub, self._left = hub, limit

    def answered(self, count: int) -> None:
        """Takes notice of answers."""
        self._left -= count
        if self._hub is not None and self._left <= 0:
            # At once, not in a later turn of the loop: an answer that came too early shows only
            # while what it promises is still on its way to the disk.
            self._hub.process.kill()


async def publish_until_killed(hub: HubProcess, publishers: list[Publisher]) -> None:
    """Has every publisher publish until an answer kills the hub, and waits until it is gone."""
    channels = [hub.channel() for _ in publishers]
    try:
        outcomes = await asyncio.gather(
            *(
                publisher.run(channel)
                for publisher, channel in zip(publishers, channels, strict=True)
            ),
            return_exceptions=True,
        )
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))
    for outcome in outcomes:
        assert isinstance(outcome, grpc.aio.AioRpcError), outcome
        # INTERNAL is what grpc.aio makes of a write that the end of its connection interrupts.
        assert outcome.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL), outcome
    assert hub.process.wait(30) == -signal.SIGKILL


async def check_everything(hub: HubProcess, publishers: list[Publisher]) -> int:
    """Reads the log in both ways and checks it against the answers; how many events it has."""
    async with hub.channel() as channel:
        listed = await list_events(channel)
        check_log(listed, publishers)
        if listed:
            assert await subscribe_to_end(channel) == listed
    return len(listed)

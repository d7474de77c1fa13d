"""Acknowledging what came from a stream: it makes room for more, and nothing else."""

import asyncio
import logging

from switchboard_server.backends.rabbitmq.channel import Channel
from switchboard_server.core.errors import SwitchboardError

ACKNOWLEDGE_SECONDS = 60.0
"""How long a message is left unacknowledged at most: far below the half hour after which RabbitMQ
ends the channel of a consumer that does not acknowledge (`consumer_timeout`), a stream's too."""

_logger = logging.getLogger(__name__)


class Credit:
    """Acknowledges many messages at once, and the last of them not much later.

    Args:
        channel: Where they come from.
        every: After how many; well below the prefetch of the channel.
    """

    def __init__(self, channel: Channel, every: int) -> None:
        self._channel = channel
        self._every = every
        self._tag = 0
        self._taken = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        channel.on_end(self._stop)

    def took(self, tag: int) -> None:
        """Takes notice that a message, and all before it, need not be held back."""
        self._tag = tag
        self._taken += 1
        if self._taken >= self._every:
            self._acknowledge()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(ACKNOWLEDGE_SECONDS, self._acknowledge)

    def _acknowledge(self) -> None:
        self._stop()
        if self._taken and not self._channel.ended.is_set():
            self._taken = 0
            task = asyncio.create_task(self._send(self._tag))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, tag: int) -> None:
        try:
            await self._channel.acknowledge(tag, multiple=True)
        except SwitchboardError as error:
            # The channel has ended, which whoever reads from it learns in other ways.
            _logger.debug("an acknowledgement: %s", error.message)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

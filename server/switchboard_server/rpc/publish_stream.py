"""PublishStream: batches in, acknowledgements out, neither waiting more than it must."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from switchboard.v1 import event_service_pb2
from switchboard_server.core.errors import SwitchboardError
from switchboard_server.core.events import EventHub
from switchboard_server.core.ports import Lane
from switchboard_server.core.principal import Principal
from switchboard_server.core.publishing import Published
from switchboard_server.core.records import Drafts
from switchboard_server.rpc.endpoints import Context
from switchboard_server.wire.decode import decode_events
from switchboard_server.wire.encode import publish_ack

MAX_UNANSWERED_BYTES = 8 * 1024 * 1024
"""A stream is read no further while so much of it waits to become durable."""
MAX_UNANSWERED_REQUESTS = 256
"""A stream is read no further while so many of its requests wait to become durable."""


@dataclass(slots=True)
class _Request:
    """A request that is on its way to the log."""

    request_id: int
    drafts: Drafts
    size: int
    outcome: asyncio.Task[Published]


class PublishPipeline:
    """One PublishStream.

    Args:
        hub: Takes the events.
        principal: Who publishes.
        requests: The client's requests.
        context: Takes the acknowledgements.
    """

    def __init__(
        self,
        hub: EventHub,
        principal: Principal,
        requests: AsyncIterator[bytes],
        context: Context,
    ) -> None:
        self._hub = hub
        self._principal = principal
        self._requests = requests
        self._context = context
        self._unanswered: deque[_Request] = deque()
        self._lane = Lane()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._ended: SwitchboardError | None = None

    def end(self, error: SwitchboardError) -> None:
        """Takes no further request, answers what was taken, then ends the stream with the error."""
        self._ended = error
        self._changed.set()

    async def run(self) -> None:
        """Answers requests until the client has no more.

        Raises:
            SwitchboardError: A request is malformed, the log takes nothing, or the hub shuts down.
        """
        reader = asyncio.create_task(self._read())
        reader.add_done_callback(self._notice)
        try:
            while True:
                if self._unanswered and self._unanswered[0].outcome.done():
                    await self._answer()
                elif self._unanswered:
                    await self._change()
                elif self._ended is not None:
                    raise self._ended
                elif reader.done():
                    reader.result()
                    return
                else:
                    await self._change()
        finally:
            for task in (reader, *(request.outcome for request in self._unanswered)):
                if not task.cancel() and not task.cancelled():
                    task.exception()  # Nobody is left to hear of it.

    def _notice(self, _: object) -> None:
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _read(self) -> None:
        outcome: asyncio.Task[Published] | None = None
        async for raw in self._requests:
            if self._ended is not None:
                return
            await self._hub.room(self._principal)
            drafts, request_id = decode_events(
                event_service_pb2.PublishStreamRequest, raw, self._principal.subject
            )
            # gRPC hands over each request in a turn of its own, so the one before has begun by now.
            if self._lane.held and outcome is not None:
                await asyncio.wait([outcome])
            outcome = asyncio.create_task(
                self._hub.publish(drafts, self._principal, waited=True, lane=self._lane)
            )
            outcome.add_done_callback(self._notice)
            self._unanswered.append(_Request(request_id, drafts, len(raw), outcome))
            self._bytes += len(raw)
            while (
                self._bytes > MAX_UNANSWERED_BYTES
                or len(self._unanswered) >= MAX_UNANSWERED_REQUESTS
            ):
                self._answered = asyncio.get_running_loop().create_future()
                await self._answered

    _answered: asyncio.Future[None] | None = None

    async def _answer(self) -> None:
        """Answers the oldest requests, as far as they are done."""
        response = event_service_pb2.PublishStreamResponse()
        failure: BaseException | None = None
        while self._unanswered and self._unanswered[0].outcome.done():
            request = self._unanswered[0]
            failure = request.outcome.exception()
            if failure is not None:
                break
            self._unanswered.popleft()
            self._bytes -= request.size
            response.acks.append(
                publish_ack(
                    request.request_id,
                    request.drafts,
                    request.outcome.result(),
                    self._hub.log.log_id,
                )
            )
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)
        if response.acks:
            await self._context.write(response.SerializeToString())
        if failure is not None:
            raise failure

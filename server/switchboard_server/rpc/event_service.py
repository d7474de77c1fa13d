"""`switchboard.v1.EventService`: decodes, asks the hub, encodes."""

from collections.abc import AsyncIterator

from switchboard.v1 import event_service_pb2, subscription_pb2
from switchboard_server.core.calls import Caller
from switchboard_server.core.errors import (
    InvalidArgumentError,
    SwitchboardError,
    UnavailableError,
)
from switchboard_server.core.events import EventHub
from switchboard_server.core.groups.serving import Groups, MemberStream
from switchboard_server.core.records import assigned_id
from switchboard_server.core.subscription import Subscription
from switchboard_server.core.tail import Chunk
from switchboard_server.rpc.endpoints import Context, address_of, caller
from switchboard_server.rpc.publish_stream import PublishPipeline
from switchboard_server.wire import encode
from switchboard_server.wire.codec import event_field
from switchboard_server.wire.decode import (
    decode_events,
    parse,
    parse_events,
    prefixed,
)
from switchboard_server.wire.event_requests import (
    decode_list_events,
    decode_plain,
    decode_publish,
    decode_subscribe,
    published,
)
from switchboard_server.wire.group_messages import (
    decode_call,
    decode_extension,
    decode_rejection,
    outcomes,
)


class EventServicer:
    """Serves EventService.

    Args:
        hub: Does the work with events.
        groups: Does the work with consumer groups.
        calls: Does the work with calls.
    """

    def __init__(self, hub: EventHub, groups: Groups, calls: Caller) -> None:
        self._hub = hub
        self._groups = groups
        self._calls = calls
        self._pipelines: dict[PublishPipeline, None] = {}

    def begin_shutdown(self, error: SwitchboardError) -> None:
        """Ends every PublishStream when what it has sent so far is answered."""
        for pipeline in self._pipelines:
            pipeline.end(error)

    async def Publish(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        principal = caller.get()
        drafts, request = decode_plain(raw, principal.subject), None
        if drafts is None:
            request = parse_events(event_service_pb2.PublishRequest, raw)
            drafts = decode_publish(request, principal.subject)
        outcome = await self._hub.publish(drafts, principal)
        log_id = self._hub.log.log_id
        if outcome.plain:
            given = (request and request.event.id) or assigned_id(log_id, outcome.first)
            return encode.accepted(given, outcome.first, outcome.time_ns)
        request = request or parse_events(event_service_pb2.PublishRequest, raw)
        return published(request, outcome, log_id).SerializeToString()

    async def PublishBatch(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        principal = caller.get()
        drafts, _ = decode_events(event_service_pb2.PublishBatchRequest, raw, principal.subject)
        outcome = await self._hub.publish(drafts, principal)
        return event_service_pb2.PublishBatchResponse(
            results=encode.publish_results(drafts, outcome, self._hub.log.log_id)
        ).SerializeToString()

    async def PublishStream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """See the proto."""
        pipeline = PublishPipeline(self._hub, caller.get(), requests, context)
        self._pipelines[pipeline] = None
        try:
            await pipeline.run()
        finally:
            del self._pipelines[pipeline]

    async def Subscribe(self, raw: bytes, context: Context) -> None:
        """See the proto."""
        request = parse(subscription_pb2.SubscribeRequest, raw)
        wish = decode_subscribe(request, address_of(context.peer()))
        principal = caller.get()
        stream: Subscription | MemberStream
        if wish.group is None:
            stream = await self._hub.subscribe(wish.filter, wish.start, principal, wish.heartbeat)
        else:
            stream = await self._groups.subscribe(wish.group, wish.start, principal, wish.heartbeat)
        try:
            while True:
                item = await stream.next()
                await context.write(
                    item.frames if type(item) is Chunk else encode.control(item)  # type: ignore[arg-type]
                )
        except UnavailableError as error:
            # A new one: this one is shared by all that the shutdown ends.
            raise UnavailableError(
                error.reason,
                error.message,
                metadata={**error.metadata, "position": str(stream.position)},
            ) from None
        finally:
            if isinstance(stream, Subscription):
                self._hub.unsubscribe(stream)
            else:
                stream.close()

    async def Acknowledge(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(event_service_pb2.AcknowledgeRequest, raw)
        ack_ids = list(request.ack_ids)  # Whoever reads them of the message makes each one anew.
        return outcomes(
            ack_ids, await self._groups.acknowledge(request.group, ack_ids, caller.get())
        )

    async def Reject(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(event_service_pb2.RejectRequest, raw)
        found = await self._groups.reject(
            request.group,
            request.ack_ids,
            caller.get(),
            decode_rejection(request),
        )
        return outcomes(request.ack_ids, found)

    async def ExtendDeadline(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(event_service_pb2.ExtendDeadlineRequest, raw)
        found = await self._groups.extend(
            request.group, request.ack_ids, caller.get(), extension_ns=decode_extension(request)
        )
        return outcomes(request.ack_ids, found)

    async def Call(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse_events(event_service_pb2.CallRequest, raw)
        principal = caller.get()
        drafts, correlation_id = decode_call(request, principal.subject)
        try:
            return event_field(await self._calls.call(drafts, correlation_id, principal))
        except InvalidArgumentError as error:
            raise prefixed(error, "event") from None

    async def ListEvents(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        query = decode_list_events(parse(event_service_pb2.ListEventsRequest, raw))
        return encode.page(await self._hub.list_events(query, caller.get()))

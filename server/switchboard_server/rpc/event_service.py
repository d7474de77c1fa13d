"""`switchboard.v1.EventService`: decodes, asks the hub, encodes."""

from collections.abc import AsyncIterator

from switchboard.v1 import event_service_pb2, subscription_pb2
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import (
    InvalidArgumentError,
    SwitchboardError,
    UnavailableError,
    UnimplementedError,
    invalid_field,
)
from switchboard_server.core.events import (
    DEFAULT_HEARTBEAT,
    AfterSequence,
    AfterTime,
    Begin,
    EventHub,
    Start,
)
from switchboard_server.core.listing import Query
from switchboard_server.core.records import assigned_id
from switchboard_server.core.tail import Chunk
from switchboard_server.rpc import encode
from switchboard_server.rpc.decode import (
    decode_duration,
    decode_event,
    decode_events,
    decode_filter,
    decode_time,
    parse,
    parse_events,
    prefixed,
)
from switchboard_server.rpc.endpoints import Context, caller
from switchboard_server.rpc.publish_stream import PublishPipeline


class EventServicer:
    """Serves EventService.

    Args:
        hub: Does the work.
    """

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        self._pipelines: dict[PublishPipeline, None] = {}

    def begin_shutdown(self, error: SwitchboardError) -> None:
        """Ends every PublishStream when what it has sent so far is answered."""
        for pipeline in self._pipelines:
            pipeline.end(error)

    async def Publish(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse_events(event_service_pb2.PublishRequest, raw)
        if not request.HasField("event"):
            raise invalid_field("event", "is required", reason="FIELD_MISSING")
        principal = caller.get()
        drafts = decode_event(request.event, principal.subject)
        outcome = await self._hub.publish(drafts, principal)
        if outcome.refused:
            error = outcome.refused[0]
            raise prefixed(error, "event") if isinstance(error, InvalidArgumentError) else error
        if outcome.plain:
            given = request.event.id or assigned_id(self._hub.log.log_id, outcome.first)
            return encode.accepted(given, outcome.first, outcome.time_ns)
        sequence = outcome.duplicates.get(0, 0)
        response = event_service_pb2.PublishResponse(
            id=request.event.id,
            sequence=sequence,
            duplicate=0 in outcome.duplicates,
            scheduled=not sequence,
        )
        if outcome.time_ns:
            response.publish_time.FromNanoseconds(outcome.time_ns)
        elif not outcome.duplicates:
            response.publish_time.CopyFrom(request.event.deliver_at)
        return response.SerializeToString()

    async def PublishBatch(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(event_service_pb2.PublishBatchRequest, raw)
        if not request.events:
            raise invalid_field("events", "is empty; send at least one", reason="FIELD_MISSING")
        principal = caller.get()
        drafts = decode_events(request, raw, principal.subject)
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
        _check_mode(request)
        heartbeat = DEFAULT_HEARTBEAT
        if request.HasField("heartbeat_interval"):
            heartbeat = (
                decode_duration(request.heartbeat_interval, "heartbeat_interval") / SECOND_NS
            )
        subscription = await self._hub.subscribe(
            decode_filter(request.filter), _start(request), caller.get(), heartbeat
        )
        try:
            while True:
                item = await subscription.next()
                await context.write(
                    item.frames if type(item) is Chunk else encode.control(item)  # type: ignore[arg-type]
                )
        except UnavailableError as error:
            # A new one: this one is shared by all that the shutdown ends.
            raise UnavailableError(
                error.reason,
                error.message,
                metadata={**error.metadata, "position": str(subscription.position)},
            ) from None
        finally:
            self._hub.unsubscribe(subscription)

    async def ListEvents(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(event_service_pb2.ListEventsRequest, raw)
        if request.order not in event_service_pb2.ListOrder.values():
            raise invalid_field("order", f"{request.order} is unknown; 1 (newest) or 2 (oldest)")
        query = Query(
            filter=decode_filter(request.filter),
            start_ns=decode_time(request.start_time, "start_time")
            if request.HasField("start_time")
            else None,
            end_ns=decode_time(request.end_time, "end_time")
            if request.HasField("end_time")
            else None,
            newest_first=request.order != event_service_pb2.LIST_ORDER_OLDEST_FIRST,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        if (
            query.start_ns is not None
            and query.end_ns is not None
            and query.end_ns < query.start_ns
        ):
            raise invalid_field("end_time", "lies before start_time")
        return encode.page(await self._hub.list_events(query, caller.get()))


def _check_mode(request: subscription_pb2.SubscribeRequest) -> None:
    """Refuses what only consumer groups do."""
    modes = subscription_pb2.DeliveryMode
    if request.mode not in modes.values():
        raise invalid_field("mode", f"{request.mode} is unknown; see DeliveryMode")
    shares = request.mode in (
        subscription_pb2.DELIVERY_MODE_QUEUE,
        subscription_pb2.DELIVERY_MODE_KEY_SHARED,
    )
    if shares and not request.group:
        raise invalid_field(
            "group", f"is required with {modes.Name(request.mode)}", reason="FIELD_MISSING"
        )
    if shares or (request.group and request.mode != subscription_pb2.DELIVERY_MODE_FAN_OUT):
        raise UnimplementedError(
            "NOT_SERVED", "this hub does not serve consumer groups; subscribe without a group"
        )


def _start(request: subscription_pb2.SubscribeRequest) -> Start:
    chosen = request.WhichOneof("start")
    if chosen == "after_sequence":
        return AfterSequence(request.after_sequence)
    if chosen == "after_time":
        return AfterTime(decode_time(request.after_time, "after_time"))
    if request.start_at not in subscription_pb2.StartAt.values():
        raise invalid_field("start_at", f"{request.start_at} is unknown; see StartAt")
    earliest = request.start_at == subscription_pb2.START_AT_EARLIEST
    return Begin.EARLIEST if earliest else Begin.LATEST

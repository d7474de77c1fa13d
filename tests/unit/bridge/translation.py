"""What must hold of the bridge's translation, whatever a client sends."""

from typing import Any

import orjson
from google.protobuf.message import Message

from switchboard.v1 import (
    connect_pb2,
    event_service_pb2,
    realtime_service_pb2,
    subscription_pb2,
)
from switchboard_server.bridge import frames
from switchboard_server.bridge.errors import code_of
from switchboard_server.bridge.frames import BadFrame
from switchboard_server.core.errors import SwitchboardError
from switchboard_server.wire.decode import decode_events
from switchboard_server.wire.event_requests import (
    decode_list_events,
    decode_publish,
    decode_subscribe,
)
from switchboard_server.wire.json_form import from_json, to_json

REQUESTS: dict[str, type[Message]] = {
    "join": connect_pb2.RoomJoin,
    "leave": realtime_service_pb2.LeaveRoomRequest,
    "presence": realtime_service_pb2.GetPresenceRequest,
    "publish": event_service_pb2.PublishRequest,
    "subscribe": subscription_pb2.SubscribeRequest,
    "acknowledge": event_service_pb2.AcknowledgeRequest,
    "reject": event_service_pb2.RejectRequest,
    "extend": event_service_pb2.ExtendDeadlineRequest,
    "call": event_service_pb2.CallRequest,
    "list": event_service_pb2.ListEventsRequest,
}
"""The request that each type of frame carries."""


def payload(frame: bytes) -> Any:
    """The JSON in a WebSocket frame."""
    assert frame[0] == 0x81
    start = 2 + {126: 2, 127: 8}.get(frame[1], 0)
    return orjson.loads(frame[start:])


def translate(message: str | bytes) -> str:
    """Sends a message through the translation, which must take it or refuse it properly.

    Returns:
        What became of it: "taken", or the reason of the error.
    """
    frame = frames.decode(message)
    if isinstance(frame, BadFrame):
        return _told(frame.error, frame.id)
    try:
        _requested(frame)
    except SwitchboardError as error:
        return _told(error, frame.id)
    answer = payload(frames.ack(frame.id, frame.data))
    assert answer["type"] == "ack"
    return "taken"


def _requested(frame: frames.Frame) -> None:
    """Reads a frame's data as the request that it is."""
    data, expected = dict(frame.data), REQUESTS.get(frame.type)
    data.pop("subscription", None)
    data.pop("what", None)
    if expected is None:
        from_json(frame.to or {}, realtime_service_pb2.BroadcastRequest)
        return
    if frame.type == "publish" and "events" in data:
        batch = from_json(data, event_service_pb2.PublishBatchRequest)
        decode_events(type(batch), batch.SerializeToString(), "me")
        return
    request: Any = from_json({"event": data} if frame.type == "publish" else data, expected)
    # What was taken can be sent on, read, and shown again.
    again = expected.FromString(request.SerializeToString())
    orjson.dumps(to_json(again))
    if frame.type == "publish":
        decode_publish(request, "me")
    elif frame.type == "subscribe":
        decode_subscribe(request, "")
    elif frame.type == "list":
        decode_list_events(request)


def _told(error: SwitchboardError, identity: frames.FrameId) -> str:
    told = payload(frames.error(code_of(error), error, identity))
    assert told["type"] == "error"
    assert told["code"] != "INTERNAL"
    assert told["reason"]
    assert told["message"]
    assert told.get("id") == identity
    return error.reason

"""What each type of frame does: a call of the hub, with the permission of the rpc it stands for."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from switchboard.v1 import event_service_pb2, realtime_service_pb2
from switchboard_server.bridge import event_commands, listing, room_commands
from switchboard_server.bridge.client import Client
from switchboard_server.bridge.frames import Frame
from switchboard_server.wire.permissions import permission_of

_EVENTS = event_service_pb2.DESCRIPTOR.services_by_name["EventService"].methods_by_name
_REALTIME = realtime_service_pb2.DESCRIPTOR.services_by_name["RealtimeService"].methods_by_name

Obey = Callable[[Client, Frame], Awaitable[dict[str, Any] | None]]
"""Does what a frame says, and returns the data of its ack; None: it is not answered by one."""


@dataclass(frozen=True, slots=True)
class Command:
    """A type of frame.

    Args:
        name: Its name in metrics and logs.
        obey: Does it.
        permission: What the client must be allowed; None: nothing.
        concurrent: Whether the frames after it need not wait for it. Not where the answer may be
            large: many that are not read would fill the memory.
        waits: Whether it may take as long as somebody else does; no frame ever waits for it.
    """

    name: str
    obey: Obey
    permission: str | None = None
    concurrent: bool = False
    waits: bool = False


_ALL = (
    Command("join", room_commands.join, permission_of(_REALTIME["JoinRoom"])),
    Command("leave", room_commands.leave, permission_of(_REALTIME["LeaveRoom"])),
    Command("presence", room_commands.presence, permission_of(_REALTIME["GetPresence"])),
    Command("publish", event_commands.publish, permission_of(_EVENTS["Publish"]), concurrent=True),
    Command("subscribe", event_commands.subscribe, permission_of(_EVENTS["Subscribe"])),
    Command("unsubscribe", event_commands.unsubscribe),
    Command(
        "acknowledge",
        event_commands.acknowledge,
        permission_of(_EVENTS["Acknowledge"]),
        concurrent=True,
    ),
    Command("reject", event_commands.reject, permission_of(_EVENTS["Reject"]), concurrent=True),
    Command("extend", event_commands.extend, permission_of(_EVENTS["ExtendDeadline"])),
    Command("call", event_commands.call, permission_of(_EVENTS["Call"]), waits=True),
    Command("list", listing.show),
    Command("heartbeat", room_commands.heartbeat),
    Command("refresh", room_commands.refresh),
    # A client that need not have sent its token, or sends another one.
    Command("auth", room_commands.refresh),
)

COMMANDS: Mapping[str, Command] = {each.name: each for each in _ALL}
"""By the type of the frame."""

MESSAGE = Command("message", room_commands.send, permission_of(_REALTIME["Broadcast"]))
"""Every other type."""

"""Everything that the hub does, for its doors."""

from dataclasses import dataclass

from switchboard_server.core.calls import Caller
from switchboard_server.core.events import EventHub
from switchboard_server.core.groups.serving import Groups, Letters
from switchboard_server.core.realtime.hub import RealtimeHub
from switchboard_server.core.registry.registry import Registry


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the hub does.

    Args:
        events: Durable events.
        groups: Consumer groups.
        letters: Their dead letters.
        calls: Request and reply.
        realtime: Connections and rooms.
        registry: The directory of services.
    """

    events: EventHub
    groups: Groups
    letters: Letters
    calls: Caller
    realtime: RealtimeHub
    registry: Registry

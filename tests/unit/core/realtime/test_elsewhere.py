"""What a hub does for connections of other nodes: it asks them, once the caller may."""

from collections.abc import Collection, Mapping

import pytest

from switchboard_server.core.errors import (
    NotFoundError,
    PermissionDeniedError,
    SwitchboardError,
    UnavailableError,
)
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.realtime.alone import Nowhere
from switchboard_server.core.realtime.items import Joined
from switchboard_server.core.realtime.messages import Position
from switchboard_server.core.realtime.neighbours import Whereabouts
from switchboard_server.core.realtime.views import JoinResult
from switchboard_server.core.realtime.wishes import DisconnectWish, RoomJoin
from tests.support.realtime import Stage

JOINED = JoinResult(Joined(Position("lobby"), False, 0, 1, 1), already_joined=False)
STRANGER = Principal("eve", {"rooms.join": ("*",)})


class OtherNode(Nowhere):
    """Another node, on which "far" is connected as ann's until it is `gone`.

    Attributes:
        gone: Whether it has left since it was found.
        problem: Why the node cannot be reached; None: it can.
        asked: What it was asked to do.
    """

    def __init__(self) -> None:
        self.gone = False
        self.problem: UnavailableError | None = None
        self.asked: list[str] = []

    async def find(self, client_ids: Collection[str]) -> Mapping[str, Whereabouts]:
        """See `Elsewhere.find`."""
        if self.problem is not None:
            raise self.problem
        return {each: Whereabouts("n2", "ann", "t") for each in client_ids if each == "far"}

    async def join(self, client_id: str, where: Whereabouts, join: RoomJoin) -> JoinResult | None:
        """See `Elsewhere.join`."""
        self.asked.append(f"{client_id} joins {join.room}")
        return None if self.gone else JOINED

    async def leave(
        self, client_id: str, where: Whereabouts, room: str, *, removed: bool
    ) -> bool | None:
        """See `Elsewhere.leave`."""
        self.asked.append(f"{client_id} leaves {room}, removed: {removed}")
        return None if self.gone else True

    async def end(
        self, found: Mapping[str, Whereabouts], users: Collection[str], error: SwitchboardError
    ) -> int:
        """See `Elsewhere.end`."""
        return len(found)


def staged() -> tuple[Stage, OtherNode]:
    stage, other = Stage(), OtherNode()
    stage.hub._neighbours.elsewhere = other
    return stage, other


async def test_a_connection_elsewhere_is_taken_out_of_a_room_there() -> None:
    stage, other = staged()
    assert await stage.hub.leave_room("far", "lobby", ANONYMOUS)
    assert other.asked == ["far leaves lobby, removed: True"]


async def test_a_connection_elsewhere_stands_in_a_room_there() -> None:
    stage, other = staged()
    assert await stage.hub.join_room("far", RoomJoin("lobby"), ANONYMOUS) is JOINED
    assert other.asked == ["far joins lobby"]


async def test_a_connection_that_is_nowhere_or_gone_is_not_found() -> None:
    stage, other = staged()
    with pytest.raises(NotFoundError):
        await stage.hub.leave_room("nobody", "lobby", ANONYMOUS)
    with pytest.raises(NotFoundError):
        await stage.hub.join_room("nobody", RoomJoin("lobby"), ANONYMOUS)
    other.gone = True
    with pytest.raises(NotFoundError):
        await stage.hub.leave_room("far", "lobby", ANONYMOUS)
    with pytest.raises(NotFoundError):
        await stage.hub.join_room("far", RoomJoin("lobby"), ANONYMOUS)


async def test_other_nodes_are_not_asked_for_what_the_caller_may_not() -> None:
    stage, other = staged()
    with pytest.raises(PermissionDeniedError):
        await stage.hub.leave_room("far", "lobby", STRANGER)
    with pytest.raises(PermissionDeniedError):
        await stage.hub.join_room("far", RoomJoin("lobby"), STRANGER)
    assert other.asked == []


async def test_connections_of_this_node_are_closed_also_where_others_cannot_be_reached() -> None:
    stage, other = staged()
    near = await stage.settled("near")
    other.problem = UnavailableError("REALTIME_UNAVAILABLE", "no route")
    with pytest.raises(UnavailableError, match="no route"):
        await stage.hub.disconnect(DisconnectWish(clients=["near", "far"]), ANONYMOUS)
    assert near.connection.ended is not None
    other.problem = None
    assert await stage.hub.disconnect(DisconnectWish(clients=["far"]), ANONYMOUS) == 1

"""A hub of connections without doors: its turns of the loop and its time are the test's."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from switchboard_server.backends.embedded.histories import MemoryHistories
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.realtime.alone import alone
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.history import HistoryPolicy, HistoryRules
from switchboard_server.core.realtime.hub import RealtimeHub, RealtimeLimits
from switchboard_server.core.realtime.items import Item
from switchboard_server.core.realtime.messages import Delivered, Position
from switchboard_server.core.realtime.outbox import OutboxLimits
from switchboard_server.core.realtime.views import Broadcast, JoinResult
from switchboard_server.core.realtime.wishes import (
    BroadcastWish,
    ConnectWish,
    RoomJoin,
    Transport,
)

CHAT = HistoryPolicy(size=5, ttl_ns=60 * SECOND_NS)
"""What rooms whose names begin with "chat-" remember."""
NOON_NS = 1_800_000_000 * SECOND_NS
"""When a stage begins."""
PLENTY = 1 << 30


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_ns = NOON_NS

    def __call__(self) -> int:
        return self.now_ns

    def pass_seconds(self, seconds: float) -> None:
        """Lets time pass."""
        self.now_ns += int(seconds * SECOND_NS)


class Client:
    """A client with a door that takes when told to.

    Attributes:
        wakes: How often the hub said that there is something.
    """

    connection: Connection

    def __init__(self) -> None:
        self.wakes = 0

    def wake(self) -> None:
        self.wakes += 1

    def items(self, max_bytes: int = PLENTY) -> list[Item]:
        """What has come."""
        return self.connection.take(max_bytes)

    def messages(self) -> list[Delivered]:
        """What has come, which must be messages only."""
        items = self.items()
        assert all(isinstance(item, Delivered) for item in items), items
        return [item for item in items if isinstance(item, Delivered)]

    def texts(self) -> list[str]:
        """The texts of the messages that have come."""
        return [text(each) for each in self.messages()]


class Stage:
    """A hub with its time and its turns.

    Args:
        limits: How much it takes on.
        rules: Which rooms remember what.
        history_bytes: How much all rooms may remember.
    """

    def __init__(
        self,
        limits: RealtimeLimits | None = None,
        rules: Mapping[str, HistoryPolicy] | None = None,
        history_bytes: int = PLENTY,
    ) -> None:
        self.time = Time()
        self.soon: deque[Callable[[], None]] = deque()
        self.histories = MemoryHistories(history_bytes, self.time)
        self.hub = RealtimeHub(
            alone(self.histories),
            HistoryRules({"chat-*": CHAT} if rules is None else rules),
            self.soon.append,
            node="node-1",
            limits=limits,
            clock=self.time,
        )

    def turn(self) -> None:
        """Does what was put off to the next turn of the loop."""
        for _ in range(len(self.soon)):
            self.soon.popleft()()

    async def connect(
        self,
        client_id: str = "",
        user: str = "",
        *rooms: str | RoomJoin,
        principal: Principal = ANONYMOUS,
        transport: Transport = Transport.GRPC,
    ) -> Client:
        """Connects a client, which has not taken anything yet."""
        client = Client()
        joins = [RoomJoin(room) if isinstance(room, str) else room for room in rooms]
        wish = ConnectWish(transport, "10.0.0.7:51234", client_id, user, joins)
        client.connection = await self.hub.connect(wish, principal, client.wake)
        return client

    async def settled(self, client_id: str = "", user: str = "", *rooms: str | RoomJoin) -> Client:
        """Connects a client that has taken what came at the start."""
        client = await self.connect(client_id, user, *rooms)
        self.turn()
        client.items()
        client.wakes = 0
        return client

    async def send(
        self, content: str, principal: Principal = ANONYMOUS, **targets: Any
    ) -> Broadcast:
        """Sends a message that holds a text."""
        wish = BroadcastWish("chat", {"text": content}, **targets)
        return await self.hub.broadcast(wish, principal)

    async def join(
        self, client: Client, room: str, after: Position | None = None, *, notices: bool = False
    ) -> JoinResult:
        """Has a client join a room by its own wish."""
        connection = client.connection
        join = RoomJoin(room, after, notices)
        return await self.hub.join_room(connection.client_id, join, connection.principal)

    async def leave(self, client: Client, room: str) -> bool:
        """Has a client leave a room by its own wish."""
        connection = client.connection
        return await self.hub.leave_room(connection.client_id, room, connection.principal)


def text(delivered: Delivered) -> str:
    """The text of a message."""
    return str(delivered.message.data["text"])


def small(messages: int = 3, bytes_: int = PLENTY) -> RealtimeLimits:
    """Limits with a small outbox."""
    return RealtimeLimits(outbox=OutboxLimits(messages, bytes_))

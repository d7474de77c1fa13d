"""One client that is connected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from switchboard_server.core.errors import PermissionDeniedError, SwitchboardError
from switchboard_server.core.principal import Principal
from switchboard_server.core.realtime.items import Item
from switchboard_server.core.realtime.outbox import Outbox
from switchboard_server.core.realtime.wishes import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from switchboard_server.core.realtime.rooms import Room
    from switchboard_server.core.realtime.rounds import Fan, Rounds


class Connection:
    """A client, as its door has it; made by `RealtimeHub.connect`.

    The door waits for `on_ready`, then calls `take` until it returns nothing, sending what it
    returns. When `take` returns nothing and `ended` is set, the door ends the connection with that
    error. A door that cannot send now need not take: what waits is bounded. When the client is
    gone, the door calls `RealtimeHub.close`.

    Args:
        client_id: Its name.
        user: Whose it is; empty: nobody's.
        transport: How it is connected.
        peer: Its network address.
        connect_time_ns: When it was opened, Unix time in nanoseconds.
        principal: The caller.
        outbox: What waits for it.
        rounds: What waits for many together, it among them.
        on_ready: Is called in the event loop when something can be taken, after `take` had
            returned less than there was room for; and when the connection has ended. Several
            messages of one turn of the loop make one call. It must not block and must not raise.

    Attributes:
        fan: Sends to it what goes to many; None: its door has none.
        outlet: The number by which the fan knows it.
        principal: With whose permissions the client's own calls are made: the caller, under the
            name of the connection's user.
        rooms: Where it stands.
        ended: Why the hub has ended it; None: it has not.
    """

    __slots__ = (
        "__weakref__",
        "_rounds",
        "client_id",
        "connect_time_ns",
        "ended",
        "fan",
        "on_ready",
        "outbox",
        "outlet",
        "peer",
        "principal",
        "rooms",
        "transport",
        "user",
    )

    def __init__(
        self,
        client_id: str,
        user: str,
        transport: Transport,
        peer: str,
        *,
        connect_time_ns: int,
        principal: Principal,
        outbox: Outbox,
        rounds: Rounds,
        on_ready: Callable[[], None],
    ) -> None:
        self.client_id = client_id
        self.user = user
        self.transport = transport
        self.peer = peer
        self.connect_time_ns = connect_time_ns
        self.principal = principal.named(user)
        self.outbox = outbox
        self._rounds = rounds
        self.on_ready = on_ready
        self.fan: Fan | None = None
        self.outlet = 0
        self.rooms: dict[str, Room] = {}
        self.ended: SwitchboardError | None = None

    def take(self, max_bytes: int) -> list[Item]:
        """Hands out what comes next; see `Outbox.take`.

        Args:
            max_bytes: Stop when so many bytes are handed out, at least 1; the last item may exceed
                it. Bytes are those of the contents as JSON, and about 256 for each item.

        Returns:
            The items in order; empty: there is nothing now, and `on_ready` tells when there is.
        """
        self._rounds.begin_take(self)
        items = self.outbox.take(max_bytes)
        self._rounds.end_take(self)
        return items

    def renew(self, principal: Principal) -> None:
        """Takes another token of the same user for what the client does from now on.

        Raises:
            PermissionDeniedError: It is another user's, or does not permit to be connected.
        """
        principal.require("rooms.join")
        if principal.subject != self.principal.subject:
            raise PermissionDeniedError(
                "PERMISSION_DENIED",
                f"the token is {principal.subject!r}'s, and the connection is {self.user!r}'s",
                metadata={"permission": "rooms.join", "resource": self.user},
            )
        self.principal = principal

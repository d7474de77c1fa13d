"""The event subscriptions of one connection: each a task that reads a cursor and writes frames."""

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from switchboard.v1 import subscription_pb2
from switchboard_server.bridge import frames
from switchboard_server.bridge.errors import code_of
from switchboard_server.bridge.event_json import EventJson
from switchboard_server.core.errors import (
    SwitchboardError,
    invalid_field,
    limit_reached,
)
from switchboard_server.core.filters import MAX_NAME
from switchboard_server.core.groups.serving import MemberStream
from switchboard_server.core.principal import Principal
from switchboard_server.core.subscription import Subscription
from switchboard_server.core.tail import Chunk
from switchboard_server.core.use_cases import UseCases
from switchboard_server.wire import encode
from switchboard_server.wire.event_requests import decode_subscribe
from switchboard_server.wire.incidents import as_switchboard_error
from switchboard_server.wire.json_form import to_full_json, to_json

MAX_SUBSCRIPTIONS = 64
"""Most subscriptions of one connection."""


class Writer(Protocol):
    """Where frames go."""

    def write(self, frame: bytes) -> None:
        """Writes a frame; never waits."""

    async def writable(self) -> None:
        """Waits until the client has read enough of what was written."""


@dataclass(slots=True)
class _Following:
    """A subscription that is under way."""

    task: asyncio.Task[None]
    position: int


class Subscriptions:
    """The event subscriptions of one connection.

    A slow client holds up its own subscriptions only: they are cursors over the log, and read on
    when it does.

    Args:
        hub: What the hub does.
        peer: The client's network address.
        json: Makes the frames' content.
        writer: Where the frames go.
    """

    def __init__(self, hub: UseCases, peer: str, json: EventJson, writer: Writer) -> None:
        self._hub = hub
        self._peer = peer
        self._json = json
        self._writer = writer
        self._following: dict[str, _Following] = {}

    async def subscribe(
        self, name: str, request: subscription_pb2.SubscribeRequest, principal: Principal
    ) -> dict[str, Any]:
        """Opens a subscription; its events follow after this returned.

        Args:
            name: What it is to be called; empty: the bridge makes a name.
            request: What is wanted.
            principal: Who subscribes.

        Returns:
            The answer's data.

        Raises:
            SwitchboardError: It is refused.
        """
        name = self._admit(name)
        wish = decode_subscribe(request, self._peer)
        subscription: Subscription | MemberStream
        if wish.group is None:
            subscription = await self._hub.events.subscribe(
                wish.filter, wish.start, principal, wish.heartbeat
            )
        else:
            subscription = await self._hub.groups.subscribe(
                wish.group, wish.start, principal, wish.heartbeat
            )
        started = subscription_pb2.SubscribeResponse.FromString(
            encode.control(await subscription.next())  # type: ignore[arg-type]
        ).started
        task = asyncio.create_task(self._follow(name, subscription))
        self._following[name] = _Following(task, started.position)
        return {"subscription": name, **to_full_json(started)}

    async def unsubscribe(self, name: str) -> int:
        """Ends a subscription.

        Args:
            name: The subscription.

        Returns:
            The position up to which its events were sent.

        Raises:
            InvalidArgumentError: There is none of this name.
        """
        following = self._following.get(name)
        if following is None:
            raise invalid_field("subscription", "this connection has none of this name")
        following.task.cancel()
        await asyncio.wait([following.task])
        return following.position

    async def close(self) -> None:
        """Ends them all."""
        tasks = [each.task for each in self._following.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _admit(self, name: str) -> str:
        if len(name) > MAX_NAME:
            raise invalid_field("subscription", f"has more than {MAX_NAME} characters")
        if name in self._following:
            raise invalid_field("subscription", "this connection has one of this name already")
        if len(self._following) >= MAX_SUBSCRIPTIONS:
            problem = f"the connection has {MAX_SUBSCRIPTIONS} subscriptions already"
            raise limit_reached(problem, MAX_SUBSCRIPTIONS)
        return name or secrets.token_hex(6)

    async def _follow(self, name: str, subscription: Subscription | MemberStream) -> None:
        """Writes what a subscription has to say, until it or the connection ends."""
        try:
            await self._write_all(name, subscription)
        except Exception as raised:  # Every failure becomes a frame.
            self._ended(name, as_switchboard_error(raised, "EventService/Subscribe"))
        finally:
            if isinstance(subscription, Subscription):
                self._hub.events.unsubscribe(subscription)
            else:
                subscription.close()
            del self._following[name]

    async def _write_all(self, name: str, subscription: Subscription | MemberStream) -> NoReturn:
        try:
            while True:
                await self._writer.writable()
                item = await subscription.next()
                if isinstance(item, Chunk):
                    await self._deliver(name, item)
                else:
                    word = subscription_pb2.SubscribeResponse.FromString(encode.control(item))
                    self._writer.write(frames.control(name, to_json(word)))
                    self._following[name].position = subscription.position
        finally:
            if not isinstance(subscription, Subscription):
                # Deliveries of a group do not come in the order of the log.
                self._following[name].position = subscription.position

    async def _deliver(self, name: str, chunk: Chunk) -> None:
        # The JSON is made when the client takes it, not before. Nothing here holds on to the task:
        # once that is cancelled, the circle would keep the chunk until garbage is looked for in all
        # there is.
        await self._writer.writable()
        async for part in self._json.slices(chunk):
            self._writer.write(frames.deliveries(name, part.json))
            self._following[name].position = part.last
            await self._writer.writable()

    def _ended(self, name: str, error: SwitchboardError) -> None:
        self._writer.write(
            frames.system(
                "subscription_ended",
                {
                    "subscription": name,
                    "position": str(self._following[name].position),
                    **frames.error_fields(code_of(error), error),
                },
            )
        )

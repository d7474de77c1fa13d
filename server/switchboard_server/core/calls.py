"""Request and reply over events."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from switchboard_server.core.errors import UnavailableError, invalid_field
from switchboard_server.core.events import EventHub
from switchboard_server.core.filters import Filter, Route
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.records import Drafts
from switchboard_server.core.tail import Audience
from switchboard_server.core.validation import route_problem

REQUEST = "service_request"
"""Type of a request that names none."""
RESPONSE = "service_response"
"""Type of every response."""

_RESPONSES = Filter(types=(RESPONSE,))


@dataclass(slots=True)
class _Listening:
    """Where responses are looked for, while any call waits.

    Args:
        audience: Those who want responses.
        number: The match to look at next.
    """

    audience: Audience
    number: int


class Responders(Protocol):
    """Who answers requests."""

    async def any(self, route: Route, attributes: Mapping[str, str]) -> bool:
        """Whether anybody is subscribed who would get an event and answers for its target.

        Who hears what is meant for anybody, such as an observer, answers for nobody: a responder's
        filter names what it answers for in its target services.
        """
        ...


class Deaf(Protocol):
    """Groups, as far as they hear nothing."""

    def deaf(self, wish: Filter) -> int:
        """How many groups with a filter have no member that would get anything new."""
        ...


class Listeners:
    """`Responders` of one node.

    Args:
        events: Its events.
        groups: Its groups.
    """

    def __init__(self, events: EventHub, groups: Deaf) -> None:
        self._events = events
        self._groups = groups

    async def any(self, route: Route, attributes: Mapping[str, str]) -> bool:
        """See `Responders.any`."""
        return self.here(route, attributes)

    def here(self, route: Route, attributes: Mapping[str, str]) -> bool:
        """As `any`, at once."""
        return any(
            names_targets(audience.filter) and audience.members > self._groups.deaf(audience.filter)
            for audience in self._events.tail.audiences(route, attributes)
        )


def names_targets(wish: Filter) -> bool:
    """Whether who has a filter answers for somebody in particular."""
    return any(each != "*" for each in wish.target_services)


class Caller:
    """Calls services over events.

    Args:
        events: The hub's events.
        responders: Who answers.
    """

    def __init__(self, events: EventHub, responders: Responders) -> None:
        self._events = events
        self._responders = responders
        self._waiting: dict[str, dict[asyncio.Future[bytes], None]] = {}
        self._listening: _Listening | None = None

    def __len__(self) -> int:
        """How many calls wait."""
        return sum(map(len, self._waiting.values()))

    async def call(
        self, drafts: Drafts, correlation_id: str, principal: Principal = ANONYMOUS
    ) -> bytes:
        """Publishes a request and waits for the first response to it.

        Args:
            drafts: The request, one event with a target service and this correlation id.
            correlation_id: Ties the response to it.
            principal: Who calls.

        Returns:
            The response, as the codec made it.

        Raises:
            InvalidArgumentError: The event is not allowed.
            PermissionDeniedError: The caller may not publish it.
            UnavailableError: Nobody is subscribed for the target; the log does not take the
                request; or the hub shuts down.
            ResourceExhaustedError: Too much waits to become durable.

        Cancelling it ends the wait; the request may still be handled.
        """
        if drafts.refused:
            raise drafts.refused[0]
        route = drafts.route(0)
        extra = drafts.extras.get(0)
        if not route.target_service:
            raise invalid_field(
                "target_service", "is required: the service to call", reason="FIELD_MISSING"
            )
        if problem := route_problem(route):
            raise problem
        if extra is not None and extra.deliver_at_ns:
            raise invalid_field("deliver_at", "must be absent: a call is made now")
        principal.require("events.publish", route.type)
        if not await self._responders.any(route, extra.attributes if extra else {}):
            raise _no_responders(route)
        response: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._wait(correlation_id, response)
        try:
            outcome = await self._events.publish(drafts, principal)
            if outcome.refused:
                raise outcome.refused[0]
            return await response
        finally:
            self._forget(correlation_id, response)

    def begin_shutdown(self, error: UnavailableError) -> None:
        """Ends all waits."""
        for waiting in self._waiting.values():
            for each in waiting:
                if not each.done():
                    each.set_exception(
                        UnavailableError(error.reason, error.message, metadata=error.metadata)
                    )

    def wake(self) -> None:
        """Looks at the responses that have come; see `Waiter`."""
        listening = self._listening
        if listening is None:
            return
        audience = listening.audience
        audience.wait(self)
        for number in range(max(listening.number, audience.first), audience.end):
            match = audience.matches[number]
            for index, correlation_id in match.batch.correlation_ids.items():
                if match.batch.route(index).type == RESPONSE:
                    for each in self._waiting.get(correlation_id, ()):
                        if not each.done():
                            each.set_result(match.batch.frame(index))
        listening.number = audience.end

    def _wait(self, correlation_id: str, response: asyncio.Future[bytes]) -> None:
        if self._listening is None:
            audience = self._events.tail.join(_RESPONSES)
            self._listening = _Listening(audience, audience.end)
            audience.wait(self)
        self._waiting.setdefault(correlation_id, {})[response] = None

    def _forget(self, correlation_id: str, response: asyncio.Future[bytes]) -> None:
        alike = self._waiting[correlation_id]
        del alike[response]
        if not alike:
            del self._waiting[correlation_id]
        if not self._waiting and self._listening is not None:
            self._listening.audience.forget(self)
            self._events.tail.leave(self._listening.audience)
            self._listening = None


def _no_responders(route: Route) -> UnavailableError:
    return UnavailableError(
        "NO_RESPONDERS",
        f"nobody is subscribed for the target {route.target_service!r}: a responder's filter "
        "names it in target_services, and lets the request's type pass",
        metadata={"target_service": route.target_service},
    )

"""Who answers requests, on any node."""

import asyncio
from collections.abc import Mapping

from switchboard_server.core.calls import names_targets
from switchboard_server.core.cluster.groups import SpreadGroups
from switchboard_server.core.cluster.messages import Found, Question, Survey
from switchboard_server.core.cluster.ports import Carrier
from switchboard_server.core.errors import SwitchboardError, UnavailableError
from switchboard_server.core.events import EventHub
from switchboard_server.core.filters import Route

SURVEY_SECONDS = 2.0
"""How long a node may take to say whether it has a responder.

One that takes longer is frozen, or as good as gone, and would bring a request to nobody either."""
MAX_QUESTIONS = 256
"""Most questions that go to a node at once."""

Asked = tuple[Question, "asyncio.Future[bool]"]


class SpreadResponders:
    """See `Responders`. Each node answers for the streams of its own clients.

    So a responder is found as well while another node takes over its group.

    Args:
        events: The node's events.
        groups: The groups of all nodes.
        carrier: The way to the other nodes.
    """

    def __init__(self, events: EventHub, groups: SpreadGroups, carrier: Carrier) -> None:
        self._events = events
        self._groups = groups
        self._carrier = carrier
        self._waiting: dict[str, list[Asked]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        carrier.on_request(Survey, self._survey)

    async def any(self, route: Route, attributes: Mapping[str, str]) -> bool:
        """See `Responders.any`.

        Raises:
            UnavailableError: This node cannot ask the others now.
        """
        if self._here(route, attributes):
            return True
        if not self._carrier.address:
            raise UnavailableError(
                "LOG_UNAVAILABLE", "other nodes cannot be asked now who responds; try again later"
            )
        question = Question(route, dict(attributes))
        asked = [self._ask(each, question) for each in self._others()]
        try:
            for answer in asyncio.as_completed(asked):
                if await answer:
                    return True
        finally:
            for each in asked:
                each.cancel()
        return False

    def _here(self, route: Route, attributes: Mapping[str, str]) -> bool:
        by_event = self._groups.streams.by_event
        streams = [*by_event.by_route(route), *by_event.by_attributes(route, attributes)]
        if any(each.lively and names_targets(each.filter) for each in streams):
            return True
        # A group counts as one that hears; its members were looked for where their streams are.
        return any(
            names_targets(audience.filter)
            and audience.members > self._groups.holdings.count(audience.filter)
            for audience in self._events.tail.audiences(route, attributes)
        )

    def _others(self) -> list[str]:
        return [each for each in self._carrier.nodes if each != self._carrier.address]

    def _ask(self, address: str, question: Question) -> "asyncio.Future[bool]":
        """Asks a node, together with what else gathers while it answers."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(address, []).append((question, answer))
        if address not in self._tasks:
            self._tasks[address] = asyncio.create_task(self._ask_all(address))
        return answer

    async def _ask_all(self, address: str) -> None:
        try:
            while waiting := self._waiting.pop(address, []):
                asked, rest = waiting[:MAX_QUESTIONS], waiting[MAX_QUESTIONS:]
                if rest:
                    self._waiting[address] = rest
                # Some have been told by other nodes meanwhile.
                await self._ask_some(address, [each for each in asked if not each[1].done()])
        finally:
            del self._tasks[address]
            for _, answer in self._waiting.pop(address, []):
                answer.cancel()

    async def _ask_some(self, address: str, asked: list[Asked]) -> None:
        if not asked:
            return
        questions = tuple(question for question, _ in asked)
        try:
            found = await self._carrier.request(
                address, Survey(questions), Found, SURVEY_SECONDS, seat=False
            )
            answers = found.answers
        except SwitchboardError:
            answers = tuple(False for _ in asked)
        for (_, answer), told in zip(asked, answers, strict=True):
            if not answer.done():
                answer.set_result(told)

    async def _survey(self, asked: Survey, _address: str) -> Found:
        return Found(tuple(self._here(each.route, each.attributes) for each in asked.questions))

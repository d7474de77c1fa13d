"""The dead letters of a cluster's groups, as each of its nodes serves them."""

from collections.abc import Sequence

from switchboard_server.core.cluster import messages
from switchboard_server.core.cluster.asking import Asking
from switchboard_server.core.cluster.messages import Who
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.letters import (
    LATEST_LETTERS,
    LetterPage,
    LettersQuery,
    Redriven,
)
from switchboard_server.core.principal import ANONYMOUS, Principal


class SpreadLetters:
    """The dead letters of all nodes' groups; see `Letters`.

    Args:
        asking: Finds who has a group, and its dead letters.
    """

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def page(
        self,
        name: str,
        query: LettersQuery = LATEST_LETTERS,
        principal: Principal = ANONYMOUS,
    ) -> LetterPage:
        """See `DeadLetters.page`."""
        return await self._asking.of(
            name,
            lambda held: held.letters.page(name, query, principal),
            lambda: messages.PageLetters(name, query, Who.of(principal)),
            LetterPage,
        )

    async def redrive(
        self,
        name: str,
        *,
        sequences: Sequence[int] = (),
        wish: Filter | None = None,
        principal: Principal = ANONYMOUS,
    ) -> Redriven:
        """See `DeadLetters.redrive`."""
        return await self._asking.of(
            name,
            lambda held: held.letters.redrive(
                name, sequences=sequences, wish=wish, principal=principal
            ),
            lambda: messages.Redrive(name, tuple(sequences), wish, Who.of(principal)),
            Redriven,
        )

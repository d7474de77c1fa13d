"""Asks whoever has a group, be it this node or another one."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from switchboard_server.core.cluster.holding import Holding
from switchboard_server.core.cluster.holdings import MOVED, Holdings
from switchboard_server.core.cluster.ports import Carrier
from switchboard_server.core.cluster.seats import seat_of
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.groups.config import validate_name
from switchboard_server.core.groups.moving import MovedError

RETRY_SECONDS = (0.02, 0.2)
"""How long to wait before asking again where a seat is just moving: at least and at most. While
nobody holds it, the carrier waits by itself."""

T = TypeVar("T")
M = TypeVar("M")


class Asking:
    """What a node asks of the groups of all nodes.

    Args:
        holdings: Those that it has itself.
        carrier: The way to the others.
        patience: Seconds until it fails.
        check: Raises UnavailableError as long as this node cannot have an answer.
    """

    def __init__(
        self, holdings: Holdings, carrier: Carrier, patience: float, check: Callable[[], None]
    ) -> None:
        self._check = check
        self._holdings = holdings
        self._carrier = carrier
        self._patience = patience

    async def of(
        self,
        name: str,
        here: Callable[[Holding], Awaitable[T]],
        there: Callable[[], object],
        expects: type[T],
    ) -> T:
        """Asks who has a group; see `at`.

        Raises:
            InvalidArgumentError: That is no name.
        """
        validate_name(name)
        return await self.at(seat_of(name), here, there, expects, _same)

    async def at(
        self,
        seat: str,
        here: Callable[[Holding], Awaitable[T]],
        there: Callable[[], object],
        expects: type[M],
        back: Callable[[M], T],
        *,
        patience: float | None = None,
    ) -> T:
        """Asks who holds a seat; who holds it next is asked again, so that it may be done twice.

        Args:
            seat: The seat.
            here: Asks this node's groups.
            there: What to ask another node.
            expects: Of which class its answer is.
            back: What the answer means.
            patience: Seconds until it fails; None: the usual ones.

        Raises:
            UnavailableError: There was no answer in time; whether it was done is not known.
            SwitchboardError: What the groups raise.
        """
        self._check()
        loop = asyncio.get_running_loop()
        patience = self._patience if patience is None else patience
        deadline = loop.time() + patience
        while True:
            holding = self._holdings.get(seat)
            try:
                if holding is not None:
                    return await holding.guard(here)
                left = deadline - loop.time()
                return back(await self._carrier.request(seat, there(), expects, left, seat=True))
            except MovedError:
                pass
            except UnavailableError as error:
                if error.reason != MOVED:
                    raise
            await asyncio.sleep(random.uniform(*RETRY_SECONDS))  # noqa: S311 - nothing secret
            if loop.time() >= deadline:
                raise UnavailableError(
                    "LOG_UNAVAILABLE",
                    f"the group is being taken over by another node for more than "
                    f"{patience:g} s; the same call may be repeated",
                )


def _same(told: T) -> T:
    return told

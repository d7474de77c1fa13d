"""What doors ask of consumer groups, be those in this process or spread over nodes."""

from collections.abc import Sequence
from typing import Protocol

from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.events import Begin, Start
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.entries import RETRY, Outcome, Rejection
from switchboard_server.core.groups.hub import GroupWish
from switchboard_server.core.groups.letters import (
    LATEST_LETTERS,
    LetterPage,
    LettersQuery,
    Redriven,
)
from switchboard_server.core.groups.reports import GroupReport
from switchboard_server.core.heartbeats import DEFAULT_HEARTBEAT
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.subscription import Item


class MemberStream(Protocol):
    """What a member of a group hears. One task calls `next`."""

    @property
    def position(self) -> int:
        """See `Member.position`."""
        ...

    async def next(self) -> Item:
        """See `Member.next`; never raises `MovedError`."""
        ...

    def close(self) -> None:
        """Leaves the group. May be called twice."""
        ...


class Groups(Protocol):
    """Consumer groups; see `GroupHub` for what each method does and raises."""

    async def subscribe(
        self,
        wish: GroupWish,
        start: Start = Begin.LATEST,
        principal: Principal = ANONYMOUS,
        heartbeat: float = DEFAULT_HEARTBEAT,
    ) -> MemberStream:
        """See `GroupHub.subscribe`."""
        ...

    async def acknowledge(
        self, name: str, ack_ids: Sequence[str], principal: Principal = ANONYMOUS
    ) -> list[Outcome]:
        """See `GroupHub.acknowledge`."""
        ...

    async def reject(
        self,
        name: str,
        ack_ids: Sequence[str],
        principal: Principal = ANONYMOUS,
        how: Rejection = RETRY,
    ) -> list[Outcome]:
        """See `GroupHub.reject`."""
        ...

    async def extend(
        self,
        name: str,
        ack_ids: Sequence[str],
        principal: Principal = ANONYMOUS,
        *,
        extension_ns: int | None = None,
    ) -> list[Outcome]:
        """See `GroupHub.extend`."""
        ...

    async def view(self, name: str, principal: Principal = ANONYMOUS) -> GroupReport:
        """See `GroupHub.view`."""
        ...

    async def page(
        self, prefix: str, page_size: int, page_token: str, principal: Principal = ANONYMOUS
    ) -> tuple[list[GroupReport], str]:
        """See `GroupHub.page`."""
        ...

    async def seek(
        self, name: str, target: Start, principal: Principal, *, require_no_members: bool = False
    ) -> GroupReport:
        """See `GroupHub.seek`."""
        ...

    async def delete(
        self, name: str, principal: Principal, *, require_no_members: bool = False
    ) -> GroupReport:
        """See `GroupHub.delete`."""
        ...

    def begin_shutdown(self, error: UnavailableError) -> None:
        """See `GroupHub.begin_shutdown`."""
        ...


class Letters(Protocol):
    """Dead letters; see `DeadLetters` for what each method does and raises."""

    async def page(
        self,
        name: str,
        query: LettersQuery = LATEST_LETTERS,
        principal: Principal = ANONYMOUS,
    ) -> LetterPage:
        """See `DeadLetters.page`."""
        ...

    async def redrive(
        self,
        name: str,
        *,
        sequences: Sequence[int] = (),
        wish: Filter | None = None,
        principal: Principal = ANONYMOUS,
    ) -> Redriven:
        """See `DeadLetters.redrive`."""
        ...

"""What members do with the deliveries that they hold."""

from collections.abc import Sequence

from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import invalid_field, too_large
from switchboard_server.core.events import check_scope
from switchboard_server.core.groups.config import MAX_BACKOFF_NS
from switchboard_server.core.groups.entries import RETRY, Outcome, Rejection
from switchboard_server.core.groups.group import Group
from switchboard_server.core.groups.shelf import Shelf
from switchboard_server.core.principal import ANONYMOUS, Principal

MAX_ACK_IDS = 10_000
"""Most deliveries that one call settles."""
MAX_REASON = 1024
"""Longest reason of a Reject, in characters."""
EXTENSION_BOUNDS_NS = (SECOND_NS, 12 * 3600 * SECOND_NS)
"""How far a deadline can be moved from now, in nanoseconds."""


class Settling(Shelf):
    """Groups whose deliveries are settled. Called in one event loop, concurrently as it comes."""

    async def acknowledge(
        self, name: str, ack_ids: Sequence[str], principal: Principal = ANONYMOUS
    ) -> list[Outcome]:
        """Settles deliveries for good.

        Args:
            name: The group.
            ack_ids: Names of the deliveries.
            principal: Who settles.

        Returns:
            What became of each, when it is durable. Cancelling it takes nothing back.

        Raises:
            InvalidArgumentError: There are none, or too many.
            NotFoundError: There is no such group.
            PermissionDeniedError: The caller may not receive what the group receives.
            UnavailableError: It could not be stored; the same call may be repeated.
        """
        return await self._settling(name, ack_ids, principal).acknowledge(ack_ids)

    async def reject(
        self,
        name: str,
        ack_ids: Sequence[str],
        principal: Principal = ANONYMOUS,
        how: Rejection = RETRY,
    ) -> list[Outcome]:
        """Gives deliveries back.

        Args:
            name: The group.
            ack_ids: Names of the deliveries.
            principal: Who settles.
            how: When they come back, or that they do not.

        Returns and raises as `acknowledge`.
        """
        group = self._settling(name, ack_ids, principal)
        if len(how.reason) > MAX_REASON:
            raise too_large("reason", len(how.reason), MAX_REASON, "characters")
        if how.wait_ns is not None and how.wait_ns > MAX_BACKOFF_NS:
            raise invalid_field("retry_after", "must be 0 to 24 hours")
        return await group.reject(ack_ids, how)

    async def extend(
        self,
        name: str,
        ack_ids: Sequence[str],
        principal: Principal = ANONYMOUS,
        *,
        extension_ns: int | None = None,
    ) -> list[Outcome]:
        """Moves the deadlines of deliveries.

        Args:
            name: The group.
            ack_ids: Names of the deliveries.
            principal: Who holds them.
            extension_ns: From now to the new deadline, in nanoseconds; None: the group's.

        Raises as `acknowledge`, but never UnavailableError: deadlines do not outlive the hub.
        """
        group = self._settling(name, ack_ids, principal)
        low, high = EXTENSION_BOUNDS_NS
        if extension_ns is not None and not low <= extension_ns <= high:
            raise invalid_field("extension", "must be 1 second to 12 hours")
        return group.extend(ack_ids, extension_ns)

    def _settling(self, name: str, ack_ids: Sequence[str], principal: Principal) -> Group:
        if not ack_ids:
            raise invalid_field("ack_ids", "is empty; send at least one", reason="FIELD_MISSING")
        if len(ack_ids) > MAX_ACK_IDS:
            raise too_large("ack_ids", len(ack_ids), MAX_ACK_IDS, "entries")
        group = self.find(name)
        check_scope(principal, "events.subscribe", group.filter)
        return group

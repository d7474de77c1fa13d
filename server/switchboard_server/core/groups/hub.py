"""What clients can do with consumer groups, whatever door they come through."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from switchboard_server.core.errors import (
    FailedPreconditionError,
    UnavailableError,
    limit_reached,
)
from switchboard_server.core.events import (
    Begin,
    EventHub,
    Start,
    check_scope,
)
from switchboard_server.core.filters import validate as validate_filter
from switchboard_server.core.groups.changes import Snapshot
from switchboard_server.core.groups.config import (
    DEFAULT_CREDIT,
    GroupConfig,
    check_same,
    validate,
    validate_instance,
    validate_name,
)
from switchboard_server.core.groups.entries import Holder, Identity
from switchboard_server.core.groups.group import Group, LeaseCodec, Surroundings
from switchboard_server.core.groups.listing import list_groups, visible_groups
from switchboard_server.core.groups.membership import Member
from switchboard_server.core.groups.moving import MovedError
from switchboard_server.core.groups.ports import GroupStore, StoredGroup
from switchboard_server.core.groups.reports import GroupReport, GroupStats, report, stats
from switchboard_server.core.groups.settling import Settling
from switchboard_server.core.groups.shelf import unknown
from switchboard_server.core.heartbeats import DEFAULT_HEARTBEAT, check_heartbeat
from switchboard_server.core.principal import ANONYMOUS, Principal

KEEP_SECONDS = 5.0
"""How often groups are looked after."""
OPENED_AT_ONCE = 16
"""How many groups are taken up at the same time, since each may have to read the log."""
REACH_SECONDS = 10.0
"""How long the log may take to come to where groups have been. Longer: its end was lost."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """How much the hub takes on, and what it lets go of.

    Args:
        max_groups: Most groups.
        idle_ns: After how long without a member a group is deleted, in nanoseconds; 0: never.
        dead_letter_ns: How long dead letters are kept, in nanoseconds; 0: for ever.
    """

    max_groups: int = 10_000
    idle_ns: int = 0
    dead_letter_ns: int = 0


@dataclass(frozen=True, slots=True)
class GroupWish:
    """What a member asks for.

    Args:
        group: Name of the group.
        config: What the group is to be.
        max_in_flight: How many deliveries the member holds at most.
        instance: The registered service instance that it is; empty: none.
        peer: Its network address.
    """

    group: str
    config: GroupConfig
    max_in_flight: int = DEFAULT_CREDIT
    instance: str = ""
    peer: str = ""


class GroupHub(Settling):
    """The hub's consumer groups. Called in one event loop, concurrently as it comes.

    Args:
        events: The hub's events.
        store: Keeps groups.
        codec: How deliveries look as bytes.
        limits: How much the hub takes on.
        clock: Unix time in nanoseconds.
    """

    def __init__(
        self,
        events: EventHub,
        store: GroupStore,
        codec: LeaseCodec,
        limits: GroupLimits,
        clock: Callable[[], int],
    ) -> None:
        super().__init__()
        self._events = events
        self._store = store
        self._codec = codec
        self._limits = limits
        self._clock = clock
        self._draining: Callable[[str], bool] = lambda _instance: False
        self._changing = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._closing: UnavailableError | None = None
        self._moved = False
        self._around: Surroundings | None = None

    async def open(self) -> None:
        """Takes up all groups where they stood; the hub's events are open.

        Raises:
            UnavailableError: They cannot be read.
        """
        found = await self._store.load_groups()
        await self._catch_up(found)
        self._around = Surroundings(
            self._events.tail, self._events.log, self._store, self._codec, self._clock
        )
        for start in range(0, len(found), OPENED_AT_ONCE):
            part = found[start : start + OPENED_AT_ONCE]
            opening = [self._add(stored, self._around) for stored in part]
            for outcome in await asyncio.gather(*opening, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
        self._keeper = asyncio.create_task(self._keep())

    def begin_shutdown(self, error: UnavailableError) -> None:
        """Ends all streams of members, and takes no new ones."""
        self._closing = error
        for group in self._groups.values():
            group.end(error)

    async def close(self, error: Exception | None = None) -> None:
        """Saves what is to be saved; the hub's events are still open.

        Args:
            error: What those are told who wait for an event to become a dead letter; None: that the
                hub shuts down.
        """
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        # Together, so that they share what it costs to make something durable.
        await asyncio.gather(*(group.close(error) for group in list(self._groups.values())))

    def let_go(self) -> None:
        """Ends all streams of members with `MovedError`, and saves nothing: another node does.

        May be called while `open` is under way, whose caller cancels it; and after `close`.
        """
        self._moved = True
        if self._keeper is not None:
            self._keeper.cancel()
        for group in self._groups.values():
            group.let_go(MovedError())

    def follow_draining(self, draining: Callable[[str], bool]) -> None:
        """Has members get nothing new while the instance that they are drains.

        Args:
            draining: Tells whether an instance does, by "service_name/instance_id"; `drain` tells
                of changes.
        """
        self._draining = draining

    def drain(self, instance: str) -> None:
        """Takes notice that an instance begins or ceases to drain."""
        for group in self._groups.values():
            group.drain(instance, draining=self._draining(instance))

    # --- members ---------------------------------------------------------------------------------

    async def subscribe(
        self,
        wish: GroupWish,
        start: Start = Begin.LATEST,
        principal: Principal = ANONYMOUS,
        heartbeat: float = DEFAULT_HEARTBEAT,
        *,
        node: str = "",
        create: bool = True,
    ) -> Member:
        """Joins a group, and makes it where it does not exist; the caller closes the member.

        Args:
            wish: What the member asks for.
            start: Where a new group begins.
            principal: Who subscribes.
            heartbeat: Seconds of silence after which to say that the stream lives.
            node: The node that has the member's stream, and counts it; empty: this hub does.
            create: Whether to make a group that does not exist.

        Raises:
            NotFoundError: There is no such group, and none is to be made.
            InvalidArgumentError: A field is not allowed.
            PermissionDeniedError: The filter asks for more than the caller may read.
            FailedPreconditionError: The group exists and differs from what is asked for.
            OutOfRangeError: The log has not reached the sequence to begin after.
            ResourceExhaustedError: There are as many subscriptions, or groups, as there may be.
            UnavailableError: The group could not be stored, or the hub shuts down.
        """
        validate_name(wish.group)
        check_heartbeat(heartbeat)
        validate_filter(wish.config.filter)
        validate(wish.config, wish.max_in_flight)
        validate_instance(wish.instance)
        check_scope(principal, "events.subscribe", wish.config.filter)
        self._admit(principal, counted=not node)
        if create:
            group = self._groups.get(wish.group) or await self._create(wish, start)
        else:
            group = self.find(wish.group)
        check_same(wish.group, group.config, wish.config)
        self._admit(principal, counted=not node)
        identity = Identity(
            member_id=secrets.token_hex(8),
            subject=principal.subject,
            instance=wish.instance,
            peer=wish.peer,
            node=node or self._events.log.log_id,
        )
        holder = Holder(identity, wish.max_in_flight)
        holder.draining = bool(wish.instance) and self._draining(wish.instance)
        member = Member(
            group,
            holder,
            heartbeat=heartbeat,
            join_ns=self._clock(),
            released=_nothing if node else partial(self._events.part, principal),
        )
        if not node:
            self._events.join(principal)
        group.join(member)
        return member

    # --- from outside ----------------------------------------------------------------------------

    async def view(self, name: str, principal: Principal = ANONYMOUS) -> GroupReport:
        """How one group is.

        Args:
            name: The group.
            principal: Who asks.

        Raises:
            InvalidArgumentError: That is no name.
            NotFoundError: There is no such group.
            PermissionDeniedError: The caller may not see what the group receives.
            UnavailableError: The log cannot be read now.
        """
        group = self.find(name)
        check_scope(principal, "events.view", group.filter)
        return await self.report(group)

    async def page(
        self, prefix: str, page_size: int, page_token: str, principal: Principal = ANONYMOUS
    ) -> tuple[list[GroupReport], str]:
        """A page of the groups that the caller may see; see `list_groups` in `listing`."""
        return await list_groups(self.visible, prefix, page_size, page_token, principal)

    async def visible(
        self, prefix: str, after: str, limit: int, principal: Principal
    ) -> list[GroupReport]:
        """The first groups, by name, that the caller may see; see `Visible`.

        Raises:
            UnavailableError: The log cannot be read now.
        """
        found = visible_groups(self, prefix, after, limit, principal)
        return [await self.report(group) for group in found]

    async def report(self, group: Group) -> GroupReport:
        """How a group is.

        Raises:
            UnavailableError: The log cannot be read now.
        """
        return await report(group, self._events.log, self._clock())

    async def seek(
        self, name: str, target: Start, principal: Principal, *, require_no_members: bool = False
    ) -> GroupReport:
        """Sets a group to another position; answers when that is durable.

        Args:
            name: The group.
            target: Where it is to go on.
            principal: Who asks.
            require_no_members: Refuse while it has members.

        Raises:
            NotFoundError: There is no such group.
            PermissionDeniedError: The caller may not manage it.
            FailedPreconditionError: It has members.
            OutOfRangeError: The log has not reached the position.
            UnavailableError: It could not be stored; the same call may be repeated.
        """
        self._managed(name, principal, unused=require_no_members)
        position = await self._events.position(target)
        window = self._events.log.window
        group = self._managed(name, principal, unused=require_no_members)
        async with group.redriving:
            await group.seek(max(position, window.first - 1))
        return await self.report(group)

    async def delete(
        self, name: str, principal: Principal, *, require_no_members: bool = False
    ) -> GroupReport:
        """Removes a group with its dead letters; answers with how it was, when that is durable.

        Raises as `seek`.
        """
        async with self._changing:
            group = self._managed(name, principal, unused=require_no_members)
            told = await self.report(group)
            self._managed(name, principal, unused=require_no_members)
            await self._remove(group)
            return replace(told, members=())

    def managed(self, name: str, principal: Principal) -> Group:
        """A group that the caller may manage.

        Raises:
            NotFoundError: There is no such group.
            PermissionDeniedError: The caller may not manage it.
        """
        return self._managed(name, principal, unused=False)

    def stats(self) -> list[GroupStats]:
        """What the groups count, as it is now."""
        now_ns = self._clock()
        return [stats(group, now_ns) for group in self._groups.values()]

    # --- inside ----------------------------------------------------------------------------------

    async def _catch_up(self, found: Sequence[StoredGroup]) -> None:
        """Waits until this node has what the groups have been given elsewhere."""
        needed = max((each.reach for each in found), default=0)
        try:
            async with asyncio.timeout(REACH_SECONDS):
                await self._events.reach(needed)
        except TimeoutError:
            _logger.warning(
                "groups have come to event %d, the log only to %d; they go on from there",
                needed,
                self._events.tail.last,
            )

    def _admit(self, principal: Principal, *, counted: bool) -> None:
        if self._moved:
            raise MovedError
        if self._closing is not None:
            raise self._closing
        if counted:
            self._events.admit(principal)

    async def _create(self, wish: GroupWish, start: Start) -> Group:
        async with self._changing:
            known = self._groups.get(wish.group)
            if known is not None:
                return known
            limit = self._limits.max_groups
            if len(self._groups) >= limit:
                setting = "SWITCHBOARD_MAX_GROUPS"
                problem = f"there are {limit} groups; delete some, or raise {setting}"
                raise limit_reached(problem, limit, setting)
            if self._around is None:
                raise AssertionError("groups are not open")
            snapshot = Snapshot.at(await self._events.position(start))
            record = await self._store.create_group(
                wish.group, wish.config, secrets.randbits(32), snapshot, self._clock()
            )
            return await self._add(StoredGroup(record, snapshot), self._around)

    async def _add(self, stored: StoredGroup, around: Surroundings) -> Group:
        group = Group(stored, around)
        try:
            await group.open()
            if self._moved:
                raise MovedError  # noqa: TRY301 - it is let go of like one that cannot be opened
        except BaseException:
            group.let_go(MovedError())
            raise
        self._put(group)
        return group

    async def _remove(self, group: Group) -> None:
        await self._store.delete_group(group.record.number)
        group.remove(unknown(group.record.name))
        self._drop(group)

    def _managed(self, name: str, principal: Principal, *, unused: bool) -> Group:
        group = self.find(name)
        principal.require("groups.manage", name)
        if unused and group.members:
            raise FailedPreconditionError(
                "GROUP_IN_USE",
                f"the group {name!r} has members ({len(group.members)}); end their streams first, "
                "or leave out require_no_members",
            )
        return group

    async def _keep(self) -> None:
        """Looks after the groups, until cancelled."""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            try:
                await self._look_after()
            except UnavailableError as error:
                _logger.warning("groups cannot be looked after now: %s", error)
            except Exception:  # A defect with one group must not keep all from being looked after.
                _logger.exception("groups cannot be looked after")

    async def _look_after(self) -> None:
        now_ns, limits = self._clock(), self._limits
        for group in list(self._groups.values()):
            group.keep()
            idle = limits.idle_ns and group.idle_since_ns
            if idle and now_ns - group.idle_since_ns >= limits.idle_ns:
                async with self._changing:
                    there = self._groups.get(group.record.name) is group
                    if there and group.idle_since_ns and not group.members:
                        _logger.info("group %r has been idle for long, and goes", group.record.name)
                        await self._remove(group)
        if limits.dead_letter_ns:
            gone = await self._store.expire_dead_letters(now_ns - limits.dead_letter_ns)
            for group in self._groups.values():
                group.burial.dead_letters -= gone.get(group.record.number, 0)


def _nothing() -> None:
    """Where a member is counted by others."""

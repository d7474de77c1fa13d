"""Who is there: rooms, users and connections, a page at a time."""

from collections.abc import Sequence
from dataclasses import replace

from switchboard_server.core.errors import NotFoundError, too_large
from switchboard_server.core.paging import MAX_PAGE, check_size, make_token, page_limit, read_token
from switchboard_server.core.principal import Principal
from switchboard_server.core.realtime.checks import check_name
from switchboard_server.core.realtime.floor import Floor
from switchboard_server.core.realtime.items import Member
from switchboard_server.core.realtime.messages import Delivered
from switchboard_server.core.realtime.neighbours import Census
from switchboard_server.core.realtime.views import (
    ConnectionsPage,
    PresencePage,
    RoomDetails,
    RoomFacts,
    RoomsPage,
    RoomView,
)
from switchboard_server.core.realtime.wishes import (
    ConnectionsQuery,
    PresenceQuery,
    RoomQuery,
    RoomsQuery,
)

MAX_USERS = MAX_PAGE
"""Most users that are asked about by name."""
MAX_HISTORY_BYTES = 384 * 1024
"""A page takes no further message once it holds this many bytes. A Struct may take five and a half
times the bytes of its JSON, and gRPC's clients take 4 MiB unless told otherwise."""

VIEW = "messaging.view"
EVERYTHING = "*"
"""What a permission without a scope covers, and no other."""


async def list_rooms(
    floor: Floor,
    query: RoomsQuery,
    principal: Principal,
) -> RoomsPage:
    """See `RealtimeHub.list_rooms`."""
    principal.require(VIEW)
    asked = ("rooms", query.name_prefix)
    after = _after(query.page_token, asked)
    limit = page_limit(query.page_size)
    scoped = principal.scoped(VIEW)
    names: list[str] = []
    census = floor.neighbours.census
    async for name in census.room_names(after, query.name_prefix):
        if scoped and not principal.covers(VIEW, name):
            continue
        names.append(name)
        if len(names) > limit:
            break
    page, token = _page(names, limit, asked)
    found = zip(page, await census.rooms(page), strict=True)
    return RoomsPage(
        [_room(floor, name, facts) for name, facts in found if facts is not None], token
    )


async def get_room(
    floor: Floor,
    query: RoomQuery,
    principal: Principal,
) -> RoomDetails:
    """See `RealtimeHub.get_room`."""
    check_name("room", query.room)
    principal.require(VIEW, query.room)
    check_size(query.member_page_size, "member_page_size")
    check_size(query.history_limit, "history_limit")
    census = floor.neighbours.census
    facts = (await census.rooms([query.room]))[0]
    if facts is None:
        raise NotFoundError("ROOM_NOT_FOUND", f"there is no room {query.room!r}")
    asked = ("members", query.room)
    after = _after(query.member_page_token, asked, "member_page_token")
    members: Sequence[Member] = []
    token = ""
    if limit := query.member_page_size:
        members = await census.members(query.room, after, limit + 1)
        if len(members) > limit:
            members = members[:limit]
            token = make_token(members[-1].client_id.encode(), asked)
    history, contiguous = await _history(census, query)
    view = _room(floor, query.room, facts)
    return RoomDetails(view, members, token, history, contiguous)


async def get_presence(floor: Floor, query: PresenceQuery, principal: Principal) -> PresencePage:
    """See `RealtimeHub.get_presence`."""
    principal.require(VIEW, query.room or EVERYTHING)
    check_name("room", query.room, required=False)
    limit = page_limit(query.page_size)
    if len(query.users) > MAX_USERS:
        raise too_large("users", len(query.users), MAX_USERS, "entries")
    asked = ("presence", query.room)
    after = _after(query.page_token, asked)
    census = floor.neighbours.census
    token = ""
    page: Sequence[str] = query.users
    if not page:
        page, token = _page(await census.user_names(query.room, after, limit + 1), limit, asked)
    return PresencePage(await census.users(page, query.room), token)


async def list_connections(
    floor: Floor, query: ConnectionsQuery, principal: Principal
) -> ConnectionsPage:
    """See `RealtimeHub.list_connections`."""
    principal.require(VIEW, query.room or EVERYTHING)
    check_name("room", query.room, required=False)
    limit = page_limit(query.page_size)
    asked = ("connections", query.client_id_prefix, query.user, query.room, str(query.transport))
    after = _after(query.page_token, asked)
    views, total = await floor.neighbours.census.connections(query, after, limit + 1)
    token = ""
    if len(views) > limit:
        views = views[:limit]
        token = make_token(views[-1].client_id.encode(), asked)
    if principal.scoped(VIEW):
        views = [
            replace(each, rooms=[room for room in each.rooms if principal.covers(VIEW, room)])
            for each in views
        ]
    return ConnectionsPage(views, total, token)


def _room(floor: Floor, name: str, facts: RoomFacts) -> RoomView:
    """A room as it is."""
    policy = floor.rules.of(name)
    return RoomView(
        name,
        connections=facts.connections,
        users=facts.users,
        history_size=0 if policy is None else policy.size,
        history_ttl_ns=0 if policy is None else policy.ttl_ns,
        position=facts.position,
        history_length=facts.history_length,
        create_time_ns=facts.create_time_ns,
    )


async def _history(census: Census, query: RoomQuery) -> tuple[Sequence[Delivered], bool]:
    """Messages of a room's history, and whether they follow the place that was asked for."""
    if query.history_after is not None:
        found = await census.after(query.room, query.history_after)
        if found is not None:
            return _within_bytes(found[: query.history_limit]), True
    if not query.history_limit:
        return (), False
    latest = await census.latest(query.room, query.history_limit)
    return _within_bytes(latest[::-1])[::-1], False


def _within_bytes(messages: Sequence[Delivered]) -> Sequence[Delivered]:
    size = 0
    for index, each in enumerate(messages):
        if size >= MAX_HISTORY_BYTES:
            return messages[:index]
        size += each.size
    return messages


def _after(token: str, asked: object, field: str = "page_token") -> str:
    """The last name of the page before; empty: there was none."""
    return read_token(token, asked, field).decode() if token else ""


def _page(names: Sequence[str], limit: int, asked: object) -> tuple[Sequence[str], str]:
    """The first names, and the token for those that follow."""
    if len(names) <= limit:
        return names, ""
    return names[:limit], make_token(names[limit - 1].encode(), asked)

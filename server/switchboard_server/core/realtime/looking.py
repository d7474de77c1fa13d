"""Who is there: rooms, users and connections, a page at a time."""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from switchboard_server.core.errors import NotFoundError, invalid_field
from switchboard_server.core.paging import make_token, read_token
from switchboard_server.core.principal import Principal
from switchboard_server.core.realtime.checks import check_name, too_large
from switchboard_server.core.realtime.connection import Connection
from switchboard_server.core.realtime.floor import Floor
from switchboard_server.core.realtime.history import RoomHistories
from switchboard_server.core.realtime.messages import Delivered, Position
from switchboard_server.core.realtime.names import following, united
from switchboard_server.core.realtime.rooms import Directory, Room
from switchboard_server.core.realtime.views import (
    ConnectionsPage,
    ConnectionView,
    PresencePage,
    RoomDetails,
    RoomsPage,
    RoomView,
    UserView,
)
from switchboard_server.core.realtime.wishes import (
    ConnectionsQuery,
    PresenceQuery,
    RoomQuery,
    RoomsQuery,
)

DEFAULT_PAGE = 100
"""Entries of a page where the query names no number."""
MAX_PAGE = 1000
"""Most entries of a page, and most users that are asked about by name."""
MAX_HISTORY_BYTES = 384 * 1024
"""A page takes no further message once it holds this many bytes. A Struct may take five and a half
times the bytes of its JSON, and gRPC's clients take 4 MiB unless told otherwise."""

VIEW = "messaging.view"
EVERYTHING = "*"
"""What a permission without a scope covers, and no other."""


def list_rooms(
    floor: Floor,
    query: RoomsQuery,
    principal: Principal,
) -> RoomsPage:
    """See `RealtimeHub.list_rooms`."""
    principal.require(VIEW)
    asked = ("rooms", query.name_prefix)
    names = united(
        *(
            following(source, _after(query.page_token, asked), query.name_prefix)
            for source in (floor.directory.room_names.names, floor.histories.names())
        )
    )
    if principal.scoped(VIEW):
        names = (name for name in names if principal.covers(VIEW, name))
    page, token = _page(names, query.page_size, asked)
    views = [_room(floor, name) for name in page]
    return RoomsPage([view for view in views if view is not None], token)


def get_room(
    floor: Floor,
    query: RoomQuery,
    principal: Principal,
) -> RoomDetails:
    """See `RealtimeHub.get_room`."""
    check_name("room", query.room)
    principal.require(VIEW, query.room)
    _check_size("member_page_size", query.member_page_size)
    _check_size("history_limit", query.history_limit)
    room = floor.directory.rooms.get(query.room)
    view = _room(floor, query.room)
    if view is None:
        raise NotFoundError("ROOM_NOT_FOUND", f"there is no room {query.room!r}")
    members = {} if room is None else {each.client_id: each for each in room.members.values()}
    asked = ("members", query.room)
    after = _after(query.member_page_token, asked, "member_page_token")
    names: list[str] = []
    token = ""
    if query.member_page_size:
        names, token = _page(following(sorted(members), after), query.member_page_size, asked)
    history, contiguous = _history(floor.histories, query)
    return RoomDetails(view, [members[name] for name in names], token, history, contiguous)


def get_presence(floor: Floor, query: PresenceQuery, principal: Principal) -> PresencePage:
    """See `RealtimeHub.get_presence`."""
    principal.require(VIEW, query.room or EVERYTHING)
    check_name("room", query.room, required=False)
    _check_size("page_size", query.page_size)
    if len(query.users) > MAX_PAGE:
        raise too_large("users", "entries", MAX_PAGE, len(query.users))
    directory = floor.directory
    room = directory.rooms.get(query.room)
    asked = ("presence", query.room)
    after = _after(query.page_token, asked)
    token = ""
    page: Sequence[str] = query.users
    if not page:
        if not query.room:
            names = following(directory.user_names.names, after)
        else:
            names = following([] if room is None else sorted(room.users), after)
        page, token = _page(names, query.page_size, asked)
    return PresencePage([_user(directory, room, query.room, user) for user in page], token)


def list_connections(
    floor: Floor, query: ConnectionsQuery, principal: Principal
) -> ConnectionsPage:
    """See `RealtimeHub.list_connections`."""
    principal.require(VIEW, query.room or EVERYTHING)
    check_name("room", query.room, required=False)
    _check_size("page_size", query.page_size)
    asked = ("connections", query.client_id_prefix, query.user, query.room, str(query.transport))
    after = _after(query.page_token, asked)
    matching = [
        each.client_id
        for each in _candidates(floor.directory, query)
        if (not query.user or each.user == query.user)
        and (query.transport is None or each.transport is query.transport)
        and each.client_id.startswith(query.client_id_prefix)
    ]
    page, token = _page(following(sorted(matching), after), query.page_size, asked)
    views = [_connection(floor.directory.connections[name], floor.node, principal) for name in page]
    return ConnectionsPage(views, len(matching), token)


def count_rooms(floor: Floor) -> int:
    """How many rooms there are."""
    rooms = floor.directory.rooms
    remembered = sum(name not in rooms for name in floor.histories.names())
    return len(rooms) + remembered


def _candidates(directory: Directory, query: ConnectionsQuery) -> Collection[Connection]:
    """Connections that hold all that match, and not many more."""
    if query.room:
        room = directory.rooms.get(query.room)
        return () if room is None else room.members
    if query.user:
        return directory.of_user(query.user)
    return directory.connections.values()


def _room(floor: Floor, name: str) -> RoomView | None:
    """A room as it is; None: there is none."""
    room = floor.directory.rooms.get(name)
    policy = floor.rules.of(name)
    history = None if policy is None else floor.histories.view(name)
    if room is None and (history is None or not history.length):
        return None
    made = [each.create_time_ns for each in (room, history) if each is not None]
    return RoomView(
        name,
        connections=0 if room is None else len(room.members),
        users=0 if room is None else len(room.users),
        history_size=0 if policy is None else policy.size,
        history_ttl_ns=0 if policy is None else policy.ttl_ns,
        position=Position(name) if history is None else history.position,
        history_length=0 if history is None else history.length,
        create_time_ns=min(made),
    )


def _history(histories: RoomHistories, query: RoomQuery) -> tuple[Sequence[Delivered], bool]:
    """Messages of a room's history, and whether they follow the place that was asked for."""
    if query.history_after is not None:
        found = histories.after(query.room, query.history_after)
        if found is not None:
            return _within_bytes(found[: query.history_limit]), True
    if not query.history_limit:
        return (), False
    latest = histories.latest(query.room, query.history_limit)
    return _within_bytes(latest[::-1])[::-1], False


def _within_bytes(messages: Sequence[Delivered]) -> Sequence[Delivered]:
    size = 0
    for index, each in enumerate(messages):
        if size >= MAX_HISTORY_BYTES:
            return messages[:index]
        size += each.size
    return messages


def _user(directory: Directory, room: Room | None, asked_room: str, user: str) -> UserView:
    connections = directory.of_user(user)
    if asked_room:
        since = [
            room.members[each].join_time_ns
            for each in connections
            if room is not None and each in room.members
        ]
    else:
        since = [each.connect_time_ns for each in connections]
    return UserView(user, len(since), min(since, default=0))


def _connection(connection: Connection, node: str, principal: Principal) -> ConnectionView:
    return ConnectionView(
        client_id=connection.client_id,
        user=connection.user,
        transport=connection.transport,
        peer=connection.peer,
        node=node,
        connect_time_ns=connection.connect_time_ns,
        rooms=[room for room in sorted(connection.rooms) if principal.covers(VIEW, room)],
        pending_messages=len(connection.outbox),
        dropped_messages=connection.outbox.dropped,
    )


def _check_size(field: str, size: int) -> None:
    if not 0 <= size <= MAX_PAGE:
        raise invalid_field(field, f"{size} is not within 0 to {MAX_PAGE}")


def _after(token: str, asked: object, field: str = "page_token") -> str:
    """The last name of the page before; empty: there was none."""
    return read_token(token, asked, field).decode() if token else ""


def _page(names: Iterator[str], size: int, asked: object) -> tuple[list[str], str]:
    """The first names, and the token for those that follow."""
    _check_size("page_size", size)
    limit = size or DEFAULT_PAGE
    page = list(islice(names, limit + 1))
    if len(page) <= limit:
        return page, ""
    del page[limit:]
    return page, make_token(page[-1].encode(), asked)

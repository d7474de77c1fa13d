"""Who may see which groups, and a page of them."""

from collections.abc import Awaitable, Callable
from itertools import islice

from switchboard_server.core.errors import PermissionDeniedError
from switchboard_server.core.events import check_scope
from switchboard_server.core.groups.group import Group
from switchboard_server.core.groups.reports import GroupReport
from switchboard_server.core.groups.shelf import Shelf
from switchboard_server.core.paging import make_token, page_limit, read_token
from switchboard_server.core.principal import Principal

Visible = Callable[[str, str, int, Principal], Awaitable[list[GroupReport]]]
"""The first groups that the caller may see: those whose name begins with a prefix and comes after
another name, at most so many, in the order of their names."""


async def list_groups(
    visible: Visible, prefix: str, page_size: int, page_token: str, principal: Principal
) -> tuple[list[GroupReport], str]:
    """Reads a page of the groups that the caller may see, in the order of their names.

    Args:
        visible: Finds them.
        prefix: Only groups whose name begins so.
        page_size: How many at most, 1 to 1000; 0: 100.
        page_token: Where the page before ended; empty: the first page.
        principal: Who asks.

    Returns:
        The groups, and the token of the next page; empty: there is none.

    Raises:
        InvalidArgumentError: The page size or the token is not allowed.
        UnavailableError: The log cannot be read now.
    """
    asked, limit = ("groups", prefix), page_limit(page_size)
    after = read_token(page_token, asked).decode() if page_token else ""
    found = await visible(prefix, after, limit + 1, principal)
    if len(found) <= limit:
        return found, ""
    del found[limit:]
    return found, make_token(found[-1].record.name.encode(), asked)


def visible_groups(
    shelf: Shelf, prefix: str, after: str, limit: int, principal: Principal
) -> list[Group]:
    """The first groups of one hub that the caller may see; see `Visible`."""
    groups = (
        group
        for group in shelf.in_order()
        if after < group.record.name
        and group.record.name.startswith(prefix)
        and _may_see(group, principal)
    )
    return list(islice(groups, limit))


def _may_see(group: Group, principal: Principal) -> bool:
    try:
        check_scope(principal, "events.view", group.filter)
    except PermissionDeniedError:
        return False
    return True

"""Who may see which groups, and a page of them."""

from switchboard_server.core.errors import PermissionDeniedError, invalid_field
from switchboard_server.core.events import check_scope
from switchboard_server.core.groups.group import Group
from switchboard_server.core.groups.hub import GroupHub
from switchboard_server.core.groups.reports import GroupReport
from switchboard_server.core.listing import DEFAULT_PAGE, MAX_PAGE
from switchboard_server.core.paging import make_token, read_token
from switchboard_server.core.principal import Principal


async def list_groups(
    hub: GroupHub, prefix: str, page_size: int, page_token: str, principal: Principal
) -> tuple[list[GroupReport], str]:
    """Reads a page of the groups that the caller may see, in the order of their names.

    Args:
        hub: The hub's groups.
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
    if page_size > MAX_PAGE:
        raise invalid_field("page_size", f"must be 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}")
    asked = ("groups", prefix)
    after = read_token(page_token, asked).decode() if page_token else ""
    found: list[GroupReport] = []
    for name in hub.names():
        if name <= after or not name.startswith(prefix):
            continue
        group = hub.find(name)
        if not _visible(group, principal):
            continue
        if len(found) >= (page_size or DEFAULT_PAGE):
            return found, make_token(found[-1].record.name.encode(), asked)
        found.append(await hub.report(group))
    return found, ""


async def view(hub: GroupHub, name: str, principal: Principal) -> GroupReport:
    """How one group is.

    Raises:
        InvalidArgumentError: That is no name.
        NotFoundError: There is no such group.
        PermissionDeniedError: The caller may not see what the group receives.
        UnavailableError: The log cannot be read now.
    """
    group = hub.find(name)
    check_scope(principal, "events.view", group.filter)
    return await hub.report(group)


def _visible(group: Group, principal: Principal) -> bool:
    try:
        check_scope(principal, "events.view", group.filter)
    except PermissionDeniedError:
        return False
    return True

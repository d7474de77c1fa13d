"""Who calls, and what they may do."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from switchboard_server.core.errors import PermissionDeniedError
from switchboard_server.core.filters import covers

PERMISSIONS = (
    "events.publish",
    "events.subscribe",
    "events.view",
    "groups.manage",
    "messaging.broadcast",
    "messaging.view",
    "rooms.join",
    "rooms.manage",
    "connections.manage",
    "services.view",
    "services.register",
    "services.unregister",
)
"""Every permission there is."""

MAX_SHOWN = 5
"""Most scopes of a token that an error tells."""
MAX_SHOWN_LENGTH = 100
"""How much of them it tells at most, in characters."""


class Principal:
    """An authenticated caller.

    Args:
        subject: Name of the caller, stamped on what it publishes; empty where the hub asks for no
            token.
        permissions: Permissions, each "name" or "name:scope"; a scope is an exact name or a prefix
            that ends in "*". Unknown ones are kept and match nothing.
        expires_at: Unix time in seconds at which the caller's word ends; None: never.

    Attributes:
        scopes: The scopes of each permission, "*" for one without.
    """

    __slots__ = ("expires_at", "scopes", "subject")

    def __init__(
        self, subject: str, permissions: Iterable[str], expires_at: float | None = None
    ) -> None:
        scopes: dict[str, tuple[str, ...]] = {}
        for permission in permissions:
            name, colon, scope = permission.partition(":")
            if colon and not scope:
                continue
            scopes[name] = (*scopes.get(name, ()), scope or "*")
        self.subject = subject
        self.scopes: Mapping[str, tuple[str, ...]] = MappingProxyType(scopes)
        self.expires_at = expires_at

    def named(self, user: str) -> "Principal":
        """This caller under a user's name, where it has none of its own."""
        if self.subject or not user:
            return self
        renamed = Principal(user, (), self.expires_at)
        # Shared, since thousands of connections may have the same.
        renamed.scopes = self.scopes
        return renamed

    def may(self, permission: str) -> bool:
        """Whether the caller holds the permission, be it in a scope."""
        return permission in self.scopes

    def scoped(self, permission: str) -> bool:
        """Whether the caller holds the permission only for certain names."""
        return "*" not in self.scopes.get(permission, ())

    def covers(self, permission: str, resource: str) -> bool:
        """Whether the caller may do something to a name; see `require`."""
        return any(covers(scope, resource) for scope in self.scopes.get(permission, ()))

    def require(self, permission: str, resource: str | None = None) -> None:
        """Checks that the caller may do something.

        Args:
            permission: One of `PERMISSIONS`.
            resource: The name that it is to be done to, exact or a prefix ending in "*"; None
                checks only that the permission is held at all.

        Raises:
            PermissionDeniedError: It may not.
        """
        scopes = self.scopes.get(permission)
        if scopes is None:
            raise PermissionDeniedError(
                "PERMISSION_DENIED",
                f"the token of {self.subject!r} lacks the permission {permission}",
                metadata={"permission": permission},
            )
        # Most hold it for everything, and are asked with every call.
        if resource is not None and "*" not in scopes and not self.covers(permission, resource):
            raise PermissionDeniedError(
                "PERMISSION_DENIED",
                f"the token of {self.subject!r} holds {permission} only for "
                f"{_shown(scopes)}, not for {resource!r}",
                metadata={"permission": permission, "resource": resource},
            )


def _shown(scopes: tuple[str, ...]) -> str:
    """The first scopes. A token may hold hundreds, and each event of a batch is told why."""
    text, rest = ", ".join(scopes[:MAX_SHOWN]), len(scopes) - MAX_SHOWN
    if len(text) > MAX_SHOWN_LENGTH:
        text = text[:MAX_SHOWN_LENGTH] + "…"
    return f"{text} and {rest} more" if rest > 0 else text


ANONYMOUS = Principal("", PERMISSIONS)
"""The caller where no key is configured: nobody in particular, and may do everything."""
HUB = Principal("", PERMISSIONS)
"""The hub itself, which alone publishes events of its own."""

"""Who may do what."""

import pytest

from switchboard_server.core.errors import PermissionDeniedError
from switchboard_server.core.principal import ANONYMOUS, PERMISSIONS, Principal


def test_nobody_in_particular_may_do_everything() -> None:
    for permission in PERMISSIONS:
        assert ANONYMOUS.may(permission)
        assert not ANONYMOUS.scoped(permission)
        ANONYMOUS.require(permission, "whatever.*")
    assert ANONYMOUS.subject == ""
    assert ANONYMOUS.expires_at is None


@pytest.mark.parametrize(
    ("scopes", "resource", "allowed"),
    [
        (["order.*"], "order.created", True),
        (["order.*"], "order.", True),
        (["order.*"], "order.*", True),
        (["order.*"], "order.created.*", True),
        (["order.*"], "order", False),
        (["order.*"], "ord*", False),
        (["order.*"], "*", False),
        (["order.created"], "order.created", True),
        (["order.created"], "order.created.*", False),
        (["order.created"], "order.*", False),
        (["order.*", "user.login"], "user.login", True),
        (["order.*", "user.login"], "user.logout", False),
        (["*"], "anything.*", True),
    ],
)
def test_a_scope_covers_what_lies_within_it(
    scopes: list[str], resource: str, allowed: bool
) -> None:
    principal = Principal("shop", [f"events.publish:{scope}" for scope in scopes])
    if allowed:
        principal.require("events.publish", resource)
        return
    with pytest.raises(PermissionDeniedError) as caught:
        principal.require("events.publish", resource)
    assert caught.value.reason == "PERMISSION_DENIED"
    assert caught.value.metadata == {"permission": "events.publish", "resource": resource}


def test_a_permission_that_is_not_held_is_named_in_the_error() -> None:
    principal = Principal("shop", ["events.view", "made.up"])
    assert not principal.may("events.publish")
    assert principal.scoped("events.publish")
    with pytest.raises(PermissionDeniedError, match=r"'shop' lacks the permission events\.publish"):
        principal.require("events.publish")
    with pytest.raises(PermissionDeniedError) as caught:
        principal.require("events.publish", "order.created")
    assert caught.value.metadata == {"permission": "events.publish"}


@pytest.mark.parametrize(
    ("scopes", "shown"),
    [
        (["a", "b.*"], "only for a, b.*, not for"),
        ([f"team-{number}.*" for number in range(500)], "team-3.*, team-4.* and 495 more, not for"),
        (["x" * 10_000], f"only for {'x' * 100}…, not for"),
    ],
)
def test_an_error_stays_short_however_many_scopes_there_are(scopes: list[str], shown: str) -> None:
    principal = Principal("shop", [f"events.publish:{scope}" for scope in scopes])
    with pytest.raises(PermissionDeniedError) as caught:
        principal.require("events.publish", "order.created")
    assert shown in caught.value.message
    assert len(caught.value.message) < 250


def test_a_permission_held_with_and_without_scope_has_no_bounds() -> None:
    principal = Principal("shop", ["events.view:order.*", "events.view"])
    assert not principal.scoped("events.view")
    principal.require("events.view", "user.login")


def test_an_empty_scope_gives_nothing() -> None:
    assert not Principal("shop", ["events.view:"]).may("events.view")


def test_without_a_resource_any_scope_will_do() -> None:
    principal = Principal("shop", ["events.view:order.*"])
    assert principal.scoped("events.view")
    principal.require("events.view")


def test_permissions_cannot_be_added_later() -> None:
    scopes = Principal("shop", ["events.view"]).scopes
    with pytest.raises(TypeError):
        scopes["events.publish"] = ("*",)  # type: ignore[index]


def test_a_caller_without_a_name_goes_by_its_users() -> None:
    named = ANONYMOUS.named("ann")
    assert named.subject == "ann"
    assert named.scopes == ANONYMOUS.scopes
    assert ANONYMOUS.named("") is ANONYMOUS
    assert named.named("bob") is named

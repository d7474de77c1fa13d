"""What the request that opens a WebSocket says."""

import pytest
from websockets.datastructures import Headers

from switchboard_server.bridge.handshake import (
    Opening,
    host_allowed,
    is_websocket_path,
    listed_origin,
    origin_allowed,
    read,
)
from switchboard_server.core.errors import InvalidArgumentError


@pytest.mark.parametrize(
    ("target", "opening"),
    [
        ("/ws", Opening("", "", None)),
        ("/ws/", Opening("", "", None)),
        ("/ws/client123", Opening("client123", "", None)),
        ("/ws/a%2Fb%20%C3%A9?user=ann", Opening("a/b é", "ann", None)),
        ("/ws/x?token=abc&user=b%26c&more=1", Opening("x", "b&c", "abc")),
        ("/ws/x?token=", Opening("x", "", None)),
    ],
)
def test_path_and_query_name_the_connection_its_user_and_the_token(
    target: str, opening: Opening
) -> None:
    assert read(target, Headers()) == opening


@pytest.mark.parametrize("target", ["/ws/a/b", "/ws/%ff", "/ws/x?user=%ff"])
def test_what_is_no_name_is_refused(target: str) -> None:
    with pytest.raises(InvalidArgumentError):
        read(target, Headers())


def test_a_query_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="Max number"):
        read("/ws/x?" + "a=1&" * 100, Headers())


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ([("Sec-WebSocket-Protocol", "bearer, abc")], "abc"),
        ([("Sec-WebSocket-Protocol", "chat,bearer,abc")], "abc"),
        ([("Sec-WebSocket-Protocol", "bearer"), ("Sec-WebSocket-Protocol", "abc")], "abc"),
        ([("Sec-WebSocket-Protocol", "bearer")], "query"),
        ([("Sec-WebSocket-Protocol", "abc")], "query"),
        ([("Authorization", "Bearer abc")], "abc"),
        ([("Authorization", "bearer  abc ")], "abc"),
        ([("Authorization", "Basic abc")], "query"),
        ([("Authorization", "Bearer no"), ("Sec-WebSocket-Protocol", "bearer, abc")], "abc"),
    ],
)
def test_a_token_is_looked_for_in_the_subprotocols_then_the_header_then_the_query(
    headers: list[tuple[str, str]], token: str
) -> None:
    assert read("/ws/x?token=query", Headers(headers)).token == token


@pytest.mark.parametrize(
    ("path", "serves"),
    [("/ws", True), ("/ws/", True), ("/ws/x", True), ("/wsx", False), ("/", False)],
)
def test_websockets_have_a_path_of_their_own(path: str, serves: bool) -> None:
    assert is_websocket_path(path) is serves


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "hub.example"),
        ("http://hub.example", "hub.example"),
        ("http://HUB.example", "hub.Example:80"),
        ("https://hub.example", "hub.example"),
        ("https://hub.example", "hub.example:443"),
        ("http://127.0.0.1:8008", "127.0.0.1:8008"),
        ("http://[::1]:8008", "[::1]:8008"),
        ("https://app.example", "hub.example"),
        ("null", "hub.example"),
    ],
)
def test_pages_of_the_same_host_and_those_listed_may_connect(origin: str | None, host: str) -> None:
    headers = Headers([("Host", host)] + ([("Origin", origin)] if origin else []))
    assert origin_allowed(headers, {"https://app.example", "null"})


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", "hub.example"),
        ("http://hub.example.evil.example", "hub.example"),
        ("http://hub.example:8009", "hub.example:8008"),
        ("http://hub.example", "hub.example:8008"),
        ("https://hub.example", "hub.example:80"),
        ("http://hub.example@evil.example", "hub.example"),
        ("null", "hub.example"),
        ("", "hub.example"),
        ("file://", "hub.example"),
        ("http://[", "hub.example"),
        ("http://x:99999", "x:99999"),
    ],
)
def test_other_pages_may_not(origin: str, host: str) -> None:
    assert not origin_allowed(Headers([("Host", host), ("Origin", origin)]), ())


def test_a_star_lets_every_page_in() -> None:
    headers = Headers([("Host", "hub.example"), ("Origin", "http://evil.example")])
    assert origin_allowed(headers, {"*"})


def test_two_origins_are_none() -> None:
    same = ("Origin", "http://hub.example")
    assert not origin_allowed(Headers([("Host", "hub.example"), same, same]), ())


@pytest.mark.parametrize(
    "host",
    [
        None,
        "localhost",
        "LocalHost:8008",
        "127.0.0.1:8008",
        "127.9.9.9",
        "[::1]:8008",
        "192.0.2.7:8008",
        "hub.example:8008",
    ],
)
def test_localhost_addresses_and_the_hosts_of_listed_origins_are_names_of_the_hub(
    host: str | None,
) -> None:
    headers = Headers([("Host", host)] if host else [])
    assert host_allowed(headers, {"null", "http://hub.example:8008"})


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8008",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "hub.example:8009",
        "0x7f.1",
        "[",
        "",
    ],
)
def test_other_names_are_not(host: str) -> None:
    headers = Headers([("Host", host)])
    assert not host_allowed(headers, {"null", "http://hub.example:8008"})
    assert host_allowed(headers, {"*"})


def test_two_hosts_are_none() -> None:
    assert not host_allowed(Headers([("Host", "localhost"), ("Host", "localhost")]), ())


def test_a_page_of_the_same_host_is_one_by_the_names_of_the_hub_only() -> None:
    own = Headers([("Host", "127.0.0.1:8008"), ("Origin", "http://127.0.0.1:8008")])
    rebound = Headers([("Host", "evil.example:8008"), ("Origin", "http://evil.example:8008")])
    listed = {"http://app.example"}
    foreign = Headers([("Host", "hub.example"), ("Origin", "http://app.example")])
    assert origin_allowed(own, (), any_host=False)
    assert origin_allowed(rebound, ())
    assert not origin_allowed(rebound, listed, any_host=False)
    assert origin_allowed(foreign, listed, any_host=False)


APP = "https://app.example.com"


@pytest.mark.parametrize(
    ("given", "allowed", "listed"),
    [
        ([APP], (APP,), APP),
        (["https://APP.example.com"], (APP,), "https://APP.example.com"),
        ([APP], ("*",), APP),
        # The hub's own pages need no leave to read what it serves.
        (["http://hub.example.com"], (APP,), None),
        (["null"], (APP,), None),
        ([APP, APP], (APP,), None),
        ([], ("*",), None),
    ],
)
def test_an_origin_is_named_where_it_is_listed(
    given: list[str], allowed: tuple[str, ...], listed: str | None
) -> None:
    headers = Headers([("Host", "hub.example.com"), *(("Origin", each) for each in given)])
    assert listed_origin(headers, allowed) == listed

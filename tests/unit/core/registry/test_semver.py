"""Versions and ranges mean what they do in npm's node-semver."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.core.registry.semver import in_range, parse_range, parse_version

ORDERED = [
    "0.0.0-0",
    "0.0.0",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.9.0",
    "1.10.0",
    "2.0.0",
]


def test_versions_are_ordered_by_precedence() -> None:
    versions = [parse_version(text) for text in ORDERED]
    assert None not in versions
    assert sorted(versions) == versions  # type: ignore[type-var]


def test_build_metadata_do_not_matter() -> None:
    assert parse_version("1.0.0+a.b") == parse_version("1.0.0+c")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.2",
        "01.2.3",
        "1.2.3.4",
        "1.2.3-",
        "1.2.3-01",
        "v1.2.3",
        "1.2.3+",
        "\u0661.2.3",  # A digit, though not of ASCII.
        "1.2.x",
        "1.2." + "3" * 300,
        "1.2.3\n",
    ],
)
def test_what_is_no_version_is_told(text: str) -> None:
    assert parse_version(text) is None


@pytest.mark.parametrize(
    ("wanted", "inside", "outside"),
    [
        ("1.2.3", "1.2.3", "1.2.4 1.2.3-rc.1"),
        ("=1.2.3", "1.2.3+build", "1.2.2"),
        ("v1.2.3", "1.2.3", "1.2.4"),
        (">1.2.3", "1.2.4 2.0.0", "1.2.3 1.3.0-rc"),
        (">=1.2.3", "1.2.3", "1.2.2"),
        ("< 1.2.3", "1.2.2 0.0.0", "1.2.3 1.2.3-rc"),
        ("<=1.2.3", "1.2.3", "1.2.4"),
        ("^1.2.3", "1.2.3 1.9.9", "2.0.0 1.2.2 2.0.0-0"),
        ("^0.2.3", "0.2.3 0.2.9", "0.3.0 0.2.2"),
        ("^0.0.3", "0.0.3", "0.0.4 0.0.2"),
        ("^1.2", "1.2.0 1.9.9", "2.0.0 1.1.9"),
        ("^0.0", "0.0.0 0.0.9", "0.1.0"),
        ("^0", "0.9.9", "1.0.0"),
        ("^1.x", "1.0.0 1.9.9", "2.0.0 0.9.9"),
        ("^1.2.3-beta.2", "1.2.3-beta.2 1.2.3-beta.4 1.2.3 1.3.0", "1.2.4-beta.2 1.2.3-beta.1"),
        ("~1.2.3", "1.2.3 1.2.9", "1.3.0"),
        ("~1.2", "1.2.0 1.2.9", "1.3.0"),
        ("~1", "1.0.0 1.9.9", "2.0.0"),
        ("1.2.x", "1.2.0 1.2.9", "1.3.0 1.3.0-0"),
        ("1.X", "1.0.0 1.9.9", "2.0.0 0.9.9"),
        ("2", "2.0.0 2.9.9", "3.0.0 1.9.9"),
        ("*", "0.0.0 9.9.9", "1.0.0-rc"),
        ("", "1.0.0", "1.0.0-rc"),
        (">1.2", "1.3.0", "1.2.9"),
        (">1", "2.0.0", "1.9.9"),
        (">=1.2", "1.2.0", "1.1.9"),
        ("<1.2", "1.1.9", "1.2.0 1.2.0-0"),
        ("<=1.2", "1.2.9", "1.3.0"),
        ("<=*", "1.0.0", "1.0.0-rc"),
        (">*", "", "0.0.0 1.0.0"),
        ("<*", "", "0.0.0 1.0.0"),
        (">=1.2.0 <2.0.0 || 3.x", "1.2.0 1.9.9 3.1.0", "2.0.0 1.1.0 4.0.0"),
        (">=1.0.0-rc.1 <2.0.0", "1.0.0-rc.2 1.0.0", "1.1.0-rc.1"),
    ],
)
def test_a_range_holds_what_it_does_in_node_semver(wanted: str, inside: str, outside: str) -> None:
    parsed = parse_range(wanted)
    assert parsed is not None
    for text, expected in [(each, True) for each in inside.split()] + [
        (each, False) for each in outside.split()
    ]:
        version = parse_version(text)
        assert version is not None
        assert in_range(version, parsed) is expected, (wanted, text)


@pytest.mark.parametrize(
    "text", ["one", "1.2.3.4", "^", ">=", "1.2.3 - 2.0.0", "=>1", "1..2", "||x y"]
)
def test_what_is_no_range_is_told(text: str) -> None:
    assert parse_range(text) is None


@given(st.text(max_size=255))
def test_no_text_breaks_the_parsers(text: str) -> None:
    parse_range(text)
    parse_version(text)

"""Versions by SemVer 2.0.0, and ranges of them as npm's node-semver reads them.

https://semver.org/spec/v2.0.0.html, https://github.com/npm/node-semver#ranges
"""

import re
from collections.abc import Callable
from functools import lru_cache
from operator import eq, ge, gt, le, lt
from typing import NamedTuple

MAX_VERSION = 255
"""Longest version, in characters."""
MAX_RANGE = 255
"""Longest range, in characters."""

_IDENTIFIER = r"(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
_PRERELEASE = rf"(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?"
_BUILD = r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
_NUMBER = r"(0|[1-9][0-9]*)"
_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}{_PRERELEASE}{_BUILD}")
_PART = r"(0|[1-9][0-9]*|[xX*])"
_COMPARATOR = re.compile(
    rf"(<=|>=|[<>=^~])?\s*v?{_PART}(?:\.{_PART}(?:\.{_PART}{_PRERELEASE}{_BUILD})?)?(?:\s+|$)"
)


class Version(NamedTuple):
    """A version, to be compared by precedence; build metadata is left out.

    Args:
        numbers: Major, minor, patch.
        release: 1 for a release, 0 for a pre-release, which comes before it.
        pre: The identifiers of the pre-release: numbers before words, and by their kind.
    """

    numbers: tuple[int, int, int]
    release: int = 1
    pre: tuple[tuple[int, int, str], ...] = ()


class Comparator(NamedTuple):
    """One condition on a version."""

    holds: Callable[[Version, Version], bool]
    bound: Version


Range = tuple[tuple[Comparator, ...], ...]
"""Alternatives, each of comparators that must all hold."""


@lru_cache(maxsize=4096)
def parse_version(text: str) -> Version | None:
    """Reads a version.

    Args:
        text: Such as "1.4.2-rc.1".

    Returns:
        The version; None where the text is none.
    """
    found = _VERSION.fullmatch(text) if len(text) <= MAX_VERSION else None
    if found is None:
        return None
    major, minor, patch, pre = found.groups()
    return _version(int(major), int(minor), int(patch), pre)


@lru_cache(maxsize=1024)
def parse_range(text: str) -> Range | None:
    """Reads a range.

    Args:
        text: Such as "^1.4" or ">=1.2.0 <2.0.0 || 3.x"; at most `MAX_RANGE` characters.

    Returns:
        The range; None where the text is none.
    """
    alternatives = []
    for alternative in text.split("||"):
        comparators = _alternative(alternative.strip())
        if comparators is None:
            return None
        alternatives.append(comparators)
    return tuple(alternatives)


def in_range(version: Version, wanted: Range) -> bool:
    """Whether a version lies in a range.

    A pre-release does only where a comparator names a pre-release of the same three numbers: who
    asks for ">=1.0.0" has not asked for everybody's experiments.
    """
    return any(
        all(each.holds(version, each.bound) for each in comparators)
        and (version.release or any(_names(each.bound, version) for each in comparators))
        for comparators in wanted
    )


def _names(bound: Version, version: Version) -> bool:
    return not bound.release and bound.numbers == version.numbers


def _version(major: int, minor: int, patch: int, pre: str | None = None) -> Version:
    if pre is None:
        return Version((major, minor, patch))
    identifiers = tuple(
        (0, int(each), "") if each.isdigit() else (1, 0, each) for each in pre.split(".")
    )
    return Version((major, minor, patch), 0, identifiers)


def _alternative(text: str) -> tuple[Comparator, ...] | None:
    comparators: list[Comparator] = []
    at = 0
    while at < len(text):
        found = _COMPARATOR.match(text, at)
        if found is None:
            return None
        operator, *parts, pre = found.groups()
        numbers: list[int] = []
        for part in parts:
            if part is None or not part.isdigit():
                break
            numbers.append(int(part))
        comparators += _comparators(operator or "=", numbers, pre)
        at = found.end()
    return tuple(comparators)


def _comparators(operator: str, numbers: list[int], pre: str | None) -> list[Comparator]:
    """What a comparator means, where parts of its version may be left open."""
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    low = _version(major, minor, patch, pre if len(numbers) == 3 else None)
    if operator == "^":
        return _between(low, _caret_end(numbers))
    if operator == "~":
        return _between(low, _after(numbers[:2]))
    if len(numbers) == 3:
        return [Comparator({"=": eq, "<": lt, "<=": le, ">": gt, ">=": ge}[operator], low)]
    end = _after(numbers)
    if operator == "=":
        return _between(low, end)
    if operator == ">=":
        return [Comparator(ge, low)]
    if operator == "<":
        return [Comparator(lt, _first(low.numbers))]
    if operator == ">":
        # After everything there is nothing.
        return [Comparator(ge, Version(end)) if end else Comparator(lt, _first((0, 0, 0)))]
    return [Comparator(lt, _first(end))] if end else []


def _between(low: Version, end: tuple[int, int, int] | None) -> list[Comparator]:
    return [Comparator(ge, low), *([Comparator(lt, _first(end))] if end else [])]


def _first(numbers: tuple[int, int, int]) -> Version:
    """What stands before every pre-release of a version."""
    return Version(numbers, 0, ((0, 0, ""),))


def _after(numbers: list[int]) -> tuple[int, int, int] | None:
    """The first version whose leading numbers are higher; None: all are alike."""
    if not numbers:
        return None
    raised = [*numbers[:-1], numbers[-1] + 1, 0, 0]
    return (raised[0], raised[1], raised[2])


def _caret_end(numbers: list[int]) -> tuple[int, int, int] | None:
    """The first version that changes the leftmost number that is not 0."""
    for index, number in enumerate(numbers):
        if number:
            return _after(numbers[: index + 1])
    return _after(numbers)

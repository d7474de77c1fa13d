"""What protobuf says of JSON that is no such message, told by field and remedy.

`json_format` gives its reasons as text only. What is not recognised here, because another version
words it otherwise, is passed on as it is.
"""

import re

from google.protobuf import descriptor_pool

from switchboard_server.core.errors import InvalidArgumentError, Violation

_LONGEST, _LONGEST_NAME = 300, 80
_FIELD = re.compile(r"Failed to parse (\w+) field: ")
_UNKNOWN = re.compile(r'.* has no field named "(.*)" at ".*"')
_KNOWN = re.compile(r"'(\w+)'")
_PLACE = re.compile(r"\.? at \"?\w+((?:\.\w+)*)\"?$")
_BETTER = (
    (re.compile(r"expected string or bytes-like object, got .*"), "must be a string"),
    (re.compile(r"\w+ JSON value not a string: .*"), "must be a string"),
    (re.compile(r"\w+ must be in a dict which is .*"), "must be an object"),
    (re.compile(r"repeated field \w+ must be in \[\] .*"), "must be a list"),
    (re.compile(r"Expected true or false without quotes"), "must be true or false"),
    (re.compile(r"(invalid literal for int|Couldn't parse integer).*"), "must be a whole number"),
    (re.compile(r"Value out of range: (.*)"), r"\1 is out of range"),
)
_NO_VALUE = re.compile(r"Invalid enum value (.*) for enum type (.*)")


def malformed(text: str) -> InvalidArgumentError:
    """Makes the error for JSON that could not be parsed.

    Args:
        text: What `json_format.ParseError` says.
    """
    first, _, rest = text.partition("\n")
    path = []
    while found := _FIELD.match(first):
        path.append(found[1])
        first = first[found.end() :]
    first = first.rstrip(".")
    if unknown := _UNKNOWN.fullmatch(first):
        path.append(_shortened(unknown[1], _LONGEST_NAME))
        known = ", ".join(map(_as_in_the_proto, _KNOWN.findall(rest)))
        return _violation(path, f"there is no such field; there are {known}")
    description = first
    if place := _PLACE.search(first):
        path = path or [part for part in place[1].split(".") if part]
        description = first[: place.start()]
    for pattern, better in _BETTER:
        description = pattern.sub(better, description)
    description = _NO_VALUE.sub(_no_value, description)
    return _violation(path, _shortened(description))


def _violation(path: list[str], description: str) -> InvalidArgumentError:
    field = ".".join(path)
    message = f"{field}: {description}" if field else description
    violations = [Violation(field, description)] if field else []
    return InvalidArgumentError("MALFORMED_REQUEST", message, violations=violations)


def _no_value(found: re.Match[str]) -> str:
    """Tells what an enum has, where it is known: its first value stands for none being given."""
    try:
        enum = descriptor_pool.Default().FindEnumTypeByName(found[2])
    except KeyError:
        return f"{found[1]} is no {found[2]}"
    names = ", ".join(each.name for each in enum.values if each.number)
    return f"{found[1]} is no {enum.name}; there are {names}"


def _as_in_the_proto(name: str) -> str:
    return re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name)


def _shortened(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else text[:longest] + "…"

"""Reads the settings from the environment and from `.env`, and names everything that is wrong.

The settings themselves are in `switchboard_server.config_sections`.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from switchboard_server.config_checks import check_settings
from switchboard_server.config_sections import (
    AuthSettings,
    ClusterSettings,
    LimitSettings,
    LoggingSettings,
    RealtimeSettings,
    RegistrySettings,
    Section,
    ServerSettings,
    Settings,
    StorageSettings,
    TlsSettings,
    WebSocketSettings,
)
from switchboard_server.config_values import Allowed

__all__ = [
    "RESERVED",
    "AuthSettings",
    "ClusterSettings",
    "LimitSettings",
    "LoggingSettings",
    "Problem",
    "RealtimeSettings",
    "RegistrySettings",
    "ServerSettings",
    "SettingRow",
    "Settings",
    "SettingsError",
    "StorageSettings",
    "TlsSettings",
    "WebSocketSettings",
    "load_settings",
    "setting_rows",
]

RESERVED = ("GATEWAY_URL", "SERVICE_DISCOVERY_URL")
"""Names that a `.env` may hold though nothing is done with them."""

_ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "embedded": (
        "MESSAGE_BATCH_SIZE",
        "MESSAGE_QUEUE_EXCHANGE",
        "MESSAGE_TIMEOUT",
        "RABBITMQ_URL",
        "REDIS_URL",
    ),
    "cluster": ("SWITCHBOARD_DATA_DIR", "SWITCHBOARD_LOG"),
}
"""By backend, the settings that mean something to the other one only."""

# Kubernetes puts the address of every service into the environment of every container, so one that
# is called "switchboard" or "switchboard-grpc" looks like settings of ours:
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_KUBERNETES = re.compile(
    r"SWITCHBOARD(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)

_PREFIX = "SWITCHBOARD_"
_LONGEST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """One setting that is not allowed."""

    key: str
    """Its name, or the name of the file that cannot be read."""

    text: str
    """What is wrong, and what is allowed."""

    value: str | None = None
    """What it is set to. None for a secret, for what may be one, and where nothing is set."""

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.key}: {self.text}"
        value = self.value
        if len(value) > _LONGEST_SHOWN:
            value = value[:_LONGEST_SHOWN] + "…"
        return f"{self.key}={value!r}: {self.text}"


class SettingsError(Exception):
    """The settings are not allowed.

    Args:
        problems: Everything that is wrong with them.
    """

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class SettingRow(NamedTuple):
    """A setting as `--help` and the README list it."""

    section: str
    name: str
    default: str
    allowed: str
    help: str


def load_settings(
    env: Mapping[str, str] | None = None, env_file: str | os.PathLike[str] | None = ".env"
) -> Settings:
    """Reads the settings.

    A name in the environment goes before the same name in the file, and an empty value counts as
    none.

    Args:
        env: The environment; None: that of this process.
        env_file: A file of NAME=value lines, which need not exist; None: no file.

    Returns:
        The settings, all of them checked.

    Raises:
        SettingsError: Names everything that is wrong: bad values, unknown names, files that cannot
            be used, settings that do not fit together.
    """
    environment = os.environ if env is None else env
    problems: list[Problem] = []
    in_file = {} if env_file is None else _read_env_file(Path(env_file), problems)
    problems += _unknown_names(environment, in_file)
    values = {
        name: value
        for source in (in_file, environment)
        for name, value in source.items()
        if value and (name in _FIELDS or name in RESERVED)
    }
    bad = [_value_problem(name, values[name]) for name in _invalid_names(values)]
    problems += bad
    skip = {problem.key for problem in bad}
    settings = _build({name: value for name, value in values.items() if name not in skip})
    for name, text in check_settings(settings, skip):
        problems.append(Problem(name, text, _shown(name, values.get(name))))
    if problems:
        raise SettingsError(tuple(problems))
    return settings


def setting_rows() -> Iterator[SettingRow]:
    """Lists all settings, section by section, for `--help` and the README."""
    for name, (section, field) in _FIELDS.items():
        text = " ".join((field.description or "").split())
        yield SettingRow(section.title, name, _default(field.default), _allowed(field), text)


def _sections() -> Iterator[tuple[str, type[Section]]]:
    for attribute, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield attribute, field.annotation


_FIELDS: dict[str, tuple[type[Section], FieldInfo]] = {
    field.alias: (section, field)
    for _, section in _sections()
    for field in section.model_fields.values()
    if field.alias is not None
}


def _build(values: Mapping[str, str]) -> Settings:
    nested: dict[str, Any] = {
        attribute: {
            name: value for name, value in values.items() if _FIELDS.get(name, [None])[0] is section
        }
        for attribute, section in _sections()
    }
    settings = Settings(**nested)
    idle = (*RESERVED, *_ELSEWHERE[settings.storage.backend])
    return settings.model_copy(update={"ignored": tuple(each for each in idle if each in values)})


def _invalid_names(values: Mapping[str, str]) -> list[str]:
    try:
        _build(values)
    except ValidationError as error:
        return [str(each["loc"][1]) for each in error.errors(include_input=False)]
    return []


def _value_problem(name: str, value: str) -> Problem:
    return Problem(name, f"must be {_allowed(_FIELDS[name][1])}", _shown(name, value))


def _shown(name: str, value: str | None) -> str | None:
    return None if SecretStr in get_args(_FIELDS[name][1].annotation) else value


def _read_env_file(file: Path, problems: list[Problem]) -> dict[str, str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except OSError as error:
        problems.append(Problem(str(file), f"cannot be read: {error.strerror}"))
        return {}
    except UnicodeDecodeError:
        problems.append(Problem(str(file), "is not UTF-8 text"))
        return {}
    good = []
    for binding in parse_stream(StringIO(text)):
        # The line itself is not shown, for it may hold a secret.
        if binding.error or (binding.key and binding.value is None):
            line = binding.original.line
            problems.append(Problem(str(file), f"line {line} is not of the form NAME=value"))
        else:
            good.append(binding.original.string)
    values = dotenv_values(stream=StringIO("".join(good)))
    return {name: value for name, value in values.items() if value is not None}


def _unknown_names(environment: Mapping[str, str], in_file: Mapping[str, str]) -> Iterator[Problem]:
    """Finds names that are no setting.

    The file is ours, so every name in it should be; the environment is shared, and only names with
    our prefix can be judged there.
    """
    known = {*_FIELDS, *RESERVED}
    for name in in_file:
        if name not in known:
            yield Problem(name, f"in the file is no setting; {_suggestion(name)}")
    for name in environment:
        if (
            name.upper().startswith(_PREFIX)
            and name not in known
            and name not in in_file
            and not ("KUBERNETES_SERVICE_HOST" in environment and _KUBERNETES.fullmatch(name))
        ):
            yield Problem(name, f"in the environment is no setting; {_suggestion(name)}")


def _suggestion(name: str) -> str:
    # Without the prefix, which not all settings have, and which makes all names alike.
    known = {each.removeprefix(_PREFIX): each for each in (*_FIELDS, *RESERVED)}
    close = difflib.get_close_matches(name.upper().removeprefix(_PREFIX), known, n=1)
    return f"did you mean {known[close[0]]}?" if close else "--help lists all settings"


def _allowed(field: FieldInfo) -> str:
    """Says in words what a setting takes."""
    for each in field.metadata:
        if isinstance(each, Allowed):
            return each.text
    kind: Any = field.annotation
    if type(None) in get_args(kind):
        kind = next(each for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if kind is bool:
        return "true or false"
    if kind in (int, float):
        return _allowed_number("a whole number" if kind is int else "a number", field.metadata)
    return "a path" if kind is Path else "text"


def _allowed_number(noun: str, metadata: list[Any]) -> str:
    least = next(each.ge for each in metadata if hasattr(each, "ge"))
    most = next((each.le for each in metadata if hasattr(each, "le")), None)
    return f"{noun} from {least} to {most}" if most is not None else f"{noun} of at least {least}"


def _default(value: object) -> str:
    if value is None or value == {}:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else str(value)

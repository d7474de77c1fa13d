"""Messages as the JSON form of protobuf, with field names as in the proto.

https://protobuf.dev/programming-guides/json/

Reading is left to protobuf's own `json_format`. Writing is not: that refuses a `Struct` with a NaN,
which a publisher can send and subscribers have to survive; it writes 41 as 41.0; and it takes twice
as long.
"""

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from switchboard_server.core.errors import invalid_field
from switchboard_server.wire.json_problems import malformed

M = TypeVar("M", bound=Message)

_MAX_EXACT = 2.0**53
"""Below it every whole number has a double of its own."""
_INT64 = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


def from_json(data: dict[str, Any], request: type[M]) -> M:
    """Reads a message.

    Args:
        data: Its JSON object. Names may be as in the proto or in camel case.
        request: Its type.

    Raises:
        InvalidArgumentError: The object is no such message; says which field is to blame.
    """
    message = request()
    _check_objects(data, request.DESCRIPTOR)
    try:
        json_format.ParseDict(data, message)
    except json_format.ParseError as error:
        raise malformed(str(error)) from error
    return message


def to_json(message: Message) -> dict[str, Any]:
    """Writes a message, leaving out fields that are not set.

    64-bit integers become strings, bytes base64, times and durations text, as the JSON form has
    them. Numbers of a `Struct` that are not finite become "NaN", "Infinity" and "-Infinity".
    """
    return {field.name: _field(field, value) for field, value in message.ListFields()}


def to_full_json(message: Message) -> dict[str, Any]:
    """Writes a message with all its fields but absent messages, so that readers need no defaults.

    Messages within it leave out what is not set.
    """
    fields: Sequence[Any] = message.DESCRIPTOR.fields
    return {
        field.name: _field(field, getattr(message, field.name))
        for field in fields
        if not field.has_presence or message.HasField(field.name)
    }


def struct_to_json(struct: Struct) -> dict[str, Any]:
    """Writes a JSON object that a message holds; see `to_json`."""
    return {name: _value(each) for name, each in struct.fields.items()}


def _check_objects(data: Mapping[str, Any], kind: Any) -> None:
    """Checks that objects stand where messages are: `ParseDict` takes "" and [] for empty ones."""
    for name, value in data.items():
        field = kind.fields_by_name.get(name) or kind.fields_by_camelcase_name.get(name)
        if field is None or field.message_type is None or value is None:
            continue
        inner = field.message_type
        if inner.file.package != kind.file.package or inner.GetOptions().map_entry:
            continue
        for each in value if field.is_repeated and isinstance(value, list) else [value]:
            if not isinstance(each, dict):
                raise invalid_field(name, "must be an object", reason="MALFORMED_REQUEST")
            _check_objects(each, inner)


def _field(field: FieldDescriptor, value: Any) -> Any:
    if not field.is_repeated:
        return _single(field, value)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        inner = kind.fields_by_name["value"]
        return {str(key): _single(inner, each) for key, each in value.items()}
    return [_single(field, each) for each in value]


def _single(field: FieldDescriptor, value: Any) -> Any:
    kind = field.cpp_type
    if field.message_type is not None:
        return _message(field.message_type.full_name, value)
    if kind in _INT64:
        return str(value)
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return value if named is None else named.name
    if kind == FieldDescriptor.CPPTYPE_DOUBLE:
        return _number(value)
    return b64encode(value).decode() if isinstance(value, bytes) else value


def _message(name: str, value: Any) -> Any:
    if name == "google.protobuf.Struct":
        return struct_to_json(value)
    if name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        return value.ToJsonString()
    return to_json(value)


def _value(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return _number(value.number_value)
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return struct_to_json(value.struct_value)
    if kind == "list_value":
        return [_value(each) for each in value.list_value.values]
    return None


def _number(number: float) -> int | float | str:
    if number.is_integer() and -_MAX_EXACT < number < _MAX_EXACT:
        return int(number)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"

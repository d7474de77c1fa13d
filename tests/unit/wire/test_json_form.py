"""Messages in the JSON form of protobuf."""

import math
from typing import Any

import orjson
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from switchboard.v1 import event_pb2, event_service_pb2, realtime_pb2, subscription_pb2
from switchboard_server.core.errors import InvalidArgumentError
from switchboard_server.wire.json_form import from_json, struct_to_json, to_full_json, to_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=4)


def full_event() -> event_pb2.Event:
    event = event_pb2.Event(
        id="1",
        type="order.created",
        source_service="shop",
        priority=event_pb2.PRIORITY_HIGH,
        attributes={"a": "1", "b": "é"},
        sequence=2**63,
    )
    event.publish_time.FromNanoseconds(1_700_000_000_123_456_789)
    event.ttl.FromMilliseconds(1500)
    event.data.update({"order": 1, "lines": [{"sku": "x"}, None, True, 1.5]})
    return event


@pytest.mark.parametrize(
    "message",
    [
        full_event(),
        event_pb2.Event(binary=b"\x00\xff"),
        subscription_pb2.SubscribeResponse(
            deliveries=[
                subscription_pb2.Delivery(event=full_event(), ack_id="x", attempt=2),
                subscription_pb2.Delivery(),
            ]
        ),
        subscription_pb2.SubscribeResponse(
            gap=subscription_pb2.SubscriptionGap(from_sequence=1, to_sequence=9)
        ),
        event_service_pb2.PublishResponse(id="x", duplicate=True),
        realtime_pb2.Room(name="r", connections=3, position=realtime_pb2.RoomPosition(offset=4)),
        event_pb2.Event(priority=77),  # type: ignore[arg-type]
        event_pb2.Event(data=Struct()),
    ],
)
def test_messages_are_written_as_protobuf_writes_them(message: Any) -> None:
    expected = json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert to_json(message) == expected
    assert from_json(orjson.loads(orjson.dumps(to_json(message))), type(message)) == message


@given(OBJECTS)
def test_json_objects_come_back_as_they_were(content: dict[str, Any]) -> None:
    event = from_json({"data": content}, event_pb2.Event)
    written = orjson.dumps(to_json(event).get("data", {}))
    assert orjson.loads(written) == content


def test_an_answer_has_all_its_fields_but_absent_messages() -> None:
    assert to_full_json(event_service_pb2.PublishResponse(id="x")) == {
        "id": "x",
        "sequence": "0",
        "duplicate": False,
        "scheduled": False,
    }
    page = event_service_pb2.ListEventsResponse(events=[event_pb2.Event(type="t")])
    assert to_full_json(page) == {"events": [{"type": "t"}], "next_page_token": ""}


def test_whole_numbers_stay_whole() -> None:
    struct = Struct()
    struct.update({"small": 41, "large": 2.0**60, "part": 0.5})
    assert orjson.dumps(struct_to_json(struct), option=orjson.OPT_SORT_KEYS) == (
        b'{"large":1.152921504606847e+18,"part":0.5,"small":41}'
    )


def test_what_json_cannot_say_becomes_text() -> None:
    struct = Struct()
    struct.update({"a": math.nan, "b": math.inf, "c": -math.inf})
    struct.fields["d"].CopyFrom(Value())
    assert struct_to_json(struct) == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": None}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"colour": 1}, "colour: there is no such field; there are id, type, source_service"),
        ({"type": 5}, "type"),
        ({"ttl": "soon"}, "ttl"),
        ({"publish_time": 5}, "publish_time"),
        ({"priority": "PRIORITY_HUGE"}, "priority"),
        ({"attributes": {"a": {}}}, "attributes"),
        ({"data": [1]}, "data"),
        ({"data": {"x": 1}, "text": "both"}, "oneof"),
        ({"binary": "not base64!"}, "binary"),
        ({"sequence": -1}, "sequence"),
        ({"x" * 5000: 1}, "…"),
    ],
)
def test_a_wrong_field_is_named(data: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says) as caught:
        from_json(data, event_pb2.Event)
    assert caught.value.reason == "MALFORMED_REQUEST"
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("data", "field", "description"),
    [
        ({"types": 5}, "types", "there is no such field; there are "),
        ({"group": 5}, "group", "must be a string"),
        ({"filter": {"types": "a"}}, "filter.types", "must be a list"),
        ({"filter": {"types": [1]}}, "filter.types", "must be a string"),
        ({"filter": {"kinds": []}}, "filter.kinds", "there is no such field; there are types, "),
        ({"filter": []}, "filter", "must be an object"),
        ({"max_in_flight": "x"}, "max_in_flight", "must be a whole number"),
        ({"max_in_flight": -1}, "max_in_flight", "-1 is out of range"),
        (
            {"mode": "NOPE"},
            "mode",
            "NOPE is no DeliveryMode; there are DELIVERY_MODE_FAN_OUT, DELIVERY_MODE_QUEUE, ",
        ),
        ({"heartbeat_interval": 1}, "heartbeat_interval", "must be a string"),
    ],
)
def test_the_violation_names_the_field_and_what_is_wrong(
    data: dict[str, Any], field: str, description: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        from_json(data, subscription_pb2.SubscribeRequest)
    (violation,) = caught.value.violations
    assert violation.field == field
    assert violation.description.startswith(description)
    assert caught.value.message == f"{field}: {violation.description}"


@pytest.mark.parametrize("value", ["", [], 0, False, [{}], "x"])
@pytest.mark.parametrize("name", ["retry_policy", "retryPolicy", "filter"])
def test_what_is_no_object_is_no_message(name: str, value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=name):
        from_json({name: value}, subscription_pb2.SubscribeRequest)


def test_what_is_no_object_is_no_message_in_a_list_either() -> None:
    wrong: list[list[object]] = [[""], [[]], [{}, None], [{}, "x"]]
    for value in wrong:
        with pytest.raises(InvalidArgumentError):
            from_json({"events": value}, event_service_pb2.PublishBatchRequest)
    assert len(from_json({"events": [{}, {}]}, event_service_pb2.PublishBatchRequest).events) == 2

"""Connections and rooms, to and from the messages of the API."""

import json
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from switchboard.v1.connect_pb2 import ConnectRequest, ConnectResponse
from switchboard_server.core.realtime.checks import content
from switchboard_server.core.realtime.items import Dropped, Item, Left
from switchboard_server.core.realtime.messages import Delivered, Message, Position
from switchboard_server.core.realtime.wishes import RoomJoin, Transport
from switchboard_server.wire.realtime_decode import decode_connect, decode_struct
from switchboard_server.wire.realtime_encode import (
    connect_responses,
    encode_message,
    heartbeat_response,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


def a_message(data: dict[str, Any], number: int = 1) -> Delivered:
    message = Message(
        number=number,
        message_id=f"id-{number}",
        message_type="chat",
        data=data,
        json=json.dumps(data).encode(),
        sender_client_id="tab",
        sender_user="ann",
        time_ns=1_500_000_000,
    )
    return Delivered(message, (Position("chat-1", "e", number), Position("lobby")))


@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_content_comes_out_as_it_went_in(data: dict[str, Any]) -> None:
    encoded = encode_message(a_message(data))
    assert decode_struct(encoded.data) == data


def test_whole_numbers_are_whole_and_what_is_none_is_null() -> None:
    struct = Struct(
        fields={
            "whole": Value(number_value=3.0),
            "large": Value(number_value=2.0**60),
            "half": Value(number_value=0.5),
            "unset": Value(),
        }
    )
    found = decode_struct(struct)
    assert found == {"whole": 3, "large": 2.0**60, "half": 0.5, "unset": None}
    assert type(found["whole"]) is int
    assert type(found["large"]) is float


def test_what_nests_as_deep_as_allowed_can_be_sent_and_read() -> None:
    data: dict[str, Any] = {}
    for _ in range(31):
        data = {"a": data}
    content(data, 1000)
    (response,) = connect_responses([a_message(data)])
    (message,) = ConnectResponse.FromString(response).messages
    assert decode_struct(message.data) == data


def test_messages_that_follow_each_other_are_one_response_between_the_words() -> None:
    items: list[Item] = [
        Dropped(3),
        a_message({"n": 1}, 1),
        a_message({"n": 2}, 2),
        Left("lobby", removed=True),
        a_message({}, 3),
    ]
    responses = [ConnectResponse.FromString(each) for each in connect_responses(items)]
    assert [MessageToDict(each, preserving_proto_field_name=True) for each in responses[::2]] == [
        {"dropped": {"count": "3"}},
        {"left": {"room": "lobby", "removed": True}},
    ]
    assert [[each.message_id for each in some.messages] for some in responses[1::2]] == [
        ["id-1", "id-2"],
        ["id-3"],
    ]
    assert responses[3].messages[0].HasField("data")


def test_a_message_has_all_that_the_proto_says() -> None:
    assert MessageToDict(
        encode_message(a_message({"a": [1]})), preserving_proto_field_name=True
    ) == {
        "message_id": "id-1",
        "message_type": "chat",
        "data": {"a": [1.0]},
        "rooms": [{"room": "chat-1", "epoch": "e", "offset": "1"}, {"room": "lobby"}],
        "sender_client_id": "tab",
        "sender_user": "ann",
        "send_time": "1970-01-01T00:00:01.500Z",
    }


def test_a_heartbeat_tells_the_time() -> None:
    response = ConnectResponse.FromString(heartbeat_response(2_000_000_000))
    assert response.heartbeat.send_time.seconds == 2


def test_a_wish_to_be_connected_is_read() -> None:
    request = ConnectRequest(client_id="tab", user="ann")
    request.rooms.add(room="a", presence_notices=True)
    request.rooms.add(room="b").recover_after.offset = 0
    wish = decode_connect(request, Transport.GRPC, "1.2.3.4:5")
    assert (wish.client_id, wish.user, wish.peer) == ("tab", "ann", "1.2.3.4:5")
    assert wish.rooms == (RoomJoin("a", None, True), RoomJoin("b", Position(""), False))

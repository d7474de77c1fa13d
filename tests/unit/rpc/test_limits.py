"""What a refused or huge request may cost is bounded."""

import pytest

from switchboard.v1 import event_service_pb2
from switchboard_server.core.errors import InvalidArgumentError
from switchboard_server.core.filters import Route
from switchboard_server.core.validation import _route_problem, route_problem
from switchboard_server.wire import decode
from switchboard_server.wire.decode import MAX_EVENTS, decode_events


def test_a_request_has_so_many_events_at_most() -> None:
    raw = b"\x0a\x00" * (MAX_EVENTS + 1)
    request = event_service_pb2.PublishBatchRequest
    with pytest.raises(InvalidArgumentError) as caught:
        decode_events(request, raw, "")
    assert caught.value.reason == "TOO_LARGE"
    assert caught.value.violations[0].field == "events"
    fewer = raw[2:]
    assert len(decode_events(request, fewer, "")[0]) == MAX_EVENTS


def test_names_that_are_too_long_are_not_remembered() -> None:
    known, remembered = _route_problem.cache_info().currsize, len(decode._remembered)
    assert route_problem(Route("x" * 256, "shop", "", 2)) is not None
    assert _route_problem.cache_info().currsize == known
    request = event_service_pb2.PublishBatchRequest()
    request.events.add(type="x" * 256, source_service="shop", id="1")
    decode_events(type(request), request.SerializeToString(), "")
    assert len(decode._remembered) == remembered

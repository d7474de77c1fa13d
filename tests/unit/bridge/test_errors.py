"""Every error has its code on the bridge, the same as over gRPC."""

from switchboard_server.bridge.errors import CLOSE_CODES, CODES, closing, code_of
from switchboard_server.core.errors import (
    AbortedError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from switchboard_server.rpc import errors as rpc
from switchboard_server.wire.incidents import as_switchboard_error


def test_errors_have_the_codes_that_they_have_over_grpc() -> None:
    assert {kind: code.name for kind, code in rpc.CODES.items()} == CODES
    defect = as_switchboard_error(RuntimeError("made for a test"), "frame")
    assert code_of(defect) == rpc.code_of(defect).name == "INTERNAL"


def test_an_error_that_a_backend_made_of_another_has_the_code_of_that_one() -> None:
    for kind, code in CODES.items():
        error = type("Narrower", (kind,), {})("INTERNAL", "made for a test")
        assert code_of(error) == rpc.code_of(error).name == code


def test_close_codes_say_whether_to_come_back() -> None:
    come_back = {reason for reason, code in CLOSE_CODES.items() if 4000 <= code < 4500}
    assert come_back == {
        *("SHUTTING_DOWN", "SLOW_CONSUMER", "TOKEN_EXPIRED", "INTERNAL", "LIMIT_REACHED"),
        *("ROOM_INTERRUPTED", "REALTIME_UNAVAILABLE"),
    }
    assert all(4000 <= code < 5000 for code in CLOSE_CODES.values())


def test_an_error_ends_a_connection_with_its_code_and_reason() -> None:
    assert closing(UnavailableError("SHUTTING_DOWN", "x")) == (4000, "SHUTTING_DOWN")
    assert closing(UnauthenticatedError("TOKEN_MISSING", "x")) == (4502, "TOKEN_MISSING")
    assert closing(NotFoundError("ROOM_NOT_FOUND", "x")) == (4005, "INTERNAL")


def test_who_is_disconnected_is_told_why_and_whether_to_come_back() -> None:
    def closed(**metadata: str) -> tuple[int, str]:
        return closing(AbortedError("CONNECTION_CLOSED", "x", metadata=metadata))

    assert closed(reason="", reconnect="false") == (4501, "CONNECTION_CLOSED")
    assert closed(reason="moving", reconnect="true") == (4003, "moving")
    assert closed(reason="é" * 100, reconnect="true") == (4003, "é" * 61)

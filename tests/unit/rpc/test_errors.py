"""Every error has its status, and every reason its place in the proto."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

import switchboard_server
from switchboard.v1 import errors_pb2
from switchboard_server.core import errors
from switchboard_server.core.errors import (
    ResourceExhaustedError,
    SwitchboardError,
    UnavailableError,
    Violation,
    invalid_field,
)
from switchboard_server.rpc.errors import (
    CODES,
    DOMAIN,
    code_of,
    status_details,
)
from switchboard_server.wire.encode import publish_error
from switchboard_server.wire.incidents import InternalError, as_switchboard_error

SERVER = Path(switchboard_server.__file__).parent
PROTO = SERVER.parents[1] / "protos/switchboard/v1/errors.proto"


def documented() -> dict[str, str]:
    """The status that the comment of each reason names."""
    found = re.findall(
        r"// ([A-Z_]+): [^\n]*\n(?:  //[^\n]*\n)*  ERROR_REASON_([A-Z_]+) = ", PROTO.read_text()
    )
    return {reason: code for code, reason in found}


def raised() -> Iterator[tuple[str, str, str]]:
    """Every error that the server makes with a reason: where, its class, and the reason."""
    classes = {each.__name__ for each in CODES} | {"InternalError"}
    for path in sorted(SERVER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).rpartition(".")[2]
            where = f"{path.relative_to(SERVER)}:{node.lineno}"
            first = node.args[0] if node.args else None
            if name in classes and isinstance(first, ast.Constant):
                yield where, name, str(first.value)
            if name == "invalid_field":
                reasons = [each.value for each in node.keywords if each.arg == "reason"]
                reason = reasons[0] if reasons else ast.Constant("INVALID_FIELD")
                assert isinstance(reason, ast.Constant), where
                yield where, "InvalidArgumentError", str(reason.value)


def test_every_error_of_the_core_has_a_status() -> None:
    kinds = {
        each
        for each in vars(errors).values()
        if isinstance(each, type)
        and issubclass(each, SwitchboardError)
        and each is not SwitchboardError
    }
    assert len(kinds) == 13
    assert set(CODES) == kinds
    assert len(set(CODES.values())) == len(CODES)


def test_every_reason_that_is_used_is_in_the_proto_with_the_status_it_is_raised_with() -> None:
    comments = documented()
    names = {name.removeprefix("ERROR_REASON_") for name in list(errors_pb2.ErrorReason.keys())}
    assert set(comments) == names - {"UNSPECIFIED"}
    codes = {kind.__name__: code.name for kind, code in CODES.items()} | {
        "InternalError": "INTERNAL"
    }
    used = list(raised())
    assert len({reason for _, _, reason in used}) > 15
    for where, kind, reason in used:
        assert comments.get(reason) == codes[kind], f"{where}: {kind}({reason!r})"


def test_an_error_is_told_in_full_in_the_trailers() -> None:
    error = invalid_field("event.type", "is required", reason="FIELD_MISSING")
    error.metadata["limit"] = "7"
    status = status_pb2.Status.FromString(status_details(error))
    assert (status.code, status.message) == (code_pb2.INVALID_ARGUMENT, "event.type: is required")
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "FIELD_MISSING",
        DOMAIN,
        {"limit": "7"},
    )
    assert [(each.field, each.description) for each in bad.field_violations] == [
        ("event.type", "is required")
    ]


def test_an_error_stays_within_what_a_client_takes_of_trailers() -> None:
    names = ["é" * 127, *("x" * 250 for _ in range(127))]
    error = errors.InvalidArgumentError(
        "INVALID_FIELD",
        f"rooms: {names}",
        violations=[Violation("rooms", name) for name in names],
        metadata={"theirs": str(names), "yours": str(names)},
    )
    encoded = status_details(error)
    assert len(encoded) < 3500
    status = status_pb2.Status.FromString(encoded)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    for told, whole in (
        (status.message, error.message),
        (info.metadata["theirs"], error.metadata["theirs"]),
    ):
        assert told.endswith("…")
        assert whole.startswith(told[:-1])
    assert [each.description for each in bad.field_violations] == names[:3]


@pytest.mark.parametrize(("kind", "code"), list(CODES.items()))
def test_every_status_is_the_same_in_both_places(
    kind: type[SwitchboardError], code: grpc.StatusCode
) -> None:
    error = kind("INTERNAL", "text")
    assert code_of(error) is code
    status = status_pb2.Status.FromString(status_details(error))
    assert code_pb2.Code.Name(status.code) == code.name
    assert len(status.details) == 1


def test_an_error_on_purpose_is_told_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    error = UnavailableError("LOG_UNAVAILABLE", "the disk is full")
    assert as_switchboard_error(error, "x") is error
    assert caplog.records == []


def test_a_defect_is_logged_and_its_particulars_are_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = as_switchboard_error(KeyError("secret"), "switchboard.v1.EventService/Publish")
    assert isinstance(told, InternalError)
    assert code_of(told) is grpc.StatusCode.INTERNAL
    assert "secret" not in str(told)
    assert told.metadata["incident"] in str(told)
    (record,) = caplog.records
    assert told.metadata["incident"] in record.getMessage()
    assert "EventService/Publish" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


def test_an_error_of_one_event_names_reason_and_field() -> None:
    error = publish_error(invalid_field("ttl", "is negative"))
    assert error.reason == errors_pb2.ERROR_REASON_INVALID_FIELD
    assert (error.field, error.message) == ("ttl", "ttl: is negative")
    error = publish_error(ResourceExhaustedError("OVERLOADED", "too much"))
    assert (error.reason, error.field) == (errors_pb2.ERROR_REASON_OVERLOADED, "")
    several = errors.InvalidArgumentError(
        "TOO_LARGE", "text", violations=[Violation("a", "b"), Violation("c", "d")]
    )
    assert publish_error(several).field == "a"

"""Outcomes of settling as bytes."""

from switchboard.v1.event_service_pb2 import AcknowledgeResponse, SettleOutcome, SettleResult
from switchboard_server.core.groups.entries import Outcome
from switchboard_server.wire.group_messages import outcomes


def test_outcomes_are_what_protobuf_makes_of_them() -> None:
    names = ["1-4-00c0ffee", "é" * 100, "x" * 20_000, "again"]
    found = list(Outcome)
    expected = AcknowledgeResponse(
        results=[
            SettleResult(ack_id=name, outcome=SettleOutcome.Value(f"SETTLE_OUTCOME_{each.name}"))
            for name, each in zip(names, found, strict=True)
        ]
    )
    assert AcknowledgeResponse.FromString(outcomes(names, found)) == expected

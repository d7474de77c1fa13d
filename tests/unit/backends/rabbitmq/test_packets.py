"""Messages between nodes as bytes; see backends/rabbitmq/packets.py."""

from dataclasses import dataclass

import pytest

from switchboard_server.backends.rabbitmq.packets import (
    Head,
    Kind,
    PacketError,
    decode,
    encode,
    pack,
    unpack,
)
from switchboard_server.backends.rabbitmq.waiting import UnroutableError
from switchboard_server.core import errors
from switchboard_server.core.errors import SwitchboardError, UnavailableError, Violation
from switchboard_server.core.failures import KINDS, Failure


@dataclass(frozen=True, slots=True)
class Sample:
    """A message."""

    text: str
    numbers: tuple[int, ...] = ()
    parts: dict[int, bytes] | None = None


def test_several_packets_travel_together_with_their_bytes() -> None:
    sample = Sample("ü", (1, 2**60), {3: b"\x00"})
    sent = b"".join(
        [
            *pack(Head(Kind.TELL, "Sample", 0, encode(sample)), b"first"),
            *pack(Head(Kind.REQUEST, "Sample", 2**40, encode(None), "seat", 7, 1.5)),
            *pack(Head(Kind.ANSWER, "", 1), [b"in ", memoryview(b"two"), b""]),
        ]
    )
    (first, body), (second, none), (third, both) = unpack(sent)
    assert (first.name, decode(first.message, Sample), bytes(body)) == ("Sample", sample, b"first")
    assert (second.number, second.seat, second.epoch, second.seconds) == (2**40, "seat", 7, 1.5)
    assert (decode(second.message, type(None)), bytes(none)) == (None, b"")
    assert (third.kind, bytes(both)) == (Kind.ANSWER, b"in two")


@pytest.mark.parametrize("cut", [1, 7, 9, 20])
def test_a_message_that_is_cut_off_yields_what_is_whole(cut: int) -> None:
    whole = b"".join(pack(Head(Kind.TELL, "Sample", 1, encode(Sample("a"))), b"body"))
    found = unpack(whole + whole[:-cut])
    head, body = next(found)
    assert (head.name, bytes(body)) == ("Sample", b"body")
    with pytest.raises(PacketError):
        next(found)


@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x00" * 8, b"\x00\x00\x00\x01\x00\x00\x00\x00a"])
def test_what_is_no_packet_is_refused(data: bytes) -> None:
    with pytest.raises(PacketError):
        list(unpack(data))


def test_another_message_than_was_expected_is_refused() -> None:
    with pytest.raises(PacketError, match="Sample"):
        decode(encode({"text": 5}), Sample)


def crossed(error: SwitchboardError) -> SwitchboardError:
    """An error as the other node has it."""
    return decode(encode(Failure.of(error)), Failure).error()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_error_crosses_as_what_it_is(kind: str) -> None:
    error: SwitchboardError = getattr(errors, kind)(
        "LOG_UNAVAILABLE", "why", violations=[Violation("a.b", "c")], metadata={"k": "v"}
    )
    made = crossed(error)
    assert type(made) is type(error)
    assert vars(made) == vars(error)
    assert str(made) == "why"


def test_an_error_of_the_backend_alone_crosses_as_the_one_it_is_a_kind_of() -> None:
    assert type(crossed(UnroutableError("LOG_UNAVAILABLE", "gone"))) is UnavailableError
    later = Failure("OfALaterVersion", "LOG_UNAVAILABLE", "gone", (), {})
    assert type(later.error()) is SwitchboardError

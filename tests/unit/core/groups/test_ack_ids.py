"""Names of deliveries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard_server.core.groups import ack_ids

NUMBERS = st.integers(0, (1 << 63) - 1)


@given(secret=st.integers(0, (1 << 32) - 1), sequence=NUMBERS, nonce=NUMBERS)
def test_a_name_is_read_as_it_was_made(secret: int, sequence: int, nonce: int) -> None:
    assert ack_ids.read(secret, ack_ids.make(secret, sequence, nonce)) == (sequence, nonce)


def test_the_name_of_another_group_is_unknown() -> None:
    assert ack_ids.read(2, ack_ids.make(1, 10, 20)) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1-2",
        "1-2-3-4",
        "x-2-00000000",
        "-1-2-00000000",
        "1-2-00000000",
        "8000000000000000-1-00000000",
        "1" * 43 + "-1-0",
        ack_ids.make(7, 10, 20).upper(),
        "0" + ack_ids.make(7, 10, 20),
        " " + ack_ids.make(7, 10, 20),
        ack_ids.make(7, 1 << 63, 20),
    ],
)
def test_what_nobody_gave_out_is_unknown(name: str) -> None:
    assert ack_ids.read(7, name) is None

"""What comes is cut into frames; some are taken on their way to the driver."""

import asyncio

from aiormq import spec
from pamqp.body import ContentBody
from pamqp.frame import marshal
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from switchboard_server.backends.rabbitmq.frames import FrameProtocol

FRAMES = [
    bytes(frame)
    for frame in (
        marshal(spec.Basic.Deliver("c", 1, exchange="", routing_key="q"), 1),
        marshal(ContentHeader(body_size=300), 1),
        marshal(spec.Channel.OpenOk(), 2),
        marshal(ContentBody(b"x" * 300), 1),
        marshal(Heartbeat(), 0),
        marshal(spec.Basic.Ack(1), 300),
        marshal(spec.Channel.CloseOk(), 1),
    )
]


class Taker:
    """Takes everything but the last frame."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    def take(self, data: bytes, start: int, end: int) -> bool:
        """See `FrameTaker`."""
        if data[start:end] == FRAMES[-1]:
            return False
        self.taken.append(data[start:end])
        return True


async def passed(parts: list[bytes]) -> tuple[list[bytes], list[bytes], bytes]:
    """What two channels take of the parts that come, and what the driver gets."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = FrameProtocol(reader, loop)
    one, many = Taker(), Taker()
    protocol.takers.update({1: one, 300: many})
    for part in parts:
        protocol.data_received(part)
    protocol.eof_received()
    return one.taken, many.taken, await reader.read()


async def test_frames_go_where_they_belong_however_they_come() -> None:
    data = b"".join(FRAMES)
    expected = (
        [FRAMES[0], FRAMES[1], FRAMES[3]],
        [FRAMES[5]],
        FRAMES[2] + FRAMES[4] + FRAMES[6],
    )
    assert await passed([data]) == expected
    assert await passed([bytes((byte,)) for byte in data]) == expected
    for at in range(1, len(data)):
        assert await passed([data[:at], data[at:]]) == expected


async def test_what_is_no_frame_and_what_is_cut_off_is_the_drivers_to_judge() -> None:
    refusal = b"AMQP\x00\x00\x09\x01"
    assert await passed([refusal]) == ([], [], refusal)
    assert await passed([FRAMES[4], b"HTTP/1.1 400 Bad Request\r\n"]) == (
        [],
        [],
        FRAMES[4] + b"HTTP/1.1 400 Bad Request\r\n",
    )
    assert await passed([FRAMES[3][:-1]]) == ([], [], FRAMES[3][:-1])

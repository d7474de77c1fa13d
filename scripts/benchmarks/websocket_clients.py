"""Workers with thousands of WebSockets: they have a message sent to all, and check that all get it.

Raw sockets, for a WebSocket library would keep both cores of a small machine busy with its own
work.
"""

import json
import resource
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from itertools import count, cycle, islice

import grpc

from scripts.benchmarks.load import CheckError
from scripts.benchmarks.worker import Link
from switchboard.v1.realtime_service_pb2 import BroadcastRequest, BroadcastResponse

CONTENT = "x" * 100
"""What every message carries, besides its number."""

_HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_END = b"\r\n\r\n"
_WARM = 5
_HEAD = 4
"""Bytes of a frame before its text, where that has 126 to 65535."""
_TIMEOUT = 30.0

TOGETHER = 16
"""Messages that are under way at the same time, at every second "go"; else one at a time."""

Send = Callable[[Sequence[int]], None]


class _Crowd:
    """Many WebSockets of one process.

    Args:
        ports: Where to.
        connections: How many to each.
        greeted: Whether the server sends a frame of its own accord when one has opened.
    """

    def __init__(self, ports: Sequence[int], connections: int, *, greeted: bool) -> None:
        _allow_files()
        self._selector = selectors.DefaultSelector()
        self._size = len(ports) * connections
        for number in range(self._size):
            client = open_socket(ports[number % len(ports)], f"/ws/c{number}")
            if greeted and not client.started:
                client.frame()
            client.socket.setblocking(False)
            self._selector.register(client.socket, selectors.EVENT_READ)

    def receive(self, count: int) -> list[bytes]:
        """Waits until each has received so many frames, the same as the others.

        Returns:
            The frames.
        """
        received: dict[object, bytes] = {}
        frames: list[bytes] = []
        expected = b""
        deadline = time.monotonic() + _TIMEOUT
        missing = self._size
        while missing:
            if time.monotonic() > deadline:
                raise CheckError(f"{missing} of {self._size} connections wait for a message")
            for key, _ in self._selector.select(1.0):
                data = received.get(key.fd, b"") + key.fileobj.recv(65536)  # type: ignore[union-attr]
                received[key.fd] = data
                if not expected and len(frames := _frames(data)) == count:
                    expected = b"".join(frames)
                if expected and data == expected:
                    missing -= 1
                elif expected and not expected.startswith(data):
                    raise CheckError("a connection received other messages than the first")
        return frames


class _Opened:
    """A WebSocket that has opened, and what came with the answer."""

    def __init__(self, opened: socket.socket, started: bytes) -> None:
        self.socket = opened
        self.started = started

    def frame(self) -> bytes:
        """Waits for a frame."""
        while not (frames := _frames(self.started)):
            self.started += self.socket.recv(65536)
        return frames[0]


def open_socket(port: int, path: str) -> _Opened:
    """Opens a WebSocket.

    Args:
        port: Where to.
        path: Its path.
    """
    opened = socket.create_connection(("127.0.0.1", port), _TIMEOUT)
    opened.sendall(_HANDSHAKE.format(path=path, port=port).encode())
    received = b""
    while _END not in received:
        received += opened.recv(65536)
    if not received.startswith(b"HTTP/1.1 101 "):
        raise CheckError(f"a WebSocket did not open: {received[:200]!r}")
    return _Opened(opened, received.partition(_END)[2])


async def hub(link: Link, port: int, grpc_port: int, connections: int, messages: int) -> None:
    """Has the hub broadcast by RealtimeService.Broadcast."""
    await spread(link, [port], grpc_port, connections, messages)


async def spread(
    link: Link, ports: Sequence[int], grpc_port: int, connections: int, messages: int
) -> None:
    """Has one hub broadcast by RealtimeService.Broadcast to the connections of all.

    Args:
        link: To the program that measures.
        ports: Where the hubs' bridges are.
        grpc_port: Where the hub is that is called.
        connections: How many each has.
        messages: How many messages each time.
    """
    everybody = len(ports) * connections
    channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port}")
    broadcast = channel.unary_unary(
        "/switchboard.v1.RealtimeService/Broadcast",
        BroadcastRequest.SerializeToString,
        BroadcastResponse.FromString,
    )

    def send(numbers: Sequence[int]) -> None:
        calls = []
        for number in numbers:
            request = BroadcastRequest(message_type="bench", all=True)
            request.data.update({"n": number, "content": CONTENT})
            calls.append(broadcast.future(request, wait_for_ready=True))
        if any(call.result().connections != everybody for call in calls):
            raise CheckError("a message was not handed to every connection")

    await _run(link, _Crowd(ports, connections, greeted=True), send, messages)


async def peer(
    link: Link, port: int, connections: int, messages: int, *, size: int, masked: bool
) -> None:
    """Has another server send to all what one client sends.

    Args:
        link: To the program that measures.
        port: Where the server is.
        connections: How many receive.
        messages: How many messages each time.
        size: Length of the hub's frames, which these are to have too.
        masked: Whether the server reads frames, and does not just send them on.
    """
    crowd = _Crowd([port], connections, greeted=False)
    sender = open_socket(port, "/ws/sender").socket

    def frame(number: int) -> bytes:
        without = json.dumps({"data": {"n": number}, "content": ""})
        content = "x" * (size - _HEAD - len(without))
        text = json.dumps({"data": {"n": number}, "content": content}).encode()
        length = len(text).to_bytes(2, "big")
        # The mask is all zeros, so the text stays as it is.
        return (b"\x81\xfe" + length + bytes(4) if masked else b"\x81\x7e" + length) + text

    def send(numbers: Sequence[int]) -> None:
        sender.sendall(b"".join(map(frame, numbers)))

    await _run(link, crowd, send, messages)


async def hold(link: Link, port: int, connections: int) -> None:
    """Holds idle WebSockets."""
    crowd = _Crowd([port], connections, greeted=True)
    link.report("ready")
    await link.go()
    del crowd


async def _run(link: Link, crowd: _Crowd, send: Send, messages: int) -> None:
    numbers = count()

    def once(together: int) -> int:
        sent = list(islice(numbers, together))
        send(sent)
        frames = crowd.receive(together)
        # Calls that are under way together may overtake each other.
        if sorted(json.loads(frame[_HEAD:])["data"]["n"] for frame in frames) != sent:
            raise CheckError(f"other messages than {sent} arrived")
        return max(map(len, frames))

    link.report("ready", size=max(once(1) for _ in range(_WARM)))
    together = cycle((1, TOGETHER))
    while await link.go():
        size = next(together)
        began = time.perf_counter()
        for _ in range(messages // size):
            once(size)
        link.report("done", seconds=time.perf_counter() - began)


def _allow_files() -> None:
    """Raises the limit of open files as far as the system lets it be."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _frames(data: bytes) -> list[bytes]:
    """The whole text frames that data begins with."""
    frames = []
    while len(data) >= _HEAD:
        length = 2 + data[1] if data[1] < 126 else _HEAD + int.from_bytes(data[2:_HEAD], "big")
        if len(data) < length:
            break
        frames.append(data[:length])
        data = data[length:]
    return frames

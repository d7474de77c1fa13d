"""The least that Python can do for a broadcast: `python -m scripts.benchmarks.bare_sockets PORT`.

It answers every request to open a WebSocket without looking at it. What a client sends then, it
sends to all others, by a loop of `socket.send`. A client sends its message as a frame that is ready
to go out.
"""

import resource
import selectors
import socket
import sys

_ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def _serve(port: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    clients: set[socket.socket] = set()
    with socket.create_server(("127.0.0.1", port), backlog=4096) as server:
        selector = selectors.DefaultSelector()
        selector.register(server, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is server:
                    client, _ = server.accept()
                    selector.register(client, selectors.EVENT_READ)
                elif isinstance(key.fileobj, socket.socket):
                    _answer(key.fileobj, clients, selector)


def _answer(
    client: socket.socket, clients: set[socket.socket], selector: selectors.BaseSelector
) -> None:
    received = client.recv(65536)
    if not received:
        selector.unregister(client)
        clients.discard(client)
        client.close()
    elif client not in clients:
        client.send(_ACCEPTED)
        clients.add(client)
    else:
        for each in clients:
            if each is not client:
                each.send(received)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))

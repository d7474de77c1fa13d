"""An HTTP GET of which only the status matters.

Written out rather than left to a library: one that follows redirects, reads proxies from the
environment or resolves the name once more would call addresses that nobody has allowed.
"""

import asyncio
import re
import ssl
import time

from switchboard_server.core.registry.entries import Verdict
from switchboard_server.core.registry.model import Status
from switchboard_server.core.registry.targets import Target

MAX_HEAD_BYTES = 64 * 1024
"""How much of an answer is read at most."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: .*)?\r?\n")


async def probe_http(target: Target, address: str, tls: ssl.SSLContext | None) -> Verdict:
    """Asks for the target's path; it passes with a status of 200 to 299.

    Args:
        target: What to ask for.
        address: The IP address to connect to.
        tls: For https.

    Raises:
        OSError: The connection failed.
        EOFError: It was closed without an answer.
    """
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(
        address,
        target.port,
        ssl=tls,
        server_hostname=target.host if tls is not None else None,
        limit=MAX_HEAD_BYTES,
    )
    try:
        writer.write(
            f"GET {target.path} HTTP/1.1\r\n"
            f"Host: {target.address}\r\n"
            "User-Agent: switchboard-health-check\r\n"
            "Accept: */*\r\n"
            "Connection: close\r\n\r\n".encode("ascii")
        )
        await writer.drain()
        code = await _status(reader)
    finally:
        # The rest of the answer does not matter, and a server may never end it.
        writer.transport.abort()
    took = f"{(time.perf_counter() - began) * 1000:.0f} ms"
    if code is None:
        return Verdict(Status.UNHEALTHY, f"the answer is no HTTP, in {took}")
    passed = 200 <= code <= 299
    return Verdict(Status.SERVING if passed else Status.UNHEALTHY, f"HTTP {code} in {took}")


async def _status(reader: asyncio.StreamReader) -> int | None:
    """The status of the final answer; None: what came is no HTTP."""
    read = 0
    while read < MAX_HEAD_BYTES:
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            return None
        read += len(line)
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            return None
        if not found[1].startswith(b"1"):
            return int(found[1])
        # An interim answer (RFC 9110, 15.2): its head ends with an empty line, and another follows.
        while line.strip(b"\r\n") and read < MAX_HEAD_BYTES:
            try:
                line = await reader.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                return None
            read += len(line)
    return None

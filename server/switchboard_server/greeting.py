"""What a hub says on standard output: where it is, and where to go next."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from switchboard_server import __version__
from switchboard_server.config import Settings

if TYPE_CHECKING:
    from switchboard_server.security.jwks import KeySet
    from switchboard_server.security.keys import Keys


def greeting(
    settings: Settings,
    kept: str,
    ports: tuple[int, int],
    keys: "Keys | KeySet | None",
) -> str:
    """Says where the hub is, and what to try.

    Args:
        settings: How it was asked to run.
        kept: Where events are kept.
        ports: That of gRPC, and that of the bridge.
        keys: What tokens are verified with; None: nobody is asked for one.
    """
    server, tls, (grpc_port, port) = settings.server, settings.tls, ports
    host = f"[{server.host}]" if ":" in server.host else server.host
    scheme = "https" if tls.cert_file else "http"
    flags = "" if tls.cert_file else "-plaintext "
    if tls.client_ca_file:
        flags = "-cert client.crt -key client.key "
    lines = [f"switchboard {__version__}: gRPC on {host}:{grpc_port}, events {kept}"]
    lines.append(f"  console           {scheme}://{host}:{port}/")
    lines.append(f"  health, metrics   {scheme}://{host}:{port}/health and /metrics")
    if keys is not None:
        flags += '-H "authorization: Bearer $TOKEN" '
    lines.append(f"  tokens            {_about_tokens(keys)}")
    lines.append("  publish an event:")
    lines.append(
        f"    grpcurl {flags}-d '"
        '{"event": {"type": "order.created", "source_service": "shop", "data": {"order": 1}}}'
        f"' {host}:{grpc_port} switchboard.v1.EventService/Publish"
    )
    lines.append("  receive it, and whatever comes after it:")
    lines.append(
        f"    grpcurl {flags}-d '"
        '{"start_at": "START_AT_EARLIEST"}'
        f"' {host}:{grpc_port} switchboard.v1.EventService/Subscribe"
    )
    return "\n".join(lines)


def _about_tokens(keys: "Keys | KeySet | None") -> str:
    """Whether callers need a token, and where they get one."""
    if keys is None:
        return "not asked for (JWT_SECRET_KEY is not set): loopback only"
    if keys.signing is None:
        return "asked for; who has the private key makes them, not this hub"
    return (
        f"asked for; make one with: {_interpreter()} -m switchboard_server token --subject me "
        "--permission events.publish --permission events.subscribe"
    )


def _interpreter() -> str:
    """The Python that runs the hub, as one would type it here."""
    python, here = Path(sys.executable), Path.cwd()
    return shlex.quote(str(python.relative_to(here) if python.is_relative_to(here) else python))


def say(text: str) -> None:
    """Prints, as long as somebody takes it: neither `| head` nor a full disk may end the hub."""
    try:
        click.echo(text)
    except OSError:
        # What is buffered would fail again at exit: https://docs.python.org/3/library/signal.html
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

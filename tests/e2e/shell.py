"""A person with a shell: the real grpcurl."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.hub import HubProcess

GRPCURL = Path(sys.executable).with_name("grpcurl")
EVENTS = "switchboard.v1.EventService"
GROUPS = "switchboard.v1.GroupService"
REALTIME = "switchboard.v1.RealtimeService"
REGISTRY = "switchboard.v1.RegistryService"
PATIENCE = 60.0
"""Seconds after which a program that must end has not."""


def grpcurl(hub: HubProcess, *arguments: str, flags: tuple[str, ...] = ()) -> str:
    """Runs grpcurl, which must succeed, and returns what it prints."""
    done = subprocess.run(
        [GRPCURL, "-plaintext", *flags, hub.address, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def call(hub: HubProcess, method: str, request: Any = None) -> Any:
    """Calls an rpc with one response."""
    flags = () if request is None else ("-d", json.dumps(request))
    return json.loads(grpcurl(hub, method, flags=flags))


def refused(hub: HubProcess, method: str, request: Any) -> str:
    """Calls an rpc, which must fail, and returns what grpcurl says of it."""
    done = subprocess.run(
        [GRPCURL, "-plaintext", "-d", json.dumps(request), hub.address, method],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    return done.stderr


def publish(hub: HubProcess, kind: str, **fields: Any) -> Any:
    """Publishes an event, and returns the answer."""
    event = {"type": kind, "source_service": "shell", **fields}
    return call(hub, f"{EVENTS}/Publish", {"event": event})


class Listener:
    """A program that subscribes, and prints what it receives as JSON.

    Args:
        command: The program and its arguments.
        env: Its environment; None: this process's.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def next(self) -> Any:
        """Reads the next response, which grpcurl prints over several lines."""
        assert self.process.stdout is not None
        text = ""
        for line in self.process.stdout:
            text += line
            if line == "}\n":
                return json.loads(text)
        raise AssertionError(f"the stream has ended:\n{text}")

    def events(self, count: int) -> list[Any]:
        """Reads responses until so many events have come."""
        return [each["event"] for each in self.deliveries(count)]

    def deliveries(self, count: int) -> list[Any]:
        """Reads responses until so many deliveries have come."""
        deliveries: list[Any] = []
        while len(deliveries) < count:
            deliveries += self.next().get("deliveries", ())
        return deliveries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # All of its session, since a shell may stand between.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE)


def listening(hub: HubProcess, method: str, request: Any) -> Listener:
    """A grpcurl that calls an rpc with a stream of responses."""
    limit = ("-max-time", str(PATIENCE))
    flags = ("-plaintext", *limit, "-d", json.dumps(request))
    return Listener([str(GRPCURL), *flags, hub.address, method])


def subscribed(hub: HubProcess, request: Any) -> Listener:
    """A grpcurl that subscribes."""
    return listening(hub, f"{EVENTS}/Subscribe", request)

"""The README's sessions and programs, run as they stand."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.e2e.shell import Listener
from tests.support.hub import HubProcess
from tests.support.servers import free_port

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
ENV = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
CHANGING = [
    (r'"\d+-[0-9a-f]+-[0-9a-f]{8}"', '"DELIVERY"'),
    (r'"[0-9a-f]{16}"', '"MEMBER"'),
    (r'"127\.0\.0\.1:\d+"', '"PEER"'),
    (r'"[0-9a-f]{8}"', '"NODE"'),
    (r'"[0-9a-f]{8}-[0-9a-f]{3}"', '"ID"'),
    (r'"[0-9a-f]{10}-[0-9a-f]+"', '"MESSAGE"'),
    (r'"node": "[^"]+"', '"node": "NODE"'),
    (r'"\d{4}-\d\d-\d\dT[\d:.]+Z"', '"TIME"'),
    (r"\s+", " "),
]
"""What differs from one run to the next."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "hub") as started:
        yield started
        assert "Traceback" not in started.text


def steady(text: str) -> str:
    for pattern, replacement in CHANGING:
        text = re.sub(pattern, replacement, text)
    return text.strip()


def session(heading: str) -> Iterator[tuple[str, str]]:
    """Yields each command of a section's console blocks, and what is shown to come of it."""
    section = README.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            count = 1
            while lines[count - 1].endswith("\\"):
                count += 1
            yield "\n".join(lines[:count]), "\n".join(lines[count:])


def shell(hub: HubProcess, command: str) -> list[str]:
    """How to run a command that is meant for the hub at its usual place."""
    return ["bash", "-c", f"exec {command.replace('127.0.0.1:50051', hub.address)}"]


def run(hub: HubProcess, command: str) -> str:
    """Runs a command to its end, and returns what it prints."""
    if command.endswith("/Subscribe"):
        # The stream stays open, so it is given an end.
        command = command.replace("grpcurl ", "grpcurl -max-time 3 ", 1)
    done = subprocess.run(
        shell(hub, command), env=ENV, capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout or done.stderr


def test_the_first_session_in_grpcurl_goes_as_shown(hub: HubProcess) -> None:
    commands = list(session("A first session in grpcurl"))
    assert len(commands) == 4
    for command, shown in commands:
        printed = run(hub, command)
        assert steady(printed) == steady(shown), f"{command}\n{printed}"


def test_the_session_about_services_goes_as_shown(hub: HubProcess) -> None:
    commands = list(session("Registering a service and finding it"))
    assert len(commands) == 3
    for command, shown in commands:
        printed = run(hub, command)
        assert steady(printed) == steady(shown), f"{command}\n{printed}"


def test_the_session_about_rooms_goes_as_shown(hub: HubProcess) -> None:
    (connect, shown_to_connection), (broadcast, shown) = session("Rooms, from a shell")
    with Listener(shell(hub, connect), ENV) as connection:
        received = [connection.next(), connection.next()]
        printed = run(hub, broadcast)
        assert steady(printed) == steady(shown), printed
        received.append(connection.next())
    responses = json.loads(f"[{steady(shown_to_connection).replace('} {', '}, {')}]")
    assert json.loads(steady(json.dumps(received))) == responses


def test_the_session_of_two_shells_goes_as_shown(hub: HubProcess) -> None:
    _, (publish, _), *_ = session("A first session in grpcurl")
    run(hub, publish)
    (join, shown_to_member), *commands = session("Sharing work: consumer groups")
    assert len(commands) == 5
    names = re.findall(r'"ack_id": "([^"]+)"', shown_to_member)
    with Listener(shell(hub, join), ENV) as member:
        received = [member.next()]
        for command, shown in commands:
            line = command
            for name in names:
                if name in line:
                    received.append(member.next())
                    line = line.replace(name, received[-1]["deliveries"][0]["ack_id"])
            printed = run(hub, line)
            assert steady(printed) == steady(shown), f"{line}\n{printed}"
    responses = json.loads(f"[{steady(shown_to_member).replace('} {', '}, {')}]")
    assert json.loads(steady(json.dumps(received))) == responses


def write_programs(hub: HubProcess, folder: Path) -> None:
    """Writes all programs into a folder."""
    programs = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README, re.DOTALL)
    assert [name for name, _ in programs] == [
        "subscriber.py",
        "publisher.py",
        "worker.py",
        "caller.py",
    ]
    for name, text in programs:
        (folder / name).write_text(text.replace("127.0.0.1:50051", hub.address))


@contextmanager
def program(name: str, folder: Path) -> Iterator[IO[str]]:
    """Runs a program that does not end by itself; yields what it prints."""
    with subprocess.Popen(
        [sys.executable, name], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            yield running.stdout
        finally:
            running.kill()


def output(name: str, folder: Path) -> str:
    """Runs a program to its end, and returns what it prints."""
    done = subprocess.run(
        [sys.executable, name], cwd=folder, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_programs_publish_and_receive(hub: HubProcess, tmp_path: Path) -> None:
    write_programs(hub, tmp_path)
    with program("subscriber.py", tmp_path) as subscriber:
        assert output("publisher.py", tmp_path) == "durable at 1\nduplicate of 1 True\n"
        assert subscriber.readline() == "1 order.created {'order': 2.0}\n"


def test_the_python_programs_call_and_answer(hub: HubProcess, tmp_path: Path) -> None:
    write_programs(hub, tmp_path)
    with program("worker.py", tmp_path) as worker:
        assert worker.readline() == "at work\n"
        assert output("caller.py", tmp_path) == "a lamp: 12.50\n"
        assert output("caller.py", tmp_path) == "a lamp: 12.50\n"


def test_the_block_about_tokens_can_be_pasted_at_once(tmp_path: Path) -> None:
    block = re.search(r"```sh\n(export JWT_SECRET_KEY.*?)```", README, re.DOTALL)
    assert block is not None
    ports = [free_port(), free_port()]
    text = block[1].replace("scripts/serve", f"{sys.executable} -m switchboard_server")
    text = text.replace("127.0.0.1:50051", f"127.0.0.1:{ports[0]}")
    done = subprocess.run(
        ["bash", "-c", f"trap 'kill %1; wait' EXIT\n{text}"],
        env=ENV | {"GRPC_PORT": str(ports[0]), "PORT": str(ports[1])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"sequence": "1"' in done.stdout
    assert "tokens            asked for" in done.stdout

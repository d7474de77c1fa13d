"""The README's sessions and programs, run as they stand."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub import HubProcess

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
CHANGING = [
    (r'"[0-9a-f]{8}-[0-9a-f]{3}"', '"ID"'),
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


def session() -> Iterator[tuple[str, str]]:
    """Yields each command of the console blocks, and what is shown to come of it."""
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            count = 1
            while lines[count - 1].endswith("\\"):
                count += 1
            yield "\n".join(lines[:count]), "\n".join(lines[count:])


def test_the_first_session_in_grpcurl_goes_as_shown(hub: HubProcess) -> None:
    commands = list(session())
    assert len(commands) == 4
    tools = str(Path(sys.executable).parent)
    for command, shown in commands:
        line = command.replace("127.0.0.1:50051", hub.address)
        if line.endswith("/Subscribe"):
            # The stream stays open, so it is given an end.
            line = line.replace("grpcurl ", "grpcurl -max-time 3 ", 1)
        done = subprocess.run(
            ["bash", "-c", line],
            env={"PATH": f"{tools}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        printed = done.stdout or done.stderr
        assert steady(printed) == steady(shown), f"{command}\n{done.stdout}{done.stderr}"


def test_the_python_programs_publish_and_receive(hub: HubProcess, tmp_path: Path) -> None:
    programs = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README, re.DOTALL)
    for name, text in programs:
        (tmp_path / name).write_text(text.replace("127.0.0.1:50051", hub.address))
    assert [name for name, _ in programs] == ["subscriber.py", "publisher.py"]
    with subprocess.Popen(
        [sys.executable, "subscriber.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as subscriber:
        try:
            published = subprocess.run(
                [sys.executable, "publisher.py"],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
            assert published.stdout == "durable at 1\nduplicate of 1 True\n"
            assert subscriber.stdout is not None
            assert subscriber.stdout.readline() == "1 order.created {'order': 2.0}\n"
        finally:
            subscriber.kill()

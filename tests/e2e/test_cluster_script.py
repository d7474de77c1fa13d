"""`scripts/cluster` runs a cluster to try, and leaves nothing behind."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil

from tests.e2e.load import PATIENCE, list_events, until

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SCRIPT = Path(__file__).parents[2] / "scripts" / "cluster"


@contextmanager
def cluster(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], end: str) -> str:
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if end in line:
            return text
    raise AssertionError(f"it ended before it said {end!r}:\n{text}")


def started_hub(script: int, before: Iterable[psutil.Process]) -> psutil.Process:
    """Waits for a hub that the script starts, and that was not there before."""
    while True:
        for each in {*psutil.Process(script).children()} - {*before}:
            if "switchboard_server" in each.cmdline():
                return each


def run_program(url: str) -> str:
    """Runs the program of the README that speaks AMQP, and returns what it prints."""
    section = README.partition("## Growing past one machine\n")[2].partition("\n## ")[0]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "RABBITMQ_URL": url},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.stdout + done.stderr


async def test_it_runs_what_its_session_shows_and_stops_all_of_it(tmp_path: Path) -> None:
    with cluster("--folder", str(tmp_path)) as process:
        session = read_until(process, "Ctrl+C stops all of it")
        parts = psutil.Process(process.pid).children(recursive=True)
        names = [each.name() for each in parts]
        assert names.count("redis-server") == names.count("beam.smp") == 1
        hubs = sorted(set(re.findall(r"127\.0\.0\.1:\d+(?= switchboard\.v1)", session)))
        assert len(hubs) == 3

        exchanged = await asyncio.to_thread(run_program, re.findall(r"amqp://\S+", session)[0])
        told = re.fullmatch(r"\d+ order\.created (\S+)\n", exchanged)
        assert told, exchanged

        victims = [int(re.findall(rf"{name}: (\d+)", session)[0]) for name in ("hub-2", "Redis")]
        psutil.Process(victims[0]).kill()
        read_until(process, "hub-2 has ended with code -9")
        started = started_hub(process.pid, parts)
        started.suspend()  # As slow a start as there may be.
        psutil.Process(victims[1]).kill()
        read_until(process, "Redis is back")
        started.resume()
        read_until(process, "hub-2 is back")
        for address in hubs:
            async with grpc.aio.insecure_channel(address) as channel:

                async def listed() -> bool:
                    return [each.id for each in await list_events(channel)] == [told[1]]

                await until(listed, "the event")

        process.send_signal(signal.SIGINT)
        text = read_until(process, "Stopping all of it")
        assert "Traceback" not in text
        assert process.wait(PATIENCE) == 0
    _, alive = psutil.wait_procs(parts, PATIENCE)
    assert not alive


def test_it_stops_all_of_it_when_a_part_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    # Redis refuses a file of this name that it cannot read.
    (tmp_path / "redis" / "appendonlydir").write_text("")
    with cluster("--folder", str(tmp_path)) as process:
        text, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
    assert "Redis did not start" in text
    assert "Traceback" not in text
    assert not [
        each for each in psutil.process_iter(["cwd"]) if str(tmp_path) in (each.info["cwd"] or "")
    ]


def test_it_stops_while_it_starts(tmp_path: Path) -> None:
    with cluster("--folder", str(tmp_path)) as process:
        read_until(process, "Starting RabbitMQ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert not [
        each for each in psutil.process_iter(["cwd"]) if str(tmp_path) in (each.info["cwd"] or "")
    ]

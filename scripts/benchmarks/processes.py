"""Processes that a benchmark starts: servers that it measures, and workers that load them."""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from tests.support.brokers import RabbitServer
from tests.support.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
"""The project's folder."""
OUTPUT = ROOT / "build" / "bench"
"""Where results go, and what the servers store meanwhile: on the project's disk, for /tmp may be
memory, where a sync costs nothing."""

_WS = "ws@8.23.0"
_TICKS = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 30.0
_STAGE_SECONDS = 180.0
_LOOK_SECONDS = 0.005


class BenchmarkError(Exception):
    """A benchmark has no result: a process failed, or events did not arrive as they should."""


class Server:
    """A server process on a port of 127.0.0.1."""

    def __init__(self, process: Process, port: int, output: Path, spawned: float) -> None:
        self._process = process
        self._output = output
        self.port = port
        self.spawned = spawned

    def cpu_seconds(self) -> float:
        """Its processor time so far, user and system, in steps of a clock tick (10 ms)."""
        text = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii", errors="replace")
        # The name, in parentheses, may hold spaces; user and system time are fields 14 and 15.
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_bytes(self) -> int:
        """Its resident memory now."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    async def listening(self) -> None:
        """Waits until it takes connections.

        Raises:
            BenchmarkError: It has ended, or takes too long.
        """
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionRefusedError:
                # Nothing tells when a foreign process begins to listen.
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                writer.close()
                return
        text = self._output.read_text(encoding="utf-8", errors="replace")
        raise BenchmarkError(f"a server did not start:\n{text[-2000:]}")


class Worker:
    """A client process; see `scripts.benchmarks.worker`."""

    def __init__(self, role: str, process: Process) -> None:
        self._role = role
        self._process = process

    async def expect(self, stage: str) -> dict[str, Any]:
        """Waits until it reports a stage.

        Returns:
            What it has found out.

        Raises:
            BenchmarkError: It has failed, for one because events did not arrive as they should; or
                it takes too long.
        """
        assert self._process.stdout is not None  # made with a pipe
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), _STAGE_SECONDS)
        except TimeoutError:
            raise BenchmarkError(f"{self._role} did not reach {stage!r} in time") from None
        report: dict[str, Any] = json.loads(line) if line else {}
        if report.get("stage") != stage:
            raise BenchmarkError(f"{self._role} failed before {stage!r}; its error is above")
        return report

    def go(self) -> None:
        """Tells it to go on."""
        assert self._process.stdin is not None  # made with a pipe
        self._process.stdin.write(b"go\n")

    def finish(self) -> None:
        """Tells it that there is nothing more to do."""
        assert self._process.stdin is not None  # made with a pipe
        self._process.stdin.close()

    async def run(self, stage: str = "done") -> dict[str, Any]:
        """Tells it to go on, and waits until it reports a stage."""
        self.go()
        return await self.expect(stage)


class Stage:
    """All processes of one measurement; leaving it ends them and removes what they stored."""

    async def __aenter__(self) -> Self:
        OUTPUT.mkdir(parents=True, exist_ok=True)
        self._exits = AsyncExitStack()
        folder = tempfile.TemporaryDirectory(prefix="stage-", dir=OUTPUT)
        self._folder = Path(self._exits.enter_context(folder))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def hub(self, **settings: str) -> Server:
        """Starts a hub with settings that differ from the defaults."""
        command = [sys.executable, "-m", "switchboard_server"]
        hub = await self.spawn_hub(command, free_port(), settings)
        await hub.listening()
        return hub

    async def spawn_hub(
        self, command: list[str], port: int, settings: Mapping[str, str] = MappingProxyType({})
    ) -> Server:
        """Starts a hub and does not wait for it."""
        folder = self._new_folder()
        settings = {
            "GRPC_PORT": str(port),
            "PORT": "0",
            "SWITCHBOARD_DATA_DIR": str(folder / "data"),
            **settings,
        }
        # In a folder of its own, for it reads .env in the current one.
        return await self._serve(command, port, settings, folder)

    async def echo(self) -> Server:
        """Starts an empty grpc.aio server."""
        port = free_port()
        command = [sys.executable, "-m", "scripts.benchmarks.echo", str(port)]
        return await self._listening(command, port)

    async def nats(self) -> Server:
        """Starts a nats-server with JetStream on files."""
        port, folder = free_port(), self._new_folder()
        config = folder / "nats.conf"
        # A subscriber that is behind is to be waited for, not cut off: every message counts here.
        config.write_text(
            f'host: "127.0.0.1"\nport: {port}\nmax_pending: 1GB\nwrite_deadline: "120s"\n'
            f'jetstream {{ store_dir: "{folder}" }}\n',
            encoding="utf-8",
        )
        program = Path(sys.executable).parent / "nats-server"
        return await self._listening([str(program), "--config", str(config)], port)

    async def redis(self) -> Server:
        """Starts a Redis that stores nothing, and cuts off no subscriber that is behind."""
        port = free_port()
        program = shutil.which("redis-server")
        if program is None:
            raise BenchmarkError("there is no redis-server; scripts/bench installs it")
        command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
        command += ["--appendonly", "no", "--client-output-buffer-limit", "pubsub 0 0 0"]
        return await self._listening(command, port)

    async def rabbitmq(self) -> str:
        """Starts a RabbitMQ with the machine's processors to itself, and returns its URL."""
        # As tests start it, with a name, a cookie and ports of its own.
        server = RabbitServer(self._new_folder(), schedulers=os.cpu_count() or 1)
        await asyncio.to_thread(server.start)
        self._exits.push_async_callback(asyncio.to_thread, server.kill)
        return server.url

    async def bare_sockets(self) -> Server:
        """Starts a loop of socket sends."""
        port = free_port()
        command = [sys.executable, "-m", "scripts.benchmarks.bare_sockets", str(port)]
        return await self._listening(command, port)

    async def node_ws(self) -> Server:
        """Starts a server of Node's `ws`."""
        port = free_port()
        command = ["node", str(ROOT / "scripts" / "benchmarks" / "ws_server.cjs"), str(port)]
        server = await self._serve(command, port, {"NODE_PATH": await _npm(_WS)}, ROOT)
        await server.listening()
        return server

    async def worker(self, role: str, **arguments: object) -> Worker:
        """Starts a client process.

        Args:
            role: Its module in this package and the function there, as "module:function".
            arguments: What the function is called with.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "scripts.benchmarks.worker",
            role,
            json.dumps(arguments),
            stdin=PIPE,
            stdout=PIPE,
            cwd=ROOT,
            env=_environment({}),
        )
        self._exits.push_async_callback(_end, process)
        return Worker(role, process)

    async def _listening(self, command: list[str], port: int) -> Server:
        server = await self._serve(command, port, {}, ROOT)
        await server.listening()
        return server

    async def _serve(
        self, command: list[str], port: int, settings: Mapping[str, str], folder: Path
    ) -> Server:
        output = self._new_folder() / "output"
        spawned = time.monotonic()
        with output.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=DEVNULL,
                stdout=file,
                stderr=STDOUT,
                cwd=folder,
                env=_environment(settings),
            )
        self._exits.push_async_callback(_end, process)
        return Server(process, port, output, spawned)

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder))


async def _npm(package: str) -> str:
    """Installs a package of npm, and returns the folder that Node looks for it in."""
    folder = OUTPUT / "npm"
    modules = folder / "node_modules"
    name, _, version = package.partition("@")
    manifest = modules / name / "package.json"
    if not manifest.exists() or json.loads(manifest.read_bytes())["version"] != version:
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
        npm = await asyncio.create_subprocess_exec(
            "npm", "install", "--prefix", str(folder), *options, package, stdin=DEVNULL
        )
        if await npm.wait():
            raise BenchmarkError(f"npm could not install {package}")
    return str(modules)


async def _end(process: Process) -> None:
    # Not by process.kill(), which looks whether the process has ended, and so may take the exit
    # status away from asyncio's watcher.
    with suppress(ProcessLookupError):
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
    await process.wait()


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, without settings that were meant for another hub."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SWITCHBOARD_", "JWT_"))
    }
    return {**inherited, **settings}

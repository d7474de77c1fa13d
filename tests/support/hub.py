"""A hub in a process of its own, started by its command."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import grpc
import psutil

START_SECONDS = 30.0
"""How long a hub may take to say where it is, on a busy machine."""

LOCAL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
"""Options for a channel that shares no connection with another one."""


class HubProcess:
    """A hub process on free ports.

    Args:
        folder: Its data folder, and its working folder.
        settings: Its settings, added to the defaults of a test.
        command: The command that starts it.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        command: tuple[str, ...] = (sys.executable, "-m", "switchboard_server"),
    ) -> None:
        self.folder = folder
        self.settings = {
            "GRPC_PORT": "0",
            "PORT": "0",
            "SWITCHBOARD_DATA_DIR": str(folder),
            **(settings or {}),
        }
        self.command = command
        self.output: list[str] = []
        self.grpc_port = self.port = 0
        self._news = threading.Condition()

    def start(self) -> Self:
        """Starts it, and waits until it says where it is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SWITCHBOARD_", "JWT_"))
        }
        self.output = []
        self.process = subprocess.Popen(
            self.command,
            env={**inherited, **self.settings},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(START_SECONDS) or not self.port:
            self.kill()
            raise AssertionError(f"the hub did not start:\n{self.text}")
        return self

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.output.append(line)
                self._news.notify_all()
            if found := re.search(r"gRPC on .*:(\d+),", line):
                self.grpc_port = int(found[1])
            if found := re.search(r"health, metrics +https?://.*:(\d+)/", line):
                self.port = int(found[1])
            if line.startswith("    grpcurl"):
                self._ready.set()
        self._ready.set()

    @property
    def text(self) -> str:
        """All that it has printed so far."""
        return "".join(self.output)

    def wait_printed(self, wanted: Callable[[str], bool], seconds: float = 60.0) -> None:
        """Waits until all that it has printed is as wanted.

        Raises:
            AssertionError: It was not in that time.
        """
        with self._news:
            assert self._news.wait_for(lambda: wanted(self.text), seconds), self.text

    @property
    def address(self) -> str:
        """Where gRPC is."""
        return f"127.0.0.1:{self.grpc_port}"

    def channel(self) -> grpc.aio.Channel:
        """A new connection to it."""
        return grpc.aio.insecure_channel(self.address, options=LOCAL_OPTIONS)

    def memory(self) -> int:
        """Its resident memory in bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def cpu_seconds(self) -> float:
        """Its processor time so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def kill(self) -> None:
        """Kills it with SIGKILL."""
        self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """Asks it to stop, waits until it has, and returns its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        self._reader.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

"""A server program that a test starts for itself, and does to what outages do."""

import os
import random
import shutil
import signal
import socket
import subprocess
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

START_SECONDS = 120.0
"""How long a server may take until it answers, on a busy machine."""
STOP_SECONDS = 30.0
"""How long it may take to stop when it is asked to."""
MAX_LINES = 10_000
"""How much of what it prints is kept."""

LOOPBACK = "127.0.0.1"
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_PORTS = range(10_000 + _WORKER, 32_000, _WORKERS)
"""Below those that the kernel gives to outgoing connections (net.ipv4.ip_local_port_range). From
among those, a client that keeps dialling a dead server's port in time gets that very port for its
own end, and is connected to itself. Each of pytest's workers has ports of its own: those of its
servers stay theirs while they are down."""
_GUARD = 'read -r _; kill -9 "$@"'
"""Reads until whoever holds the other end of its input is gone, however it went, then kills."""


def free_port() -> int:
    """A port of loopback on which nothing listens, and that no outgoing connection is given."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


class Server(ABC):
    """A server process that dies with the process that started it.

    Its folder and its ports stay the same over restarts. It runs in a session of its own, so that
    Ctrl+C in a terminal reaches only who started it.

    Args:
        folder: Where it keeps all its files.
    """

    name: str
    """What it is called in messages."""
    ready: str
    """What the line contains that it prints once it answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output: deque[str] = deque(maxlen=MAX_LINES)
        """The newest lines that it has printed since its start."""
        self.listener: Callable[[str], object] = lambda _: None
        """Is given each line that it prints, in a thread of its own."""
        self._started = False
        self._helpers: list[subprocess.Popen[bytes]] = []

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """The program with its arguments."""

    def environment(self) -> Mapping[str, str]:
        """What it finds in its environment, beside what this process has there."""
        return {}

    def helpers(self) -> Iterable[Sequence[str]]:
        """Programs that have to run beside it."""
        return ()

    def files(self) -> Mapping[str, str]:
        """Texts of the files that it needs to find in its folder."""
        return {}

    # --- life -------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Starts it, and waits until it answers.

        Raises:
            AssertionError: It ended, or does not answer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.files().items():
            (self.folder / name).write_text(text)
        environment = {**os.environ, **self.environment()}
        self.output.clear()
        self._answers = False
        self._known = threading.Event()
        self._helpers = [
            subprocess.Popen(
                each,
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            for each in self.helpers()
        ]
        self.process = subprocess.Popen(
            self.command(),
            env=environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        groups: list[subprocess.Popen[Any]] = [self.process, *self._helpers]
        self._guard = subprocess.Popen(
            # A minus before the id: the whole group.
            ["sh", "-c", _GUARD, "guard", *(f"-{each.pid}" for each in groups)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._started = True
        self._known.wait(START_SECONDS)
        if not self._answers:
            self.kill()
            raise AssertionError(f"{self.name} did not start:\n{self.text}")
        return self

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for text in lines:
                self.output.append(text)
                self.listener(text)
                if self.ready in text:
                    self._answers = True
                    self._known.set()
        self._known.set()

    def kill(self) -> None:
        """Kills it with SIGKILL, frozen or not, and clears away what is left where it has ended."""
        self._end(signal.SIGKILL)

    def interrupt(self) -> None:
        """Sends SIGKILL to it and its children, and does not wait; safe to call in any thread."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Asks it to stop, and waits until it has; kills it where it does not."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if not self._started:
            return
        if number == signal.SIGKILL:
            self.interrupt()
        self.process.send_signal(number)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.interrupt()
        self.process.wait()
        for helper in self._helpers:
            helper.kill()
            helper.wait()
        # After all of them are gone, so that nothing is left behind if this process dies meanwhile.
        self._guard.kill()
        self._guard.wait()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._reader.join(5)
        self._started = False

    def restart(self, *, empty: bool = False) -> None:
        """Kills it with SIGKILL where it runs, and starts it again on the same ports.

        Args:
            empty: Whether all that it stored is lost.
        """
        self.kill()
        if empty:
            shutil.rmtree(self.folder)
        self.start()

    def freeze(self) -> None:
        """Stops it in its tracks: its connections stay open, and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        self.process.send_signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._started and self.process.poll() is None

    @property
    def text(self) -> str:
        """What it has printed since its start."""
        return "".join(self.output)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

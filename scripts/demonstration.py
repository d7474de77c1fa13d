"""`scripts/cluster`: RabbitMQ, Redis and hubs over them on loopback, to try things on."""

import fcntl
import os
import queue
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path

import click

from tests.support.brokers import RabbitServer, RedisServer
from tests.support.servers import LOOPBACK, Server, free_port

FIRST_GRPC_PORT = 50051
FIRST_PORT = 8008
"""The ports of the first hub, which are a lone hub's too; the next ones have the next ports."""
SHUTDOWN_SECONDS = 2
"""What open calls get to end when all is stopped."""
RESTART_SECONDS = 5.0
"""After how long a part that was killed is started again."""
LAST_LINES = 30
"""How much of the output of a part is shown that did not start."""

_COLORS = ("36", "33", "35", "32", "34", "31")
_SESSION = """\

  console of each hub     {consoles}
  RabbitMQ, Redis         {rabbit} and {redis}
  what to kill            {pids}

Subscribe on one hub, and publish on another:
  {grpcurl} -plaintext -d '{{"filter": {{"types": ["order.*"]}}}}' {second} switchboard.v1.EventService/Subscribe
  {grpcurl} -plaintext -d '{{"event": {{"type": "order.created", "source_service": "shop", "data": {{"order": 1}}}}}}' {first} switchboard.v1.EventService/Publish

Read the history on the third:
  {grpcurl} -plaintext -d '{{"page_size": 5}}' {third} switchboard.v1.EventService/ListEvents

Share work: join a group on one hub, publish on another, and acknowledge on the third what the first has delivered:
  {grpcurl} -plaintext -d '{{"group": "billing", "filter": {{"types": ["order.*"]}}}}' {first} switchboard.v1.EventService/Subscribe
  {grpcurl} -plaintext -d '{{"event": {{"type": "order.paid", "source_service": "shop", "text": "12.50"}}}}' {second} switchboard.v1.EventService/Publish
  {grpcurl} -plaintext -d '{{"group": "billing", "ack_ids": ["<its ack_id>"]}}' {third} switchboard.v1.EventService/Acknowledge

Talk in a room across hubs:
  {grpcurl} -plaintext -d '{{"client_id": "shell", "user": "ann", "rooms": [{{"room": "general"}}]}}' {third} switchboard.v1.RealtimeService/Connect
  {grpcurl} -plaintext -d '{{"message_type": "chat", "data": {{"message": "hi"}}, "rooms": ["general"]}}' {first} switchboard.v1.RealtimeService/Broadcast

Register an instance on one hub, and find it on another:
  {grpcurl} -plaintext -d '{{"instance": {{"service_name": "users", "instance_id": "users-1", "service_url": "http://127.0.0.1:8010"}}}}' {first} switchboard.v1.RegistryService/Register
  {grpcurl} -plaintext -d '{{"service_name": "users"}}' {second} switchboard.v1.RegistryService/Discover

Then kill something (kill -9 and a number of above), and watch the streams go on: what is killed is started again after {restart:.0f} s.
Ctrl+C stops all of it.
"""  # noqa: E501 - lines to paste


class Terminal:
    """Prints what several parts say, a line at a time, and tells who says it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._colored = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def say(self, text: str) -> None:
        """Prints what is nobody's."""
        with self._lock:
            click.echo(text)

    def tell(self, name: str, color: str, text: str) -> None:
        """Prints a line of a part's."""
        head = f"{name:<8} |"
        self.say(f"\x1b[{color}m{head}\x1b[0m {text}" if self._colored else f"{head} {text}")


class Hub(Server):
    """A hub of the cluster.

    Args:
        folder: Where it works.
        number: Counts from 0.
        settings: What the environment says, beside its ports.
    """

    # The last line of what it prints about itself when it starts.
    ready = "START_AT_EARLIEST"

    def __init__(self, folder: Path, number: int, settings: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.name = f"hub-{number + 1}"
        self.port = _free(FIRST_PORT + number)
        self.grpc_port = _free(FIRST_GRPC_PORT + number)
        self._settings = settings

    def command(self) -> Sequence[str | Path]:
        """See the base."""
        return [sys.executable, "-m", "switchboard_server"]

    def environment(self) -> Mapping[str, str]:
        """See the base."""
        # Settings of the shell are for another hub; an empty value counts as none.
        others = [each for each in os.environ if each.startswith(("SWITCHBOARD_", "JWT_"))]
        return {
            **dict.fromkeys(others, ""),
            "PORT": str(self.port),
            "GRPC_PORT": str(self.grpc_port),
            "SWITCHBOARD_SHUTDOWN_SECONDS": str(SHUTDOWN_SECONDS),
            **self._settings,
        }


def _free(wanted: int) -> int:
    """A port, or another one where it is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, wanted))
        except OSError:
            return free_port()
    return wanted


def _is_telling(part: Server, line: str) -> bool:
    """Whether a line that a part prints while it runs is worth a look."""
    if isinstance(part, RabbitServer):
        return "[warning]" in line or "[error]" in line
    if isinstance(part, RedisServer):
        return " # " in line
    return True


class Demonstration:
    """Runs the parts until it is told to stop.

    Args:
        folder: Where the parts keep their data.
        nodes: How many hubs.
        verbose: Whether to show all that the parts print.
    """

    def __init__(self, folder: Path, nodes: int, *, verbose: bool) -> None:
        self._rabbit = RabbitServer(folder / "rabbitmq")
        self._redis = RedisServer(folder / "redis", append_only=True)
        settings = {
            "SWITCHBOARD_BACKEND": "cluster",
            "RABBITMQ_URL": self._rabbit.url,
            "REDIS_URL": self._redis.url,
        }
        self._hubs = [Hub(folder / f"hub-{each + 1}", each, settings) for each in range(nodes)]
        self._parts: list[Server] = [self._rabbit, self._redis, *self._hubs]
        self._terminal = Terminal()
        for part, color in zip(self._parts, cycle(_COLORS), strict=False):
            part.listener = partial(self._show, part, color, verbose)
        # What has happened, for the main thread to act on. A SimpleQueue, since a signal's handler
        # may interrupt its own `put`.
        self._events: queue.SimpleQueue[tuple[str, Server | None]] = queue.SimpleQueue()
        self._starting: set[Server] = set()
        self._reviving: set[threading.Thread] = set()
        self._stopping = False

    def run(self) -> int:
        """Starts everything, and ends it again.

        Returns:
            The exit code: 0 after a signal, 1 where a part did not start.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        try:
            self._terminal.say("Starting RabbitMQ, Redis and the hubs ...")
            self._start([self._rabbit, self._redis])
            self._start(self._hubs)
            if not self._stopping:
                self._terminal.say(self._session())
            while not self._stopping:
                self._act(*self._events.get())
        except AssertionError as error:
            if not self._stopping:
                self._terminal.say(_shortened(str(error)))
                return 1
        finally:
            self._stop()
        return 0

    # --- parts ------------------------------------------------------------------------------------

    def _start(self, parts: Sequence[Server]) -> None:
        """Starts parts side by side.

        Raises:
            AssertionError: One did not start.
        """
        with ThreadPoolExecutor(len(parts)) as pool:
            starting = [pool.submit(self._start_one, part) for part in parts]
            try:
                for each in as_completed(starting):
                    each.result()
            except AssertionError:
                # No use in waiting for the others.
                self._kill_starting()
                raise

    def _kill_starting(self) -> None:
        for part in tuple(self._starting):
            if part.running:
                part.interrupt()

    def _start_one(self, part: Server) -> None:
        self._starting.add(part)
        if self._stopping:
            return
        part.start()
        self._starting.discard(part)
        threading.Thread(target=self._watch, args=(part,), daemon=True).start()

    def _watch(self, part: Server) -> None:
        part.process.wait()
        self._events.put(("ended", part))

    def _act(self, event: str, part: Server | None) -> None:
        """Deals with what has happened, unless it is that all is to be stopped."""
        if part is None:
            return
        if event == "due":
            # Side by side: a hub waits for RabbitMQ and Redis as it starts.
            reviving = threading.Thread(target=self._revive, args=(part,), daemon=True)
            self._reviving = {each for each in self._reviving if each.is_alive()} | {reviving}
            reviving.start()
            return
        again = f"it is started again in {RESTART_SECONDS:.0f} s"
        self._terminal.say(f"{part.name} has ended with code {part.process.returncode}; {again}")
        self._revive_later(part)

    def _revive_later(self, part: Server) -> None:
        timer = threading.Timer(RESTART_SECONDS, self._events.put, [("due", part)])
        timer.daemon = True
        timer.start()

    def _revive(self, part: Server) -> None:
        part.kill()
        try:
            self._start_one(part)
        except AssertionError as error:
            if not self._stopping:
                self._terminal.say(_shortened(str(error)))
                self._revive_later(part)
        else:
            self._terminal.say(f"{part.name} is back")

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self._stopping:  # Who asks twice does not want to wait.
            self._starting.update(self._parts)
        # What is on its way up has nothing to finish.
        self._kill_starting()
        self._stopping = True
        self._events.put(("stop", None))

    def _stop(self) -> None:
        self._stopping = True
        self._terminal.say("Stopping all of it ...")
        for each in self._reviving:
            while each.is_alive():
                self._kill_starting()
                each.join(0.1)
        # The hubs first, so that they find RabbitMQ and Redis as long as they need them.
        for parts in (self._hubs, [self._rabbit, self._redis]):
            with ThreadPoolExecutor(len(parts)) as pool:
                for _ in pool.map(lambda part: part.stop(), parts):
                    pass

    # --- terminal ---------------------------------------------------------------------------------

    def _show(self, part: Server, color: str, verbose: bool, line: str) -> None:
        if verbose or (part not in self._starting and _is_telling(part, line)):
            self._terminal.tell(part.name, color, line.rstrip())

    def _session(self) -> str:
        hubs = [f"{LOOPBACK}:{hub.grpc_port}" for hub in self._hubs]
        return _SESSION.format(
            # The environment has one, for a shell that has none.
            grpcurl="grpcurl"
            if shutil.which("grpcurl")
            else Path(sys.executable).parent / "grpcurl",
            consoles="  ".join(f"http://{LOOPBACK}:{hub.port}/" for hub in self._hubs),
            rabbit=self._rabbit.url,
            redis=self._redis.url,
            pids="  ".join(f"{part.name}: {part.process.pid}" for part in self._parts),
            first=hubs[0],
            second=hubs[1 % len(hubs)],
            third=hubs[2 % len(hubs)],
            restart=RESTART_SECONDS,
        )


def _shortened(text: str) -> str:
    """What did not start, and the end of what it printed."""
    first, *lines = text.splitlines()
    return "\n".join((first, *(f"  {line}" for line in lines[-LAST_LINES:])))


@contextmanager
def _folder(given: Path | None, *, temporary: bool) -> Iterator[Path]:
    if not temporary:
        folder = (given or Path("data/cluster")).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise click.ClickException(f"another cluster runs in {folder}") from None
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="switchboard-cluster-") as made:
        yield Path(made)


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the data is, which is found again at the next start.  [default: data/cluster]",
)
@click.option("--temporary", is_flag=True, help="Keep the data in a folder that is removed again.")
@click.option("--nodes", type=click.IntRange(1, 9), default=3, show_default=True, help="Hubs.")
@click.option("--verbose", is_flag=True, help="Show all that RabbitMQ, Redis and the hubs print.")
def main(folder: Path | None, temporary: bool, nodes: int, verbose: bool) -> None:
    """Run RabbitMQ, Redis and hubs over them on loopback, until Ctrl+C.

    The hubs listen where a lone hub does, on ports 50051 (gRPC) and 8008 (console), and on the next
    ones; where one is taken, on another. RabbitMQ and Redis are private, on free ports.
    """
    if folder and temporary:
        raise click.UsageError("--folder and --temporary exclude each other")
    with _folder(folder, temporary=temporary) as place:
        sys.exit(Demonstration(place, nodes, verbose=verbose).run())


if __name__ == "__main__":
    main(prog_name="scripts/cluster")

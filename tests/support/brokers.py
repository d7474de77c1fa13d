"""Private RabbitMQ and Redis servers, of Debian's packages, on free ports of loopback."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.support.servers import LOOPBACK, Server, free_port

_RABBITMQ = Path("/usr/lib/rabbitmq/bin")
"""Its own scripts. Those in /usr/sbin change the user to rabbitmq, and run for no other."""
_RABBITMQ_CONFIG = f"""\
listeners.tcp.1 = {LOOPBACK}:%d
log.console = true
log.console.level = info
log.connection.level = warning
log.queue.level = warning
# A test needs little of either, and is not to be stopped by an alarm of a machine that has less.
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 16777216
raft.segment_max_entries = 4096
"""


class RabbitServer(Server):
    """A RabbitMQ node with users, queues and an Erlang port mapper of its own.

    Args:
        folder: Where it keeps all its files.
        schedulers: Threads that it computes on. One makes for the fastest start, and leaves the
            processor to what is tested.
    """

    name = "RabbitMQ"
    ready = "Server startup complete"

    def __init__(self, folder: Path, schedulers: int = 1) -> None:
        super().__init__(folder)
        self.port, self._distribution_port, self._mapper_port = (free_port() for _ in range(3))
        self._schedulers = schedulers

    @property
    def url(self) -> str:
        """What RABBITMQ_URL is set to."""
        return self.url_at(self.port)

    @staticmethod
    def url_at(port: int) -> str:
        """What RABBITMQ_URL is set to where a proxy's port leads to it."""
        return f"amqp://guest:guest@{LOOPBACK}:{port}/"

    def files(self) -> Mapping[str, str]:
        """See the base."""
        return {"rabbitmq.conf": _RABBITMQ_CONFIG % self.port, "enabled_plugins": "[].\n"}

    def command(self) -> Sequence[str | Path]:
        """See the base."""
        return [_RABBITMQ / "rabbitmq-server"]

    def environment(self) -> Mapping[str, str]:
        """See the base."""
        one = self._schedulers
        return {
            "HOME": str(self.folder),  # of the cookie by which its own tools know it
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "RABBITMQ_NODENAME": "rabbit@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            # What the machine's own RabbitMQ is configured with is not for this one.
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"+S {one}:{one} +SDcpu {one}:{one} +SDio {one} +A 1"
                " -kernel inet_dist_use_interface {127,0,0,1}"
            ),
            # Makes its script become the server, where it otherwise starts it as a child: signals
            # go to the server itself.
            "detached": "true",
        }

    def helpers(self) -> Iterable[Sequence[str]]:
        """See the base."""
        # Started as a child, since the one that RabbitMQ would start by itself outlives it.
        return [["epmd", "-port", str(self._mapper_port), "-address", LOOPBACK]]

    def tool(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """How to call rabbitmqctl for it.

        Args:
            arguments: Those of rabbitmqctl.

        Returns:
            The command, and what to add to the environment.
        """
        return [str(_RABBITMQ / "rabbitmqctl"), *arguments], dict(self.environment())


class RedisServer(Server):
    """A Redis server.

    Args:
        folder: Where it keeps all its files.
        append_only: Whether it stores what it has in an append-only file, and finds it there after
            a restart; otherwise it comes back empty.
    """

    name = "Redis"
    ready = "Ready to accept connections"

    def __init__(self, folder: Path, *, append_only: bool = False) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.master: RedisServer | None = None
        """What it is a replica of, from its next start on; None: of nothing."""
        self._append_only = append_only

    @property
    def url(self) -> str:
        """What REDIS_URL is set to."""
        return self.url_at(self.port)

    @staticmethod
    def url_at(port: int) -> str:
        """What REDIS_URL is set to where a proxy's port leads to it."""
        return f"redis://{LOOPBACK}:{port}/0"

    def command(self) -> Sequence[str | Path]:
        """See the base."""
        settings = {
            "port": str(self.port),
            "bind": LOOPBACK,
            "dir": str(self.folder),
            "save": "",  # no snapshots
            "appendonly": "yes" if self._append_only else "no",
        }
        if self.master is not None:
            settings["replicaof"] = f"{LOOPBACK} {self.master.port}"
        return [
            "redis-server",
            *(word for key, value in settings.items() for word in (f"--{key}", value)),
        ]

"""One life of the link: two connections to one server, until either of them fails."""

import asyncio
import math
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import (
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from switchboard_server.backends.redis.addresses import Address
from switchboard_server.backends.redis.scripts import Argument, Script

MAX_WAITING = 50_000
"""Most commands that may wait for an answer."""
_BATCH_COMMANDS = 512
_BATCH_BYTES = 1024 * 1024

# Tells which life of the server's data this is, and begins another where the server is another
# process than the one that wrote it last, or has lost it: after a restart even what was saved is as
# of some earlier time, and who counts on from there would give numbers that others have seen.
_MEET = Script(
    """
    local life = redis.call('GET', KEYS[1])
    if not life or string.sub(life, 1, #ARGV[1]) ~= ARGV[1] then
      life = ARGV[1] .. ':' .. ARGV[2]
      redis.call('SET', KEYS[1], life)
    end
    return life
    """
)
# Writes, last of all, to see whether the server takes that.
_BEAT = Script(
    """
    if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
    redis.call('PUBLISH', ARGV[2], ARGV[3])
    redis.call('SET', KEYS[1], ARGV[1])
    return 1
    """
)


class LinkError(Exception):
    """Redis did not do it, or nobody can tell.

    Args:
        problem: Why, for people, with the server and no password.
        sent: It was under way: it may have been done.
    """

    def __init__(self, problem: str, *, sent: bool = False) -> None:
        super().__init__(problem)
        self.problem = problem
        self.sent = sent


class _Command:
    """A command that waits for its answer."""

    __slots__ = ("answer", "arguments", "fallback", "size")

    def __init__(self, arguments: list[Argument], answer: asyncio.Future[Any]) -> None:
        self.arguments = arguments
        self.answer = answer
        self.fallback: Callable[[], list[Argument]] | None = None
        self.size = sum(len(each) for each in arguments if not isinstance(each, int))


class Session:
    """Two connections to one server: one for commands, one that hears what channels carry.

    What is asked in one turn of the event loop goes out together, and commands are done in the
    order in which they were asked. A server that does not answer in time, or whose channels stay
    silent when this session itself says something on one, is given up.

    Args:
        address: The server.
        name: What the server calls the connections.
        prefix: Begins the names of keys and channels.
        timeout: Seconds that an answer may take.
        heard: Is told what comes on a channel.
        refused: Is told, at each beat at least, why the server takes no writes now, for people;
            None: it takes them.

    Attributes:
        life: Names the life of the server's data; empty: it is not known yet.
    """

    def __init__(
        self,
        address: Address,
        name: str,
        *,
        prefix: str,
        timeout: float,
        heard: Callable[[bytes, bytes], None],
        refused: Callable[[str | None], None],
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._heard = heard
        self._refused = refused
        self._life_key = f"{{{prefix}}}:life"
        self._nonce_channel = f"{prefix}.{address.db}.nonce.{secrets.token_hex(8)}".encode()
        self._nonce = b""
        self._nonce_heard = asyncio.Event()
        self._commands = address.connection(name, timeout)
        self._listener = address.connection(name, timeout)
        self._waiting: deque[_Command] = deque()
        self._sent: deque[_Command] = deque()
        self._wanted = asyncio.Event()
        self._confirming: dict[bytes, asyncio.Future[None]] = {}
        self._over: str | None = None
        self.life = ""

    async def open(self, scripts: Iterable[Script]) -> None:
        """Connects.

        Args:
            scripts: What the server is to know.

        Raises:
            LinkError: It cannot be reached, or takes no writes.
        """
        try:
            async with asyncio.timeout(4 * self._timeout):
                await self._commands.connect()  # type: ignore[no-untyped-call]
                run_id = await self._examined()
                for script in (*scripts, _MEET, _BEAT):
                    await self._ask(["SCRIPT", "LOAD", script.source])
                fresh = secrets.token_hex(4)
                met = await self._ask(_MEET.by_hash((self._life_key,), (run_id, fresh)))
                self.life = met.decode()
                await self._listener.connect()  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            raise LinkError(self._said(error)) from error

    async def run(self, beat_seconds: float) -> None:
        """Serves until something fails.

        Args:
            beat_seconds: How often to see whether the server is all there.

        Raises:
            LinkError: What has failed.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._serve())
                tasks.create_task(self._listen())
                tasks.create_task(self._beat(beat_seconds))
        except BaseExceptionGroup as group:
            expected, defects = group.split((RedisError, OSError, TimeoutError, LinkError))
            if expected is None or defects is not None:
                raise
            first: BaseException = expected
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            problem = first.problem if isinstance(first, LinkError) else self._said(first)
            raise LinkError(problem) from first

    async def close(self, problem: str) -> None:
        """Cuts both connections; what was not answered fails with the problem."""
        self._over = problem
        for commands, sent in ((self._sent, True), (self._waiting, False)):
            while commands:
                _fail(commands.popleft().answer, LinkError(problem, sent=sent))
        for confirmed in self._confirming.values():
            _fail(confirmed, LinkError(problem, sent=True))
        for connection in (self._commands, self._listener):
            await connection.disconnect(nowait=True)

    def ask(
        self, arguments: list[Argument], fallback: Callable[[], list[Argument]] | None = None
    ) -> asyncio.Future[Any]:
        """Has the server do a command.

        Args:
            arguments: The command.
            fallback: What to do instead where the server does not know the script that it names.

        Raises:
            LinkError: The session is over, or too much waits.
        """
        if self._over is not None:
            raise LinkError(self._over)
        if len(self._waiting) >= MAX_WAITING:
            raise LinkError(f"{MAX_WAITING} commands wait for Redis at {self._address.text}")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        command = _Command(arguments, answer)
        command.fallback = fallback
        self._waiting.append(command)
        self._wanted.set()
        return answer

    async def subscribe(self, *channels: bytes) -> None:
        """Hears some channels from now on.

        Raises:
            LinkError: The server cannot be reached any more.
        """
        confirmed = []
        for channel in channels:
            if channel not in self._confirming:
                self._confirming[channel] = asyncio.get_running_loop().create_future()
            confirmed.append(self._confirming[channel])
        try:
            async with asyncio.timeout(2 * self._timeout):
                await self._listener.send_command("SUBSCRIBE", *channels)
                await asyncio.gather(*confirmed)
        except (RedisError, OSError, TimeoutError) as error:
            raise LinkError(self._said(error), sent=True) from error

    async def unsubscribe(self, *channels: bytes) -> None:
        """Hears some channels no longer.

        Raises:
            LinkError: The server cannot be reached any more.
        """
        try:
            async with asyncio.timeout(2 * self._timeout):
                await self._listener.send_command("UNSUBSCRIBE", *channels)
        except (RedisError, OSError, TimeoutError) as error:
            raise LinkError(self._said(error), sent=True) from error

    async def _examined(self) -> str:
        """The server's run id; raises LinkError where it is a replica."""
        text = (await self._ask(["INFO", "server"])) + (await self._ask(["INFO", "replication"]))
        facts = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line[1:])
        if facts.get("role") == "slave":
            raise LinkError(f"Redis at {self._address.text} is a replica, which takes no writes")
        return str(facts["run_id"])

    async def _ask(self, arguments: list[Argument]) -> Any:
        """Does one command before the session serves."""
        await self._commands.send_command(*arguments)
        return await self._commands.read_response()

    async def _serve(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._waiting:
                await self._do(self._batch())

    def _batch(self) -> list[_Command]:
        batch: list[_Command] = []
        size = 0
        while self._waiting and len(batch) < _BATCH_COMMANDS and size < _BATCH_BYTES:
            command = self._waiting.popleft()
            size += command.size
            batch.append(command)
        return batch

    async def _do(self, batch: list[_Command]) -> None:
        self._sent.extend(batch)
        unknown: list[_Command] = []
        async with asyncio.timeout(2 * self._timeout):
            packed = self._commands.pack_commands(each.arguments for each in batch)
            await self._commands.send_packed_command(packed)
            for command in batch:
                try:
                    answer = await _read(self._commands)
                except ResponseError as error:
                    if isinstance(error, NoScriptError) and command.fallback is not None:
                        unknown.append(command)
                    else:
                        self._see_refusal(error)
                        _fail(command.answer, error)
                    if isinstance(error, ReadOnlyError | MasterDownError):
                        raise
                else:
                    if not command.answer.done():
                        command.answer.set_result(answer)
                self._sent.popleft()
        for command in reversed(unknown):
            # Somebody told the server to forget its scripts. Before what was asked later.
            if command.fallback is not None:
                command.arguments, command.fallback = command.fallback(), None
                self._waiting.appendleft(command)

    async def _listen(self) -> None:
        while True:
            kind, channel, data = await _read(self._listener)
            if kind == b"message":
                if channel != self._nonce_channel:
                    self._heard(channel, data)
                elif data == self._nonce:
                    self._nonce_heard.set()
            elif kind == b"subscribe":
                confirmed = self._confirming.pop(channel, None)
                if confirmed is not None and not confirmed.done():
                    confirmed.set_result(None)

    async def _beat(self, seconds: float) -> None:
        await self.subscribe(self._nonce_channel)
        while True:
            self._nonce = secrets.token_hex(8).encode()
            self._nonce_heard.clear()
            try:
                if not await self.ask(*self._beat_command()):
                    raise LinkError(f"Redis at {self._address.text} was emptied")
                self._refused(None)
            except ResponseError as error:
                if not _refuses_writes(error):
                    raise
            try:
                async with asyncio.timeout(2 * self._timeout):
                    await self._nonce_heard.wait()
            except TimeoutError:
                raise LinkError(
                    f"Redis at {self._address.text} answers, but its channels are silent"
                ) from None
            await asyncio.sleep(seconds)

    def _beat_command(self) -> tuple[list[Argument], Callable[[], list[Argument]]]:
        keys, args = (self._life_key,), (self.life, self._nonce_channel, self._nonce)
        return _BEAT.by_hash(keys, args), lambda: _BEAT.in_full(keys, args)

    def _see_refusal(self, error: ResponseError) -> None:
        if _refuses_writes(error):
            self._refused(f"Redis at {self._address.text} takes no writes: {plain(error)}")

    def _said(self, error: BaseException) -> str:
        """What went wrong, for people."""
        if isinstance(error, TimeoutError) or "imeout" in type(error).__name__:
            what = f"did not answer within {2 * self._timeout:g} s"
        else:
            what = str(error).rstrip(". ") or type(error).__name__
        return f"Redis at {self._address.text}: {what}"


def plain(error: ResponseError) -> str:
    """What Redis says, without the place in a script that it adds."""
    return str(error).split(" script: ")[0].rstrip(". ")


def _refuses_writes(error: ResponseError) -> bool:
    """Whether it is for want of memory, of a disk, or of replicas that are to have it, too."""
    return isinstance(error, OutOfMemoryError) or str(error).startswith(("MISCONF", "NOREPLICAS"))


async def _read(connection: Connection) -> Any:
    # Who calls it limits the time, for all that is asked together.
    return await connection.read_response(timeout=math.inf)


def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
        # Who asked may have gone; that nobody looks at the failure then is no defect.
        answer.exception()

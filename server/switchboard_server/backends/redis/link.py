"""The supervised way to Redis, for all that a node does there."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from switchboard_server.backends.complaints import Complaints
from switchboard_server.backends.redis.addresses import Address, parse_addresses
from switchboard_server.backends.redis.scripts import Argument, Script
from switchboard_server.backends.redis.session import LinkError, Session

__all__ = ["LinkError", "LinkWatcher", "RedisLink"]

TIMEOUT_SECONDS = 1.0
"""How long Redis may take for an answer; twice that for everything that is asked together."""
BEAT_SECONDS = 1.0
"""How often the link sees whether Redis is all there."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0

_logger = logging.getLogger(__name__)


class LinkWatcher(Protocol):
    """Somebody who keeps something in Redis. The methods are called in the event loop."""

    def link_up(self, life: str) -> None:
        """Redis can be used, and all channels are heard from now on.

        What channels carried before, since `link_down`, is missed. What was asked at that time may
        have been done or not.

        Args:
            life: Names this life of Redis's data. Another one than before: what was there is gone,
                or of an earlier time, since Redis was restarted, emptied or is another server.
                Whoever needs it there creates it again, and counts nothing on from it.
        """
        ...

    def link_down(self, problem: str) -> None:
        """Redis cannot be used until `link_up`.

        Args:
            problem: Why, for people.
        """
        ...

    def refusal_changed(self) -> None:
        """Redis, which can be used, takes no writes, as `problem` says, or takes them again."""
        ...


class RedisLink:
    """The way to one of several Redis servers, the first that can be reached and takes writes.

    It connects, and connects again after each loss, by itself, and never repeats a command: what
    was under way when the link was lost fails, and may have been done. Commands and scripts are
    done in the order in which they are asked for, so that what somebody writes step by step is
    never written in another order. A server that is frozen, a connection that is half open and a
    subscription that has gone silent are noticed within about three seconds.

    All of it is used in one event loop; coroutines may be called concurrently and cancelled, which
    does not take back what they have asked for.

    Args:
        urls: `redis://` or `rediss://` URLs, of which each may be several with commas between.
        prefix: Begins the names of all keys and channels, so that several clusters share a server.
        name: What the server calls the connections, such as the node's name.
        timeout: Seconds that an answer may take.
        beat: Seconds between two looks whether the server is all there.

    Attributes:
        timeout: As given.
        losses: How often the link was lost.

    Raises:
        ValueError: A URL is none.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        prefix: str = "switchboard",
        name: str = "switchboard",
        timeout: float = TIMEOUT_SECONDS,
        beat: float = BEAT_SECONDS,
    ) -> None:
        self._addresses = parse_addresses(urls)
        self._prefix = prefix
        # Redis takes no spaces in it.
        self._name = "".join(each if each.isalnum() or each in "-._" else "-" for each in name)
        self.timeout = timeout
        self._beat = beat
        self._session: Session | None = None
        self._problem: str | None = "Redis is not connected yet"
        self._refusal: str | None = None
        self._complaints = Complaints(_logger, time.monotonic)
        self._watchers: dict[LinkWatcher, None] = {}
        self._channels: dict[bytes, Callable[[bytes], None]] = {}
        self._scripts: dict[Script, None] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.losses = 0

    @property
    def up(self) -> bool:
        """Whether Redis can be used now."""
        return self._session is not None

    @property
    def problem(self) -> str | None:
        """Why Redis cannot be used, or takes no writes, for people; None: all is well."""
        return self._problem or self._refusal

    @property
    def life(self) -> str:
        """Names this life of Redis's data; empty while Redis cannot be used."""
        return "" if self._session is None else self._session.life

    def key(self, *parts: str) -> str:
        """Name of a key. All keys of a cluster lie in one hash slot, so that scripts take any."""
        return f"{{{self._prefix}}}:{':'.join(parts)}"

    def channel(self, *parts: str) -> str:
        """Name of a channel. Unlike keys, channels are shared by all databases of a server."""
        return f"{self._prefix}.{self._addresses[0].db}:{':'.join(parts)}"

    def script(self, source: str) -> Script:
        """Makes a script that the server learns at each connect."""
        script = Script(source)
        self._scripts[script] = None
        return script

    def watch(self, watcher: LinkWatcher) -> None:
        """Tells somebody of every change from now on, and at once if Redis can be used."""
        self._watchers[watcher] = None
        if self._session is not None:
            watcher.link_up(self._session.life)

    def unwatch(self, watcher: LinkWatcher) -> None:
        """Takes back `watch`."""
        self._watchers.pop(watcher, None)

    async def open(self) -> None:
        """Begins to connect, and waits for the first try of every server, but for no success."""
        self._task = asyncio.create_task(self._supervise(), name="redis link")
        await self._changed.wait()

    async def close(self) -> None:
        """Ends the link."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def wait_up(self, seconds: float) -> None:
        """Waits until Redis can be used.

        Raises:
            LinkError: It cannot, for so long.
        """
        try:
            async with asyncio.timeout(seconds):
                while self._session is None:
                    await self._changed.wait()
        except TimeoutError:
            raise LinkError(self._problem or "Redis cannot be used") from None

    async def call(self, *command: Argument) -> Any:
        """Does a command.

        Returns:
            Redis's answer; texts are bytes.

        Raises:
            LinkError: Redis cannot be used, or the link was lost before the answer came.
            redis.exceptions.ResponseError: Redis refuses it.
        """
        return await self._current().ask(list(command))

    async def run(self, script: Script, keys: Sequence[str], *args: Argument) -> Any:
        """Runs a script.

        Args:
            script: One that `script` has made.
            keys: The keys that it uses, or one that names their slot.
            args: What it is given.

        Returns:
            What it returns; texts are bytes.

        Raises:
            LinkError: As of `call`.
            redis.exceptions.ResponseError: It has failed.
        """
        return await self.begin(script, keys, *args)

    def begin(self, script: Script, keys: Sequence[str], *args: Argument) -> asyncio.Future[Any]:
        """Begins to run a script: `run` for those who need its place in the order now.

        Raises:
            LinkError: Redis cannot be used now.
        """
        names = tuple(keys)
        return self._current().ask(script.by_hash(names, args), lambda: script.in_full(names, args))

    async def subscribe(self, channel: str, received: Callable[[bytes], None]) -> None:
        """Hears a channel, from now on or as soon as Redis can be used.

        Args:
            channel: Its name, made by `channel`.
            received: Is told each message, in the order in which they came. It must neither block
                nor raise. What is missed while the link is down ends with `LinkWatcher.link_up`.
        """
        self._channels[channel.encode()] = received
        if self._session is not None:
            try:
                await self._session.subscribe(channel.encode())
            except LinkError as error:
                # The session ends by the same fault, and the next one begins with it.
                _logger.debug("subscribing to %s: %s", channel, error.problem)

    async def unsubscribe(self, channel: str) -> None:
        """Hears a channel no longer."""
        self._channels.pop(channel.encode(), None)
        if self._session is not None:
            try:
                await self._session.unsubscribe(channel.encode())
            except LinkError as error:
                _logger.debug("unsubscribing from %s: %s", channel, error.problem)

    def _current(self) -> Session:
        if self._session is None:
            raise LinkError(self._problem or "Redis cannot be used")
        return self._session

    def _heard(self, channel: bytes, data: bytes) -> None:
        received = self._channels.get(channel)
        if received is None:
            return
        try:
            received(data)
        except Exception:
            _logger.exception("what hears the channel %r has failed", channel)

    async def _supervise(self) -> None:
        failures = 0
        task = asyncio.current_task()
        assert task is not None, "it is one"
        # Asked each time: a connection that fails as the task is cancelled may swallow that.
        while not task.cancelling():
            for address in self._addresses:
                losses = self.losses
                try:
                    await self._stay(address)
                except LinkError as error:
                    self._problem = error.problem
                    self._complaints.tell(f"{error.problem}; trying again")
                if self.losses > losses:
                    failures = -1
                    break
            failures += 1
            self._tell_changed()
            pause = min(_FIRST_PAUSE * 2**failures, _LONGEST_PAUSE)
            # Full jitter, so that the nodes of a cluster do not come back as one.
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311

    async def _stay(self, address: Address) -> None:
        """Uses a server for as long as it goes well.

        Raises:
            LinkError: It does not, or no longer.
        """
        session = Session(
            address,
            self._name,
            prefix=self._prefix,
            timeout=self.timeout,
            heard=self._heard,
            refused=self._refused,
        )
        problem = "the hub shuts down"
        try:
            await session.open(self._scripts)
            serving = asyncio.ensure_future(session.run(self._beat))
            try:
                await self._begin_use(session, serving, address)
                await serving
            finally:
                serving.cancel()
                await asyncio.wait([serving])
        except LinkError as error:
            problem = error.problem
            raise
        except Exception as error:
            # What the driver may do beside what is known of it must not end the link.
            _logger.exception("the link to Redis at %s failed", address.text)
            problem = f"Redis at {address.text}: {error}"
            raise LinkError(problem) from error
        finally:
            await self._end_use(session, problem)

    async def _end_use(self, session: Session, problem: str) -> None:
        was_up = self._session is session
        self._refusal = None
        if was_up:
            self._session, self._problem = None, problem
            self.losses += 1
        try:
            await session.close(problem)
        finally:
            if was_up:
                for watcher in list(self._watchers):
                    watcher.link_down(problem)

    async def _begin_use(
        self, session: Session, serving: asyncio.Future[None], address: Address
    ) -> None:
        """Says that Redis can be used, once the channels are heard."""
        subscribing = asyncio.ensure_future(self._resubscribe(session))
        await asyncio.wait([serving, subscribing], return_when=asyncio.FIRST_COMPLETED)
        if not subscribing.done():
            subscribing.cancel()
            await asyncio.wait([subscribing])
            return
        subscribing.result()
        self._session, self._problem = session, None
        self._complaints.end()
        _logger.info("Redis at %s can be used", address.text)
        self._tell_changed()
        for watcher in list(self._watchers):
            watcher.link_up(session.life)

    def _refused(self, refusal: str | None) -> None:
        if refusal is not None:
            self._complaints.tell(refusal)
        elif self._refusal is not None:
            self._complaints.end()
            _logger.info("Redis takes writes again")
        if refusal != self._refusal:
            self._refusal = refusal
            if self._session is not None:
                for watcher in list(self._watchers):
                    watcher.refusal_changed()

    async def _resubscribe(self, session: Session) -> None:
        done: set[bytes] = set()
        while wanted := [each for each in self._channels if each not in done]:
            await session.subscribe(*wanted)
            done.update(wanted)

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

"""How a node keeps up with the shared registry."""

import asyncio
import logging
from contextlib import suppress

import orjson
from redis.exceptions import ResponseError

from switchboard_server.backends.redis import registry_scripts as scripts
from switchboard_server.backends.redis.link import LinkError, RedisLink
from switchboard_server.backends.redis.registry_feed import Feed
from switchboard_server.backends.redis.registry_place import LostError, Place, node_name
from switchboard_server.backends.redis.registry_records import (
    Dial,
    read_change,
    read_key,
    read_row,
)
from switchboard_server.backends.redis.registry_restoring import Restorer
from switchboard_server.core.registry.model import Key
from switchboard_server.core.registry.sharing import (
    Knowledge,
    Record,
    SharedChange,
    SharedHandler,
    View,
)

TICK_SECONDS = 0.5
"""How often a node says that it lives, and sees what has run out."""
PAUSE_SECONDS = 0.2
"""How long to wait after a failure, while Redis can be used."""
DEFECT_SECONDS = 2.0
"""How long to wait after a failure that should not be."""
OPEN_SECONDS = 5.0
"""How long a start waits for the registry to be loaded."""
PAGE = 500
"""How much is read at once."""

_logger = logging.getLogger(__name__)


class Follower:
    """Follows the registry for one node. One task, which `open` starts, does all of it.

    Args:
        link: The way to Redis.
        place: Where the registry is.
        lease: Seconds after which the others take this node for dead.
        interval: Seconds within which evictions are counted for self-preservation.
    """

    def __init__(self, link: RedisLink, place: Place, *, lease: float, interval: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._place = place
        self._lease = lease
        self._interval = interval
        self._tick_script = link.script(scripts.TICK)
        self._join_script = link.script(scripts.JOIN)
        self._leave_script = link.script(scripts.LEAVE)
        self._position_script = link.script(scripts.POSITION)
        self._restorer = Restorer(link, place, _milliseconds(lease))
        self._up = asyncio.Event()
        self._woken = asyncio.Event()
        self._tried = asyncio.Event()
        self._entered = False
        self._member = False
        self._loaded = False
        self._owed: str | None = None
        self._view = ""
        self._wait = TICK_SECONDS
        self._expected = 0
        self._alive_until = 0.0
        self._wall_ms = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the others surely take this node for alive."""
        return self._loop.time() < self._alive_until

    @property
    def dial(self) -> Dial:
        """How the registry's clock stands."""
        return self._feed.dial

    # --- life ------------------------------------------------------------------------------------

    async def open(self, handler: SharedHandler) -> None:
        """Begins to follow; waits until all is known, unless Redis cannot be used."""
        self._handler = handler
        self._feed = Feed(handler, self._place, self.wake, self.wake)
        await self._link.subscribe(self._place.channel, self._feed.hear)
        self._link.watch(self)
        self._task = asyncio.create_task(self._run(), name="registry follower")
        with suppress(TimeoutError):
            async with asyncio.timeout(OPEN_SECONDS):
                await self._tried.wait()

    async def close(self) -> None:
        """Says that this node leaves, and follows no more. May be called twice."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        self._task = None
        self._link.unwatch(self)
        await self._link.unsubscribe(self._place.channel)
        try:
            while self._member and (await self._place.ask(self._leave_script))[0] == "more":
                pass
        except (LinkError, LostError, ResponseError) as error:
            _logger.info("the others will find out that this node is gone: %s", error)
        self._member = False

    def wake(self) -> None:
        """Sees now what there is to do."""
        self._woken.set()

    # --- what the link tells; see `LinkWatcher` --------------------------------------------------

    def link_up(self, _life: str) -> None:
        """See `LinkWatcher.link_up`. What was lost is known by its stamp, not by the life."""
        self._up.set()
        self.wake()

    def link_down(self, problem: str) -> None:
        """See `LinkWatcher.link_down`."""
        self._up.clear()
        self._entered = False
        self._feed.hold()
        self._handler.reported(problem)

    def refusal_changed(self) -> None:
        """See `LinkWatcher.refusal_changed`: sees now what Redis takes."""
        self.wake()

    # --- staying with the others -----------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            if not self._link.up:
                self._handler.reported(self._link.problem)
                self._tried.set()
                await self._up.wait()
            try:
                await self._enter()
                self._tried.set()
                await self._stay()
            except LostError:
                self._handler.reported("Redis has lost the registry, which is being put back")
            except (LinkError, ResponseError) as error:
                if self._link.up:
                    self._handler.reported(f"the registry in Redis cannot be used: {error}")
                    await asyncio.sleep(PAUSE_SECONDS)
            except Exception as error:
                # A defect, such as something in Redis that is not of this version's making. Nobody
                # is served better by a node that follows no more.
                _logger.exception("following the registry has failed; trying again")
                self._handler.reported(f"the registry in Redis cannot be followed: {error!r}")
                await asyncio.sleep(DEFECT_SECONDS)

    async def _enter(self) -> None:
        """Comes to know everything, and joins the others."""
        self._entered = True
        self._feed.hold()
        while True:
            try:
                if self._owed is not None:
                    await self._restore(self._owed)
                    self._owed = None
                await self._catch_up()
                break
            except LostError:
                await self._find()
        if not self._member:
            await self._join()
        if self._entered:
            self._handler.reported(None)

    async def _stay(self) -> None:
        """Keeps up, until the link is lost, however soon it is back."""
        while self._entered:
            self._woken.clear()
            await self._tick()
            if not self._feed.complete:
                await self._catch_up()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._wait):
                    await self._woken.wait()

    async def _tick(self) -> None:
        announced = self._handler.announced()
        began = self._loop.time()
        answer = await self._ask_tick("" if announced is None else str(announced))
        if answer is None:
            _logger.warning("the other nodes took this one for dead; it joins them again")
            self._place.rename()
            await self._join()
            self._wait = 0.0
            return
        self._alive_until = began + self._lease
        self._set_dial(answer, began)
        if self._feed.complete and self._place.seen < self._expected:
            # What the last answer spoke of should have been heard by now.
            _logger.info("writes of the registry were not heard; looking them up")
            self._feed.hold()
        self._expected = int(answer[2])
        self._handler.withheld(int(answer[5] or 0), int(answer[6]))
        wait = TICK_SECONDS if answer[7] == "" else int(answer[7]) / 1000 + 0.001
        self._wait = min(TICK_SECONDS, wait)
        if answer[8] != self._view:
            self._view = answer[8]
            nodes = {node_name(token) for token in answer[10:]}
            self._handler.viewed(View(int(self._view), nodes, int(answer[9])))

    async def _ask_tick(self, announced: str) -> list[str] | None:
        answer = await self._place.ask(
            self._tick_script,
            _milliseconds(self._lease),
            _milliseconds(self._interval),
            self._view,
            announced,
        )
        return None if answer[0] == "stranger" else answer

    async def _join(self) -> None:
        self._view = ""
        await self._place.ask(self._join_script, _milliseconds(self._lease))
        self._member = True
        self._handler.joined()

    # --- catching up -----------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        """Comes to know what was not heard."""
        self._feed.hold()
        began = self._loop.time()
        answer = await self._place.ask(self._position_script)
        self._set_dial(answer, began)
        revision, stamp = int(answer[1]), int(answer[2])
        missed = await self._changes(revision) if self._loaded else None
        if missed is not None:
            for change in missed:
                self._handler.changed(change)
            for record in await self._records():
                self._handler.touched(record)
        else:
            changes = await self._last_changes(revision)
            self._handler.loaded(revision, await self._records(), changes)
            self._loaded = True
        self._handler.loads(await self._loads())
        self._feed.revision = revision
        self._feed.resume(stamp)
        self._expected = 0

    async def _changes(self, revision: int) -> list[SharedChange] | None:
        """The changes from what is known to a revision; None: not all of them are there."""
        wanted = range(self._feed.revision + 1, revision + 1)
        if len(wanted) > scripts.HISTORY:
            return None
        found: list[SharedChange] = []
        while len(found) < len(wanted):
            first = wanted[len(found)]
            page = await self._place.call(
                "XRANGE", "changes", f"{first}-0", f"{revision}-0", "COUNT", PAGE
            )
            read = [self._read(fields) for _, fields in page]
            if not read or [each.revision for each in read] != list(
                range(first, first + len(read))
            ):
                return None
            found += read
        return found

    async def _last_changes(self, revision: int) -> list[SharedChange]:
        """The last changes up to a revision, without a gap."""
        found: list[SharedChange] = []
        while len(found) < scripts.HISTORY:
            page = await self._place.call(
                "XREVRANGE", "changes", f"{revision - len(found)}-0", "-", "COUNT", PAGE
            )
            for _, fields in page:
                change = self._read(fields)
                if change.revision != revision - len(found):
                    page = []
                    break
                found.append(change)
            if not page:
                break
        return found[::-1]

    def _read(self, fields: list[bytes]) -> SharedChange:
        message = orjson.loads(fields[1])
        return read_change(message, message[7], self._feed.dial, self._loop.time())

    async def _records(self) -> list[Record]:
        records: dict[bytes, Record] = {}
        cursor: bytes = b"0"
        while True:
            cursor, page = await self._place.call("HSCAN", "instances", cursor, "COUNT", PAGE)
            for key, row in zip(page[::2], page[1::2], strict=True):
                records[key] = read_row(orjson.loads(row), self._feed.dial)
            if cursor == b"0":
                return list(records.values())

    async def _loads(self) -> dict[Key, float]:
        found = await self._place.call("HGETALL", "loads")
        return {
            read_key(key.decode()): float(load)
            for key, load in zip(found[::2], found[1::2], strict=True)
        }

    def _set_dial(self, answer: list[str], began: float) -> None:
        self._wall_ms = int(answer[3])
        middle = (began + self._loop.time()) / 2
        self._place.ahead = self._wall_ms / 1000 - middle
        self._feed.dial = Dial(int(answer[4]), self._place.ahead)

    # --- a store that was lost -------------------------------------------------------------------

    async def _find(self) -> None:
        """Finds the store that there is now, or begins one."""
        before = self._place.id
        known = self._handler.knowledge() if before else Knowledge(0, 0, (), 0, {})
        found = await self._restorer.find(known)
        if found == before:
            return
        if before:
            _logger.warning("Redis has lost the registry; this node puts back what it knows")
            if self._loaded or self._owed is not None:
                self._owed = before
        self._place.id = found
        self._place.seen = 0
        self._loaded = self._member = False

    async def _restore(self, before: str) -> None:
        """Puts back what this node knows of a store."""
        await self._restorer.put_back(before, self._handler.knowledge(), self._wall_ms)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)

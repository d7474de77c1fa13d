"""The registry that nodes share, in Redis."""

import secrets
from collections.abc import Mapping, Sequence
from itertools import count

import orjson
from redis.exceptions import ResponseError

from switchboard_server.backends.redis import registry_scripts as scripts
from switchboard_server.backends.redis.link import LinkError, RedisLink
from switchboard_server.backends.redis.registry_following import Follower
from switchboard_server.backends.redis.registry_place import Answer, LostError, Place
from switchboard_server.backends.redis.registry_records import (
    first_verdict,
    read_row,
    write_check,
    write_key,
    write_spec,
)
from switchboard_server.backends.redis.scripts import Argument, Script
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.errors import (
    UnavailableError,
)
from switchboard_server.core.registry.directory import conflict, too_many
from switchboard_server.core.registry.entries import Declared
from switchboard_server.core.registry.model import Key, Registration
from switchboard_server.core.registry.roster import no_instance
from switchboard_server.core.registry.sharing import (
    Hold,
    Judgement,
    Record,
    SharedCapabilities,
    SharedHandler,
)

NODE_LEASE = 5.0
"""Seconds after which the others take a node for dead that says nothing."""


class RedisRegistry:
    """A `SharedStore` in Redis.

    What is answered is in Redis's memory and on the way to every node. Redis's own settings say
    what of it is on a disk; what Redis loses, the nodes put back from their copies, and from then
    on revisions are far higher, so that who resumes by one of before is given a new snapshot.

    Args:
        link: The way to Redis, which the caller opens and closes.
        node: A name for this node, for people.
        lease: Seconds after which the others take this node for dead; as on all nodes. Not less
            than 1.5, in which a node says twice that it lives, and Redis may be away for a second.
        interval: Seconds within which evictions are counted for self-preservation.
        reap_after: Seconds after which an unhealthy instance is removed.
    """

    capabilities = SharedCapabilities("redis", survives_restart=True)

    def __init__(
        self,
        link: RedisLink,
        node: str,
        *,
        lease: float = NODE_LEASE,
        interval: float = 10.0,
        reap_after: float = 30.0,
    ) -> None:
        # Two nodes of one name would both take themselves to be in charge.
        plain = "".join(each if each.isascii() and each.isalnum() else "-" for each in node)
        self._name = f"{plain}-{secrets.token_hex(3)}"
        self._reap_ms = round(reap_after * 1000)
        self._timeout = link.timeout
        self._place = Place(link, self._name)
        self._follower = Follower(link, self._place, lease=lease, interval=interval)
        self._tokens = count(1)
        self._register = link.script(scripts.REGISTER)
        self._hold = link.script(scripts.HOLD)
        self._let_go = link.script(scripts.LET_GO)
        self._remove = link.script(scripts.REMOVE)
        self._declare = link.script(scripts.DECLARE)
        self._judge = link.script(scripts.JUDGE)
        self._report = link.script(scripts.REPORT)

    @property
    def node(self) -> str:
        """See `SharedStore.node`."""
        return self._name

    @property
    def alive(self) -> bool:
        """See `SharedStore.alive`."""
        return self._follower.alive

    async def open(self, handler: SharedHandler) -> None:
        """See `SharedStore.open`."""
        await self._follower.open(handler)

    async def register(
        self, spec: Registration, registrant: str, max_instances: int
    ) -> tuple[Record, bool]:
        """See `SharedStore.register`."""
        first = first_verdict(spec)
        answer = await self._ask(
            self._register,
            write_key(spec.key),
            write_spec(spec),
            spec.address,
            registrant,
            write_check(spec),
            spec.lease_ns * 1000 // SECOND_NS,
            max_instances,
            self._reap_ms,
            int(first.status),
            first.reason,
        )
        if answer[0] == "full":
            raise too_many(max_instances)
        if answer[0] == "conflict":
            raise conflict(spec.key, answer[1])
        return self._record(answer), answer[0] == "created"

    def token(self) -> str:
        """See `SharedStore.token`."""
        return f"{self._place.token}/{next(self._tokens)}"

    async def hold(self, key: Key, token: str, before: Hold | None = None) -> Record | None:
        """See `SharedStore.hold`."""
        expected: list[Argument] = [] if before is None else [before.birth, *before.tokens]
        answer = await self._ask(self._hold, write_key(key), token, *expected)
        if answer[0] == "absent":
            raise no_instance(key)
        if answer[0] == "stranger":
            raise self._cut_off()
        return None if answer[0] == "taken" else self._record(answer)

    async def let_go(self, key: Key, token: str, seconds: float) -> None:
        """See `SharedStore.let_go`."""
        await self._ask(self._let_go, write_key(key), token, round(seconds * 1000))

    async def remove(self, key: Key) -> int:
        """See `SharedStore.remove`."""
        answer = await self._ask(self._remove, write_key(key))
        if answer[0] == "absent":
            raise no_instance(key)
        return int(answer[1])

    async def declare(self, key: Key, declared: Declared | None) -> Record:
        """See `SharedStore.declare`."""
        said = ("", "") if declared is None else (str(int(declared.status)), declared.reason)
        answer = await self._ask(self._declare, write_key(key), *said, self._reap_ms)
        if answer[0] == "absent":
            raise no_instance(key)
        return self._record(answer)

    async def judge(self, view: int, judgements: Sequence[Judgement]) -> bool:
        """See `SharedStore.judge`."""
        args: list[Argument] = []
        for each in judgements:
            verdict = each.verdict
            args += [write_key(each.key), each.birth, int(verdict.status), verdict.reason]
        answer = await self._ask(self._judge, view, self._reap_ms, *args)
        if answer[0] != "done":
            self._follower.wake()
        return answer[0] == "done"

    async def report(self, loads: Mapping[Key, float]) -> None:
        """See `SharedStore.report`."""
        args = [text for key, load in loads.items() for text in (write_key(key), repr(load))]
        await self._ask(self._report, *args)

    async def close(self) -> None:
        """See `SharedStore.close`."""
        await self._follower.close()

    async def _ask(self, script: Script, *args: Argument) -> Answer:
        try:
            # When the link gives up as well, and who asked is told that it failed.
            return await self._place.ask(script, *args, within=2 * self._timeout)
        except LostError:
            self._follower.wake()
            problem = "Redis has lost the registry, which is being put back"
        except (LinkError, ResponseError) as error:
            problem = str(error)
        raise UnavailableError(
            "REGISTRY_UNAVAILABLE", f"the registry takes nothing now: {problem}; try again"
        )

    def _record(self, answer: Answer) -> Record:
        return read_row(orjson.loads(answer[1]), self._follower.dial)

    def _cut_off(self) -> UnavailableError:
        self._follower.wake()
        return UnavailableError(
            "REGISTRY_UNAVAILABLE", "the other hubs took this one for dead; try again"
        )

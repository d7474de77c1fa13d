"""Puts the shared registry back from what a node knows, when Redis has lost it."""

import logging
import secrets
from collections.abc import Sequence

import orjson

from switchboard_server.backends.redis import registry_scripts as scripts
from switchboard_server.backends.redis.link import RedisLink
from switchboard_server.backends.redis.registry_place import Place
from switchboard_server.backends.redis.registry_records import MS_NS, write_key, write_row
from switchboard_server.core.registry.sharing import Knowledge, Record

BATCH = 200
"""How many instances are put back at once."""

_logger = logging.getLogger(__name__)


class Restorer:
    """Begins a store where there is none, and gives it what a node knows.

    Its methods raise as `Place.ask`.

    Args:
        link: The way to Redis.
        place: Where the registry is.
        lease_ms: Milliseconds after which the others take a node for dead.
    """

    def __init__(self, link: RedisLink, place: Place, lease_ms: int) -> None:
        self._place = place
        self._lease_ms = lease_ms
        self._found = link.script(scripts.FOUND)
        self._restore = link.script(scripts.RESTORE)

    async def find(self, known: Knowledge) -> str:
        """Finds the store that there is now, or begins one.

        Args:
            known: What the node knows of the store that it knew.

        Returns:
            The store's id.
        """
        answer = await self._place.ask(
            self._found, secrets.token_hex(8), known.revision, known.oldest, *_removals(known)
        )
        return answer[1]

    async def put_back(self, before: str, known: Knowledge, wall_ms: int) -> None:
        """Puts back what the node knows, unless others knew more.

        Args:
            before: Id of the store of which it knows.
            known: What it knows.
            wall_ms: When it knew that last, by Redis's clock.
        """
        own, others = known.records[: known.own], known.records[known.own :]
        if await self._put(before, known, own, _removals(known), wall_ms):
            await self._put(before, known, await self._missing(others), [], wall_ms)

    async def _missing(self, records: Sequence[Record]) -> list[Record]:
        """Those that nobody has put back yet, or not as new as they are known here."""
        base = int(await self._place.call("HGET", "meta", "base") or 0)
        there = set(await self._place.call("HKEYS", "instances"))
        return [
            record
            for record in records
            if record.instance.revision > base
            or write_key(record.instance.key).encode() not in there
        ]

    async def _put(
        self,
        before: str,
        known: Knowledge,
        records: Sequence[Record],
        removals: list[str],
        wall_ms: int,
    ) -> bool:
        """Whether it may still be put back."""
        for start in range(0, max(1, len(records)), BATCH):
            answer = await self._place.ask(
                self._restore,
                before,
                known.revision,
                known.oldest,
                self._lease_ms + scripts.GRACE_MS,
                len(removals) // 2,
                *removals,
                *_written(records[start : start + BATCH], wall_ms),
            )
            if answer[0] == "late":
                _logger.warning("others have put the registry back; this node knew less")
                return False
            removals = []
        return True


def _removals(known: Knowledge) -> list[str]:
    return [
        text for key, revision in known.removed.items() for text in (write_key(key), str(revision))
    ]


def _written(records: Sequence[Record], wall_ms: int) -> list[str | bytes]:
    """What the script takes: for each its key, itself, and how long its times still run."""
    args: list[str | bytes] = []
    for record in records:
        reap_ns = record.unhealthy_until_ns
        args += [
            write_key(record.instance.key),
            orjson.dumps(write_row(record)),
            _left(record.lease_expire_ns, wall_ms),
            "" if reap_ns is None else _left(reap_ns, wall_ms),
        ]
    return args


def _left(until_ns: int, wall_ms: int) -> str:
    """Milliseconds up to a time, with those in which it may first have to be heard of again."""
    return str(max(0, until_ns // MS_NS - wall_ms) + scripts.GRACE_MS)

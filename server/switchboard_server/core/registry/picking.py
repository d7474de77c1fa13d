"""Picking instances to call, by policy, from those that serve and match."""

import bisect
import hashlib
import heapq
import math
import random
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from itertools import accumulate, count

from switchboard_server.core.registry.entries import Entry

_MASK = (1 << 64) - 1


class Policy(IntEnum):
    """How instances are picked; numbered as in the proto."""

    ROUND_ROBIN = 1
    RANDOM = 2
    LEAST_LOADED = 3
    CONSISTENT_HASH = 4


class Pool:
    """Instances to pick from: some or all of one service's.

    Made anew when one of them changes; then the turns go on where they were.

    Args:
        entries: The instances.
        before: The pool that this one replaces.
    """

    def __init__(self, entries: Sequence[Entry], before: "Pool | None" = None) -> None:
        self.entries = tuple(entries)
        # One from which nobody was picked in turn can only hand on what it was handed.
        self._before: Pool | None = (
            before._before if before is not None and before._queue is None else before
        )
        self._queue: list[tuple[float, int, int]] | None = None
        self._turn = 0.0
        self._numbers = count(len(entries))
        self._sums: list[int] | None = None
        self._seeds: list[int] | None = None

    def __len__(self) -> int:
        """How many instances there are."""
        return len(self.entries)

    def pick(self, policy: Policy, limit: int, hash_key: str = "") -> list[Entry]:
        """Picks instances, all different, the best first.

        Args:
            policy: How.
            limit: How many at most.
            hash_key: What CONSISTENT_HASH goes by.
        """
        if not self.entries:
            return []
        return _PICKERS[policy](self, min(limit, len(self.entries)), hash_key)

    def _in_turn(self, limit: int, _hash_key: str) -> list[Entry]:
        """Earliest deadline first, where each pick puts an instance off by one part of its weight.

        A heap, so that a turn among ten thousand costs no more than one among ten, and heavy ones
        come evenly among the others rather than in a row.
        """
        queue = self._turns()
        picked = []
        taken = []
        for _ in range(limit):
            turn, _, index = heapq.heappop(queue)
            self._turn = turn
            entry = self.entries[index]
            taken.append((turn + 1 / entry.instance.spec.weight, next(self._numbers), index))
            picked.append(entry)
        for each in taken:
            heapq.heappush(queue, each)
        return picked

    def _turns(self) -> list[tuple[float, int, int]]:
        if self._queue is None:
            kept = self._before.turns() if self._before is not None else {}
            now = self._before.turn if self._before is not None else 0.0
            self._turn, self._before = now, None
            # Those that are new begin somewhere within their first turn, else they would all come
            # at once.
            self._queue = [
                (
                    kept.get(entry.key, now + random.random() / entry.instance.spec.weight),  # noqa: S311
                    index,
                    index,
                )
                for index, entry in enumerate(self.entries)
            ]
            heapq.heapify(self._queue)
        return self._queue

    @property
    def turn(self) -> float:
        """How far the turns have come."""
        return self._turn

    def turns(self) -> dict[tuple[str, str], float]:
        """When it is whose turn."""
        return {self.entries[index].key: turn for turn, _, index in self._turns()}

    def _at_random(self, limit: int, _hash_key: str) -> list[Entry]:
        if limit == 1:
            if self._sums is None:
                self._sums = list(accumulate(each.instance.spec.weight for each in self.entries))
            place = random.random() * self._sums[-1]  # noqa: S311
            return [self.entries[bisect.bisect_right(self._sums, place)]]
        # Efraimidis and Spirakis: the smallest of exponential variables whose rates are the
        # weights come as if drawn one after the other.
        return heapq.nsmallest(
            limit,
            self.entries,
            key=lambda each: random.expovariate(each.instance.spec.weight),
        )

    def _least_loaded(self, limit: int, _hash_key: str) -> list[Entry]:
        if limit == 1:
            return [self._of_two(self.entries)]
        left = list(self.entries)
        picked: list[Entry] = []
        while len(picked) < limit:
            picked.append(self._of_two(left))
            left.remove(picked[-1])
        return picked

    def _of_two(self, entries: Sequence[Entry]) -> Entry:
        if len(entries) == 1:
            return entries[0]
        first, second = random.sample(range(len(entries)), 2)
        one, other = entries[first], entries[second]
        if one.load is None and other.load is None:
            one_load = other_load = 1.0
        else:
            one_load = self._mean() if one.load is None else one.load
            other_load = self._mean() if other.load is None else other.load
        weighed = one_load / one.instance.spec.weight, other_load / other.instance.spec.weight
        return one if weighed[0] <= weighed[1] else other

    def _mean(self) -> float:
        loads = [each.load for each in self.entries if each.load is not None]
        return sum(loads) / len(loads)

    def _by_hash(self, limit: int, hash_key: str) -> list[Entry]:
        """Weighted rendezvous hashing: every instance bids for the key, and the highest bids win.

        A bid depends on the key and its instance alone, so when one leaves, its keys move and no
        others; and the next bid tells who would take over. Bids are in proportion to the weights.
        https://www.snia.org/sites/default/files/SDC15_presentations/dist_sys/Jason_Resch_New_Consistent_Hashings_Rev.pdf
        """
        if self._seeds is None:
            self._seeds = [_hash64(each.instance.spec.id) for each in self.entries]
        key = _hash64(hash_key)
        bids = [
            (-math.log(_mixed(key ^ seed)) / each.instance.spec.weight, each.instance.spec.id, each)
            for seed, each in zip(self._seeds, self.entries, strict=True)
        ]
        if limit == 1:
            return [min(bids)[2]]
        return [each for _, _, each in heapq.nsmallest(limit, bids)]


_PICKERS: dict[Policy, Callable[[Pool, int, str], list[Entry]]] = {
    Policy.ROUND_ROBIN: Pool._in_turn,
    Policy.RANDOM: Pool._at_random,
    Policy.LEAST_LOADED: Pool._least_loaded,
    Policy.CONSISTENT_HASH: Pool._by_hash,
}


def _hash64(text: str) -> int:
    # Of the text alone, so that every hub, and this one after a restart, picks the same.
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _mixed(bits: int) -> float:
    """A number from 0 to 1, neither of them, of 64 bits: the finalizer of SplitMix64."""
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & _MASK
    bits ^= bits >> 31
    return ((bits >> 11) + 0.5) / (1 << 53)


def spread(pools: Iterator[Pool], policy: Policy, limit: int, hash_key: str) -> list[Entry]:
    """Picks from the first pool as many as it has, then from the next.

    Args:
        pools: In the order of preference.
        policy: How to pick within each.
        limit: How many at most.
        hash_key: What CONSISTENT_HASH goes by.
    """
    picked: list[Entry] = []
    for pool in pools:
        if len(picked) >= limit:
            break
        picked += pool.pick(policy, limit - len(picked), hash_key)
    return picked

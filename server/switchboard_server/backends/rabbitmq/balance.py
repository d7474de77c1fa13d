"""Which node should hold which seat: all come to the same answer without talking about it."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Set


def assign(candidates: Mapping[str, Set[str]]) -> Mapping[str, str]:
    """Spreads seats over nodes.

    Rendezvous hashing, so that a node that comes or goes moves few seats, with a bound for each
    node, for with few seats chance alone spreads badly.

    Args:
        candidates: For each seat, the ids of the nodes that would take it.

    Returns:
        For each seat that has a candidate, the id of the node that should hold it.
    """
    nodes = set().union(*candidates.values())
    bound = -(-len(candidates) // len(nodes)) if nodes else 0
    loads: Counter[str] = Counter()
    chosen = {}
    for seat in sorted(candidates):
        free = [each for each in candidates[seat] if loads[each] < bound] or candidates[seat]
        if free:
            best = max(free, key=lambda node: _weight(seat, node))
            chosen[seat] = best
            loads[best] += 1
    return chosen


def _weight(seat: str, node: str) -> bytes:
    return hashlib.blake2b(f"{seat}\0{node}".encode(), digest_size=8).digest() + node.encode()

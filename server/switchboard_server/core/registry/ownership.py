"""Which node is in charge of what: the same answer on every node, and few answers change with one.

Rendezvous hashing (Thaler and Ravishankar, 1998): each node has a score for each thing, and the
highest has it. When a node goes, only what it had goes to others.
"""

from collections.abc import Collection
from hashlib import blake2b


def in_charge(thing: str, nodes: Collection[str]) -> str | None:
    """The node that is in charge of a thing; None: there are no nodes.

    Args:
        thing: Its name.
        nodes: Names of the nodes that live.
    """
    if len(nodes) < 2:
        return next(iter(nodes), None)
    return max(nodes, key=lambda node: (_score(thing, node), node))


def _score(thing: str, node: str) -> bytes:
    return blake2b(f"{node}\0{thing}".encode(errors="replace"), digest_size=8).digest()

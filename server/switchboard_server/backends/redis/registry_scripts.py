"""What the shared registry has Redis decide; each script is in `lua/registry`.

What they have in common is in `lua/registry/parts`: `common.lua` says how the registry is kept, and
what every script is told first.
"""

from switchboard_server.backends.redis.scripts import read

KEYS = ("meta", "instances", "due", "nodes", "held", "changes", "loads", "evicted", "removed")
"""Last parts of the names of the keys, in the order in which `common.lua` takes them."""
HISTORY = 10_000
"""Changes that are kept for nodes that come back."""
MOST = 500
"""Instances that one run of a script evicts or frees at most: meanwhile Redis does nothing else."""
GAP_MS = 1000
"""No script for so long: nobody could reach Redis, since every node runs one twice as often."""
GRACE_MS = 3000
"""How long nodes and instances then have to be heard of, besides what they had left; after a short
gap as long as that."""
RESTORE_MS = 30_000
"""How long a store that began empty takes back what nodes know."""

_NUMBERS = f"""\
local HISTORY, MOST = {HISTORY}, {MOST}
local GAP, GRACE, RESTORE = {GAP_MS}, {GRACE_MS}, {RESTORE_MS}
"""


def _read(name: str) -> str:
    return _NUMBERS + read(f"registry/{name}")


REGISTER = _read("register")
HOLD = _read("hold")
LET_GO = _read("let_go")
REMOVE = _read("remove")
DECLARE = _read("declare")
JUDGE = _read("judge")
REPORT = _read("report")
JOIN = _read("join")
LEAVE = _read("leave")
TICK = _read("tick")
POSITION = _read("position")
FOUND = _read("found")
RESTORE = _read("restore")

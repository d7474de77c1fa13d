"""Scripts in Lua, each of which a server does as a whole, nothing else in between."""

import hashlib

Argument = str | bytes | int


class Script:
    """A script; servers know it by its hash once they have seen it.

    Args:
        source: In Lua.
    """

    __slots__ = ("sha", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        # Redis's own choice: it names scripts so.
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def by_hash(self, keys: tuple[str, ...], args: tuple[Argument, ...]) -> list[Argument]:
        """The command that runs it where the server has seen it."""
        return ["EVALSHA", self.sha, len(keys), *keys, *args]

    def in_full(self, keys: tuple[str, ...], args: tuple[Argument, ...]) -> list[Argument]:
        """The command that runs it everywhere."""
        return ["EVAL", self.source, len(keys), *keys, *args]

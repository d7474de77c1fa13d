"""Scripts in Lua, each of which a server does as a whole, nothing else in between."""

import hashlib
import re
from pathlib import Path

Argument = str | bytes | int

_FOLDER = Path(__file__).parent / "lua"
_INCLUDE = re.compile(r"^--- @include (\S+)\n", re.MULTILINE)


class Script:
    """A script; servers know it by its hash once they have seen it.

    Args:
        source: In Lua.

    Attributes:
        sha: The hash of the source, by which servers know it.
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


def read(name: str) -> str:
    """Reads a script from the folder `lua`, each part that it includes once, before what needs it.

    A line `--- @include parts/basics` names a part by its path from the file that it stands in.

    Args:
        name: Path of the file in the folder, without its ending.

    Raises:
        OSError: A file is missing: the installation is broken.
    """
    pieces: dict[Path, str] = {}

    def take(file: Path) -> None:
        if file in pieces:
            return
        text = file.read_text(encoding="utf-8")
        for part in _INCLUDE.findall(text):
            take(file.parent / f"{part}.lua")
        pieces[file] = _INCLUDE.sub("", text)

    take(_FOLDER / f"{name}.lua")
    return "".join(pieces.values())

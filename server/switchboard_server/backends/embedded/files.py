"""A SQLite file: opening it, changing it, and how it is told from others."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Opens a file: "rw" where it has to be there, "rwc" to make it where it is not."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=5.0,
    )
    # What is no text any more is found out by the checksum of its row.
    connection.text_factory = _text
    return connection


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Changes a file, wholly or not at all."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def identity(path: Path) -> tuple[int, int] | None:
    """Tells a file from every other one; None: there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def pages_in_use(db: sqlite3.Connection) -> int:
    """Bytes of a file that hold something."""
    count, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((count - free) * size)


def remedy(error: sqlite3.Error | OSError) -> str:
    """What helps where a file cannot be used."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # Without what extends it.
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return "put a good copy in its place, or move it away to begin with an empty one"
    return "make room on its disk, or see that this user may write to it"


def _text(data: bytes) -> str:
    return data.decode(errors="replace")

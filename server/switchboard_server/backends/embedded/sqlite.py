"""Batches in a SQLite file: the log that survives everything its disk survives.

WAL mode with `synchronous=FULL`: a transaction is answered after the file system has been told to
flush it (https://www.sqlite.org/wal.html). A batch is one row, so that hundreds of events cost one
insertion. The small columns stand before the large one, whose pages are then not touched by who
looks for a place in the log. Each row has a checksum, since SQLite has none of its own.
"""

import logging
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from switchboard_server.backends.embedded import rows
from switchboard_server.backends.embedded.store import (
    Commit,
    Due,
    Retention,
    StoreError,
    StoreState,
)
from switchboard_server.core.ports import Capabilities, ReadResult, RecentId, Window
from switchboard_server.core.records import Batch

FILE_NAME = "events.db"
"""The log's file within the data folder."""
SCHEMA_VERSION = 1
"""Version of the tables, kept in the file's `user_version`."""
TRIM_BYTES = 8 * 1024 * 1024
"""How much one slice of trimming removes at most, a few milliseconds' work."""
MAX_WAL_BYTES = 64 * 1024 * 1024
"""To what the write-ahead log is cut back after a checkpoint."""
CHECKPOINT_PAGES = 2000
"""Pages after which the write-ahead log is copied into the file: 8 MB, about 10 ms of work."""

_logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE batches (
    last INTEGER PRIMARY KEY,   -- sequence of the batch's last event
    first INTEGER NOT NULL,     -- sequence of its first
    time INTEGER NOT NULL,      -- when it entered the log, Unix nanoseconds, never decreasing
    bytes INTEGER NOT NULL,     -- length of frames
    crc INTEGER NOT NULL,       -- CRC-32 of header, ends, route_of and frames
    header TEXT NOT NULL,       -- JSON: routes, and what only some events have
    ends BLOB NOT NULL,         -- where each event ends in frames, 32 bits little endian
    route_of BLOB,              -- index of each event's route, 16 bits little endian; NULL: all 0
    frames BLOB NOT NULL        -- the encoded events
);
CREATE TABLE scheduled (
    row INTEGER PRIMARY KEY,
    due INTEGER NOT NULL,       -- when it is to enter the log, Unix nanoseconds
    accepted INTEGER NOT NULL,  -- when it was accepted, Unix nanoseconds
    header TEXT NOT NULL,       -- JSON: route, id and what else the hub reads of it
    body BLOB NOT NULL          -- the event as its publisher's door encoded it
);
CREATE INDEX scheduled_by_due ON scheduled (due);
"""


class SqliteStore:
    """A `Store` in one SQLite file.

    Args:
        folder: The data folder; made where it is missing.
        retention: What is kept; bytes are those of the file that are in use.
    """

    capabilities = Capabilities(
        name="sqlite",
        durable="written and fsynced: survives the loss of power",
        survives_restart=True,
        contiguous=True,
    )
    blocks = True

    def __init__(self, folder: Path, retention: Retention) -> None:
        self._path = folder / FILE_NAME
        self._retention = retention
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._window = Window(1, 0)
        self._damaged: set[int] = set()
        self._lacking = 0

    def open(self) -> StoreState:
        """See `Store.open`."""
        with self._explained("opened"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._connect()
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            self._db.execute(f"PRAGMA journal_size_limit={MAX_WAL_BYTES}")
            self._migrate()
            meta = dict(self._db.execute("SELECT name, value FROM meta"))
            self._window = self._read_window(self._db)
            newest = self._db.execute(
                "SELECT time FROM batches ORDER BY last DESC LIMIT 1"
            ).fetchone()
            due = self._db.execute("SELECT min(due) FROM scheduled").fetchone()
        return StoreState(
            str(meta["log_id"]), self._window, newest[0] if newest else meta["time"], due[0]
        )

    def commit(self, work: Commit) -> None:
        """See `Store.commit`."""
        self._lacking = sum(len(batch.frames) for batch in work.batches)
        with self._explained("written to"), self._transaction():
            if work.batches:
                self._db.executemany(
                    "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    map(rows.from_batch, work.batches),
                )
            if work.released:
                self._db.executemany(
                    "DELETE FROM scheduled WHERE row = ?", [(row,) for row in work.released]
                )
            for drafts in work.scheduled:
                self._db.executemany(
                    "INSERT INTO scheduled (due, accepted, header, body) VALUES (?, ?, ?, ?)",
                    rows.from_scheduled(drafts, work.time_ns),
                )
        self._lacking = 0
        if work.batches:
            self._window = Window(self._window.first, work.batches[-1].last)

    def due(self, now_ns: int, limit: int) -> Due:
        """See `Store.due`."""
        with self._explained("read"):
            found = self._db.execute(
                "SELECT row, header, body FROM scheduled WHERE due <= ? ORDER BY due, row LIMIT ?",
                (now_ns, limit),
            ).fetchall()
            following = self._db.execute(
                "SELECT due FROM scheduled ORDER BY due, row LIMIT 1 OFFSET ?", (len(found),)
            ).fetchone()
        due = Due(next_due_ns=following[0] if following else None)
        for row, header, body in found:
            drafts = rows.to_scheduled(header, body)
            if drafts is not None:
                due.rows.append(row)
                due.drafts.append(drafts)
            elif row not in self._damaged:
                self._damaged.add(row)
                _logger.error("scheduled event %d of %s cannot be read back", row, self._path)
        return due

    def probe(self) -> None:
        """See `Store.probe`."""
        # A full disk may have room for a little: as much is tried as there was no room for. Random,
        # since SQLite does not write what is there already.
        for size in (self._lacking + 8, 8):
            with self._explained("written to"), self._transaction():
                self._db.execute(
                    "UPDATE meta SET value = randomblob(?) WHERE name = 'probes'", (size,)
                )

    def trim(self, now_ns: int) -> Window | None:
        """See `Store.trim`."""
        with self._explained("trimmed"):
            cut = self._cut(now_ns)
            if cut is None:
                return None
            with self._transaction():
                time_ns = self._db.execute(
                    "SELECT time FROM batches ORDER BY last DESC LIMIT 1"
                ).fetchone()[0]
                self._db.execute("DELETE FROM batches WHERE last <= ?", (cut,))
                self._db.executemany(
                    "UPDATE meta SET value = ? WHERE name = ?",
                    [(cut, "trimmed"), (time_ns, "time")],
                )
            self._window = Window(cut + 1, self._window.last)
            return self._window

    def size(self) -> int:
        """See `Store.size`."""
        with self._explained("read"):
            return _pages_in_use(self._db)

    def read(self, after: int, max_bytes: int) -> ReadResult:
        """See `Store.read`."""
        query = "SELECT * FROM batches WHERE last > ? ORDER BY last"
        return self._read(query, after, max_bytes)

    def read_backward(self, before: int, max_bytes: int) -> ReadResult:
        """See `Store.read_backward`."""
        # The batch that holds before - 1 is the first whose last event is at or after it.
        query = (
            "SELECT * FROM batches WHERE last <= "
            "ifnull((SELECT last FROM batches WHERE last >= ? - 1 ORDER BY last LIMIT 1), ?1) "
            "AND first < ?1 ORDER BY last DESC"
        )
        result = self._read(query, before, max_bytes)
        return ReadResult(result.batches[::-1], result.window, result.lost)

    def sequence_before(self, time_ns: int) -> int:
        """See `Store.sequence_before`."""
        with self._explained("read"), self._snapshot() as db:
            window = self._read_window(db)
            low, high = window.first - 1, window.last
            # Times never decrease, so the place is found by halving, and no index has to be kept.
            while low < high:
                middle = (low + high) // 2
                last, time = db.execute(
                    "SELECT last, time FROM batches WHERE last > ? ORDER BY last LIMIT 1", (middle,)
                ).fetchone()
                if time < time_ns:
                    low = last
                else:
                    high = middle
            return low

    def recent_ids(self, since_ns: int, limit: int) -> Sequence[RecentId]:
        """See `Store.recent_ids`."""
        found: list[RecentId] = []
        with self._explained("read"), self._snapshot() as db:
            for row in db.execute(
                "SELECT first, time, header, length(ends) / 4, route_of FROM batches "
                "ORDER BY last DESC"
            ):
                # Times never decrease, so all that follow are older: a large log is quick too.
                if row[1] < since_ns or len(found) >= limit:
                    break
                found += reversed(rows.recent_ids(*row))
            found.reverse()
            waiting = db.execute(
                "SELECT header, accepted FROM scheduled WHERE accepted >= ? ORDER BY row",
                (since_ns,),
            )
            found += [rows.scheduled_id(header, accepted) for header, accepted in waiting]
        found.sort(key=lambda each: each.time_ns)
        return [each for each in found if each.id][-limit:]

    def close(self) -> None:
        """See `Store.close`."""
        for connection in self._connections:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=5.0
        )
        # What is no text any more is found out by the checksum of its row.
        connection.text_factory = _text
        self._connections.append(connection)
        return connection

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            with self._transaction():
                for statement in _SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.executemany(
                    "INSERT INTO meta VALUES (?, ?)",
                    [("log_id", secrets.token_hex(4)), ("trimmed", 0), ("time", 0), ("probes", 0)],
                )
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise StoreError(
                f"{self._path} is of version {version}, this hub knows {SCHEMA_VERSION}; "
                "start the hub that wrote it, or choose another SWITCHBOARD_DATA_DIR"
            )

    def _cut(self, now_ns: int) -> int | None:
        """The last sequence that the next slice of trimming removes."""
        age, limit = self._retention.age_ns, self._retention.bytes
        excess = _pages_in_use(self._db) - limit if limit else 0
        cut, removed = None, 0
        for last, time, size in self._db.execute(
            "SELECT last, time, bytes FROM batches ORDER BY last"
        ):
            old = bool(age) and time <= now_ns - age
            if not old and removed >= excess:
                break
            if removed >= TRIM_BYTES:
                break
            cut, removed = last, removed + size
        return cut

    def _read(self, query: str, place: int, max_bytes: int) -> ReadResult:
        batches: list[Batch] = []
        size = 0
        with self._explained("read"), self._snapshot() as db:
            window = self._read_window(db)
            for row in db.execute(query, (place,)):
                batch = rows.to_batch(row)
                if batch is None:
                    if not batches:
                        return ReadResult((), window, (row[1], row[0]))
                    break
                batches.append(batch)
                size += len(batch.frames)
                if size >= max_bytes:
                    break
        return ReadResult(batches, window)

    @staticmethod
    def _read_window(db: sqlite3.Connection) -> Window:
        trimmed = db.execute("SELECT value FROM meta WHERE name = 'trimmed'").fetchone()[0]
        last = db.execute("SELECT max(last) FROM batches").fetchone()[0]
        return Window(trimmed + 1, max(trimmed, last or 0))

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection of this thread's own that sees one state of the file.

        Kept short, since the write-ahead log grows while it lasts.
        """
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = self._connect()
        db.execute("BEGIN")
        try:
            yield db
        finally:
            db.execute("ROLLBACK")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Says what a failure means, and what helps."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"the log {self._path} cannot be {what}: {error}; "
                "make room on its disk, or see that this user may write to it"
            ) from error


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _pages_in_use(db: sqlite3.Connection) -> int:
    count, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((count - free) * size)

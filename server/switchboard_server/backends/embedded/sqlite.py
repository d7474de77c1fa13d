"""Batches in a SQLite file: the log that survives everything its disk survives.

WAL mode with `synchronous=FULL`: a transaction is answered after the file system has been told to
flush it (https://www.sqlite.org/wal.html). A batch is one row, so that hundreds of events cost one
insertion. The small columns stand before the large one, whose pages are then not touched by who
looks for a place in the log. Each row has a checksum, since SQLite has none of its own.
"""

import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from switchboard_server.backends.embedded import files, group_tables, rows, schema
from switchboard_server.backends.embedded.store import (
    Commit,
    Due,
    Retention,
    StoreError,
    StoreState,
)
from switchboard_server.core.groups.changes import DeadLetter
from switchboard_server.core.groups.ports import Found, StoredGroup
from switchboard_server.core.ports import Capabilities, ReadResult, RecentId, Window
from switchboard_server.core.records import Batch

FILE_NAME = "events.db"
"""The log's file within the data folder."""
TRIM_BYTES = 8 * 1024 * 1024
"""How much one slice of trimming removes at most, a few milliseconds' work."""
COUNT_BYTES = 8 * 1024 * 1024
"""After how many bytes the file is told anew how many the log has: at a start the rest is added."""
MAX_WAL_BYTES = 64 * 1024 * 1024
"""To what the write-ahead log is cut back after a checkpoint."""
CHECKPOINT_PAGES = 2000
"""Pages after which the write-ahead log is copied into the file: 8 MB, about 10 ms of work."""

_logger = logging.getLogger(__name__)

_INSERT = "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

# Bits are written out, not bound: only so does SQLite see which index holds just these rows.
_READ = (
    "SELECT * FROM batches WHERE last > ? ORDER BY last",
    "SELECT * FROM batches WHERE last > ? AND priorities & 2 ORDER BY last",
    "SELECT * FROM batches WHERE last > ? AND priorities & 4 ORDER BY last",
    "SELECT * FROM batches WHERE last > ? AND priorities & 8 ORDER BY last",
    "SELECT * FROM batches WHERE last > ? AND priorities & 16 ORDER BY last",
)
"""Reads what follows, by priority; 0: all."""


class SqliteStore:
    """A `Store` in one SQLite file.

    Args:
        folder: The data folder; made where it is missing.
        retention: What is kept; bytes are those of the log's rows, about. Scheduled events are none
            of them, for they are not removed.
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
        self._lacking = 0
        self._bytes = 0
        self._uncounted = 0
        self._letters = group_tables.Letters()

    def open(self) -> StoreState:
        """See `Store.open`."""
        with self._explained("opened"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._connect("rwc")
            self._file = files.identity(self._path)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            self._db.execute(f"PRAGMA journal_size_limit={MAX_WAL_BYTES}")
            schema.migrate(self._db, self._path)
            meta = dict(self._db.execute("SELECT name, value FROM meta"))
            self._window = self._read_window(self._db)
            (self._uncounted,) = self._db.execute(
                "SELECT ifnull(sum(bytes), 0) FROM batches WHERE last > ?", (meta["counted"],)
            ).fetchone()
            self._bytes = meta["bytes"] + self._uncounted
            newest = self._db.execute(
                "SELECT time FROM batches ORDER BY last DESC LIMIT 1"
            ).fetchone()
            due = self._db.execute("SELECT min(due) FROM scheduled").fetchone()
        return StoreState(
            str(meta["log_id"]), self._window, newest[0] if newest else meta["time"], due[0]
        )

    def commit(self, work: Commit) -> None:
        """See `Store.commit`."""
        self.check()
        self._lacking = work.size()
        added = [rows.from_batch(batch) for batch in work.batches]
        size = sum(row[3] for row in added)
        count = bool(added) and self._uncounted + size >= COUNT_BYTES
        alone = not (count or work.released or work.scheduled or work.groups)
        with self._explained("written to"):
            if alone and len(added) == 1:
                # A transaction by itself: each step of SQLite lets go of the interpreter, and has
                # to win it back from a busy loop, which costs more than the step.
                self._db.execute(_INSERT, added[0])
            else:
                with files.transaction(self._db):
                    self._change(work, added)
                    if count:
                        self._note(bytes=self._bytes + size, counted=work.batches[-1].last)
        self._lacking = 0
        self._bytes += size
        self._uncounted = 0 if count else self._uncounted + size
        if work.batches:
            self._window = Window(self._window.first, work.batches[-1].last)

    def _change(self, work: Commit, added: Sequence[rows.Row]) -> None:
        """Does everything of a commit, in the caller's transaction."""
        if added:
            self._db.executemany(_INSERT, added)
        if work.released:
            self._db.executemany(
                "DELETE FROM scheduled WHERE row = ?", [(row,) for row in work.released]
            )
        for drafts in work.scheduled:
            self._db.executemany(
                "INSERT INTO scheduled VALUES (NULL, ?, ?, ?, ?, ?)",
                rows.from_scheduled(drafts, work.time_ns),
            )
        group_tables.apply(self._db, work.groups)

    def due(self, now_ns: int, limit: int) -> Due:
        """See `Store.due`."""
        due = Due()
        damaged: list[int] = []
        with self._explained("read"):
            for row, *columns in self._db.execute(
                "SELECT * FROM scheduled WHERE due <= ? ORDER BY due, row LIMIT ?", (now_ns, limit)
            ):
                drafts = rows.to_scheduled((*columns,))
                if drafts is None:
                    damaged.append(row)
                else:
                    due.rows.append(row)
                    due.drafts.append(drafts)
        if damaged:
            self._set_aside(damaged)
        with self._explained("read"):
            following = self._db.execute(
                "SELECT due FROM scheduled WHERE due IS NOT NULL ORDER BY due, row "
                "LIMIT 1 OFFSET ?",
                (len(due.rows),),
            ).fetchone()
        due.next_due_ns = following[0] if following else None
        return due

    def _set_aside(self, damaged: Sequence[int]) -> None:
        """Sees to it that rows are not read again; they are kept for who may mend them."""
        with self._explained("written to"), files.transaction(self._db):
            self._db.executemany(
                "UPDATE scheduled SET due = NULL WHERE row = ?", [(row,) for row in damaged]
            )
        for row in damaged:
            _logger.error("scheduled event %d of %s cannot be read back", row, self._path)

    def check(self) -> None:
        """See `Store.check`."""
        # SQLite goes on writing to a file that nobody will ever find again.
        with self._explained("found"):
            unchanged = files.identity(self._path) == self._file
        if not unchanged:
            raise StoreError(
                f"the log {self._path} was removed, moved or replaced while the hub was running; "
                "move it back, or start the hub anew, which goes on with what is there then"
            )

    def probe(self) -> None:
        """See `Store.probe`."""
        self.check()
        # A full disk may have room for a little: as much is tried as there was no room for. Random,
        # since SQLite does not write what is there already.
        for size in (self._lacking + 8, 8):
            with self._explained("written to"), files.transaction(self._db):
                self._db.execute(
                    "UPDATE meta SET value = randomblob(?) WHERE name = 'probes'", (size,)
                )

    def trim(self, now_ns: int) -> Window | None:
        """See `Store.trim`."""
        with self._explained("trimmed"):
            cut, removed = self._cut(now_ns)
            if not cut:
                return None
            with files.transaction(self._db):
                time_ns = self._db.execute(
                    "SELECT time FROM batches ORDER BY last DESC LIMIT 1"
                ).fetchone()[0]
                self._db.execute("DELETE FROM batches WHERE last <= ?", (cut,))
                left = self._bytes - removed
                self._note(trimmed=cut, time=time_ns, bytes=left, counted=self._window.last)
            self._bytes, self._uncounted = left, 0
            self._window = Window(cut + 1, self._window.last)
            return self._window

    def size(self) -> int:
        """See `Store.size`."""
        with self._explained("read"):
            return files.pages_in_use(self._db)

    def read(self, after: int, max_bytes: int, priority: int = 0) -> ReadResult:
        """See `Store.read`."""
        return self._read(_READ[priority], after, max_bytes)

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

    def read_each(self, sequences: Sequence[int]) -> Found:
        """See `Store.read_each`."""
        found: dict[int, Batch] = {}
        batch: Batch | None = None
        read = 0
        with self._explained("read"), self._snapshot() as db:
            for sequence in sequences:
                if sequence > read:
                    row = db.execute(
                        "SELECT * FROM batches WHERE last >= ? ORDER BY last LIMIT 1", (sequence,)
                    ).fetchone()
                    if row is None:
                        break
                    read, batch = row[0], rows.to_batch(row)
                if batch is not None and batch.first <= sequence:
                    found[sequence] = batch
        return Found(found)

    def groups(self) -> Sequence[StoredGroup]:
        """See `Store.groups`."""
        with self._explained("read"):
            return group_tables.load(self._db, self._window.first - 1)

    def dead_letters(
        self, number: int, before: tuple[int, int] | None, limit: int
    ) -> Sequence[DeadLetter]:
        """See `Store.dead_letters`."""
        with self._explained("read"), self._snapshot() as db:
            return self._letters.before(db, number, before, limit)

    def dead_letters_of(self, number: int, sequences: Sequence[int]) -> Sequence[DeadLetter]:
        """See `Store.dead_letters_of`."""
        with self._explained("read"), self._snapshot() as db:
            return self._letters.of(db, number, sequences)

    def redriven(self, number: int, after: int, limit: int) -> Sequence[DeadLetter]:
        """See `Store.redriven`."""
        with self._explained("read"), self._snapshot() as db:
            return self._letters.redriven(db, number, after, limit)

    def close(self) -> None:
        """See `Store.close`."""
        for connection in self._connections:
            connection.close()

    def _connect(self, mode: str) -> sqlite3.Connection:
        """See `files.connect`."""
        connection = files.connect(self._path, mode)
        self._connections.append(connection)
        return connection

    def _note(self, **facts: int) -> None:
        self._db.executemany(
            "UPDATE meta SET value = ? WHERE name = ?",
            [(value, name) for name, value in facts.items()],
        )

    def _cut(self, now_ns: int) -> tuple[int, int]:
        """Up to where the next slice of trimming removes, and how many bytes; 0: nothing."""
        age, limit = self._retention.age_ns, self._retention.bytes
        excess = self._bytes - limit if limit else 0
        cut = removed = 0
        for last, time, size in self._db.execute(
            "SELECT last, time, bytes FROM batches ORDER BY last"
        ):
            old = bool(age) and time <= now_ns - age
            if not old and removed >= excess:
                break
            if removed >= TRIM_BYTES:
                break
            cut, removed = last, removed + size
        return cut, removed

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
            self.check()
            db = self._local.db = self._connect("rw")
        db.execute("BEGIN")
        try:
            yield db
        finally:
            db.execute("ROLLBACK")

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Says what a failure means, and what helps."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"the log {self._path} cannot be {what}: {error}; {files.remedy(error)}"
            ) from error

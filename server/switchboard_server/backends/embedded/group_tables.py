"""Groups in the log's SQLite file."""

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from switchboard_server.backends.embedded import group_rows
from switchboard_server.backends.embedded.files import transaction
from switchboard_server.backends.embedded.store import (
    CreateGroup,
    DeleteGroup,
    ExpireLetters,
    GroupWork,
    SaveChange,
)
from switchboard_server.core.groups.changes import Change, DeadLetter, Snapshot, replay
from switchboard_server.core.groups.ports import GroupRecord, StoredGroup

_LETTER = "SELECT * FROM dead_letters "
_logger = logging.getLogger(__name__)


def apply(db: sqlite3.Connection, works: Iterable[GroupWork]) -> None:
    """Does what becomes of groups, in the caller's transaction.

    Args:
        db: The connection that writes.
        works: What to do, in order.
    """
    changes: list[tuple[int, int, str]] = []
    for work in works:
        match work:
            case SaveChange():
                if work.change.snapshot is not None:
                    changes = [row for row in changes if row[0] != work.number]
                if group_rows.has_row(work.change):
                    text = group_rows.from_change(work.change)
                    changes.append((work.number, group_rows.checksum(text, work.number), text))
                _save(db, work.number, work.change)
            case CreateGroup():
                _create(db, work)
            case DeleteGroup():
                for table in ("groups", "group_changes", "dead_letters"):
                    db.execute(f"DELETE FROM {table} WHERE number = ?", (work.number,))  # noqa: S608
            case ExpireLetters():
                _expire(db, work)
    if changes:
        # All at once, for each step of SQLite lets go of the interpreter, and has to win it back.
        # A change of a group that has been deleted is let go of.
        db.executemany(
            "INSERT INTO group_changes SELECT number, 1 + ifnull((SELECT max(n) FROM group_changes "
            "WHERE number = ?1), 0), ?2, ?3 FROM groups WHERE number = ?1",
            changes,
        )


def _create(db: sqlite3.Connection, work: CreateGroup) -> None:
    # Whoever has this name, which is free, is damaged: it is kept for who may mend it.
    db.execute("UPDATE groups SET name = NULL WHERE name = ?", (work.name,))
    config = group_rows.from_config(work.config)
    snapshot = group_rows.from_snapshot(work.snapshot)
    facts = (work.name, work.time_ns, work.secret)
    done = db.execute(
        "INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?)",
        (
            work.number or None,
            *facts,
            group_rows.checksum(config, *facts),
            config,
            group_rows.checksum(snapshot),
            snapshot,
        ),
    )
    work.number = done.lastrowid or 0


def _expire(db: sqlite3.Connection, work: ExpireLetters) -> None:
    gone = db.execute(
        "DELETE FROM dead_letters WHERE NOT redriven AND time < ? RETURNING number",
        (work.before_ns,),
    )
    work.gone = Counter(number for (number,) in gone)


def _save(db: sqlite3.Connection, number: int, change: Change) -> None:
    """Keeps everything of a change that is not kept in a row of its own."""
    if change.snapshot is not None:
        _compact(db, number, change.snapshot)
    if change.idle_since_ns is not None:
        db.execute("UPDATE groups SET idle = ? WHERE number = ?", (change.idle_since_ns, number))
    # What is finished was so before the rest of the redriven events was shelved.
    _each(db, "DELETE FROM dead_letters WHERE redriven", number, change.finished)
    if change.shelved:
        db.execute("UPDATE dead_letters SET redriven = 0 WHERE number = ? AND redriven", (number,))
    if change.buried:
        db.executemany(
            "INSERT OR REPLACE INTO dead_letters SELECT number, ?2, ?3, ?4, ?5, ?6, ?7 "
            "FROM groups WHERE number = ?1",
            (group_rows.from_letter(number, each) for each in change.buried),
        )
    _each(db, "UPDATE dead_letters SET redriven = 1 WHERE TRUE", number, change.redriven)


def _each(db: sqlite3.Connection, statement: str, number: int, sequences: Sequence[int]) -> None:
    if sequences:
        db.executemany(
            f"{statement} AND number = ? AND sequence = ?",
            [(number, sequence) for sequence in sequences],
        )


def _compact(db: sqlite3.Connection, number: int, snapshot: Snapshot) -> None:
    text = group_rows.from_snapshot(snapshot)
    db.execute(
        "UPDATE groups SET crc = ?, snapshot = ? WHERE number = ?",
        (group_rows.checksum(text), text, number),
    )
    db.execute("DELETE FROM group_changes WHERE number = ?", (number,))


def load(db: sqlite3.Connection, earliest: int) -> list[StoredGroup]:
    """Reads all groups.

    What cannot be read back as it was written must not make an event seem settled: the group goes
    on from where it stood before, and delivers again what came after.

    Args:
        db: The connection that writes.
        earliest: The sequence before the first one that is retained.
    """
    dead, redriven = (
        dict(db.execute(f"SELECT number, count(*) FROM dead_letters WHERE {which} GROUP BY number"))  # noqa: S608
        for which in ("NOT redriven", "redriven")
    )
    found = []
    for *row, idle_ns, crc, text in db.execute(
        "SELECT * FROM groups WHERE name IS NOT NULL ORDER BY number"
    ).fetchall():
        record = group_rows.to_group((*row,))
        if record is None:
            _logger.error("group %r cannot be read back, and is not there", row[1])
            continue
        snapshot, changes = _state(db, record, text, crc, earliest)
        number = record.number
        found.append(
            StoredGroup(
                record, snapshot, changes, idle_ns, dead.get(number, 0), redriven.get(number, 0)
            )
        )
    return found


def _state(
    db: sqlite3.Connection, record: GroupRecord, text: str, crc: int, earliest: int
) -> tuple[Snapshot, list[Change]]:
    snapshot = group_rows.to_snapshot(text, crc)
    changes: list[Change] = []
    damaged = snapshot is None
    if snapshot is None:
        snapshot = Snapshot.at(earliest)
    else:
        rows = db.execute(
            "SELECT n, change, crc FROM group_changes WHERE number = ? ORDER BY n",
            (record.number,),
        )
        for place, (n, *row) in enumerate(rows.fetchall(), 1):
            change = group_rows.to_change(record.number, *row) if n == place else None
            if change is None:
                damaged = True
                break
            changes.append(change)
    if damaged:
        _logger.error(
            "the state of group %r cannot be read back whole; what it had settled lately is "
            "delivered again",
            record.name,
        )
        snapshot, changes = replay(snapshot, changes), []
        with transaction(db):
            _compact(db, record.number, snapshot)
    return snapshot, changes


class Letters:
    """Reads dead letters, passing over those that cannot be read back as they were written."""

    def __init__(self) -> None:
        self._told: set[tuple[int, int]] = set()

    def before(
        self, db: sqlite3.Connection, number: int, before: tuple[int, int] | None, limit: int
    ) -> list[DeadLetter]:
        """See `GroupStore.dead_letters`."""
        time_ns, sequence = before or (2**63 - 1, 2**63 - 1)
        rows = db.execute(
            _LETTER + "WHERE number = ? AND NOT redriven AND (time, sequence) < (?, ?) "
            "ORDER BY time DESC, sequence DESC",
            (number, time_ns, sequence),
        )
        return self._take(rows, limit)

    def of(self, db: sqlite3.Connection, number: int, sequences: Sequence[int]) -> list[DeadLetter]:
        """See `GroupStore.dead_letters_of`."""
        marks = ",".join("?" * len(sequences))
        rows = db.execute(
            _LETTER + f"WHERE number = ? AND sequence IN ({marks})", (number, *sequences)
        )
        return self._take(rows, len(sequences))

    def redriven(
        self, db: sqlite3.Connection, number: int, after: int, limit: int
    ) -> list[DeadLetter]:
        """See `GroupStore.redriven`."""
        rows = db.execute(
            _LETTER + "WHERE number = ? AND redriven AND sequence > ? ORDER BY sequence",
            (number, after),
        )
        return self._take(rows, limit)

    def _take(self, rows: Iterator[group_rows.LetterRow], limit: int) -> list[DeadLetter]:
        """The first that are whole: whoever gets fewer than he asked for takes it for the end."""
        found: list[DeadLetter] = []
        while len(found) < limit and (row := next(rows, None)) is not None:
            letter = group_rows.to_letter(row)
            if letter is not None:
                found.append(letter)
            elif row[:2] not in self._told:
                self._told.add(row[:2])
                number, sequence = row[:2]
                _logger.error(
                    "dead letter %d of group number %d cannot be read back", sequence, number
                )
        return found

"""The tables of the log's file."""

import secrets
import sqlite3
from pathlib import Path

from switchboard_server.backends.embedded.store import StoreError

SCHEMA_VERSION = 1
"""Version of the tables, kept in the file's `user_version`."""

_NUMBERS = ("trimmed", "time", "bytes", "counted", "probes")
"""What `meta` holds besides the log's id: the last sequence that was removed, and when it entered
the log; bytes of the log up to a sequence; and what `probe` changes."""

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE batches (
    last INTEGER PRIMARY KEY,   -- sequence of the batch's last event
    first INTEGER NOT NULL,     -- sequence of its first
    time INTEGER NOT NULL,      -- when it entered the log, Unix nanoseconds, never decreasing
    bytes INTEGER NOT NULL,     -- about what the row takes
    priorities INTEGER NOT NULL, -- bit 1 << n: it holds events of priority n
    crc INTEGER NOT NULL,       -- CRC-32 of header, ends, route_of and frames
    header TEXT NOT NULL,       -- JSON: routes, and what only some events have
    ends BLOB NOT NULL,         -- where each event ends in frames, 32 bits little endian
    route_of BLOB,              -- index of each event's route, 16 bits little endian; NULL: all 0
    frames BLOB NOT NULL        -- the encoded events
);
CREATE INDEX batches_low ON batches (last) WHERE priorities & 2;
CREATE INDEX batches_high ON batches (last) WHERE priorities & 8;
CREATE INDEX batches_critical ON batches (last) WHERE priorities & 16;
CREATE TABLE scheduled (
    row INTEGER PRIMARY KEY,
    due INTEGER,                -- when it is to enter the log, Unix nanoseconds; NULL: damaged
    accepted INTEGER NOT NULL,  -- when it was accepted, Unix nanoseconds
    crc INTEGER NOT NULL,       -- CRC-32 of due, accepted, header and body
    header TEXT NOT NULL,       -- JSON: route, id and what else the hub reads of it
    body BLOB NOT NULL          -- the event as its publisher's door encoded it
);
CREATE INDEX scheduled_by_due ON scheduled (due);
"""

GROUP_TABLES = """\
CREATE TABLE groups (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT UNIQUE,           -- NULL: the row is damaged, and another group has its name
    created INTEGER NOT NULL,   -- Unix nanoseconds
    secret INTEGER NOT NULL,    -- from which the names of its deliveries are made
    config_crc INTEGER NOT NULL, -- CRC-32 of name, created, secret and config
    config TEXT NOT NULL,       -- JSON: filter, mode, deadline, retry policy
    idle INTEGER NOT NULL,      -- since when it has no member, Unix nanoseconds; 0: it has one
    crc INTEGER NOT NULL,       -- CRC-32 of snapshot
    snapshot TEXT NOT NULL      -- JSON: where it stood
);
CREATE TABLE group_changes (
    number INTEGER NOT NULL,    -- the group
    n INTEGER NOT NULL,         -- 1 for the first after the snapshot, without a hole
    crc INTEGER NOT NULL,       -- CRC-32 of number and change
    change TEXT NOT NULL,       -- JSON: what has happened since the row before, or the snapshot
    PRIMARY KEY (number, n)
);
CREATE TABLE dead_letters (
    number INTEGER NOT NULL,    -- the group
    sequence INTEGER NOT NULL,  -- of the event
    time INTEGER NOT NULL,      -- when it became a dead letter, Unix nanoseconds
    redriven INTEGER NOT NULL,  -- 1: it has come back to the group, and is not settled
    crc INTEGER NOT NULL,       -- CRC-32 of group, sequence, time, header and frame
    header TEXT NOT NULL,       -- JSON: the event's route, why, and the rest
    frame BLOB NOT NULL,        -- the encoded event
    PRIMARY KEY (number, sequence)
);
CREATE INDEX dead_letters_by_time ON dead_letters (number, time, sequence) WHERE NOT redriven;
CREATE INDEX dead_letters_redriven ON dead_letters (number, sequence) WHERE redriven;
CREATE INDEX dead_letters_by_age ON dead_letters (time) WHERE NOT redriven;
"""


def make_tables(db: sqlite3.Connection, statements: str) -> None:
    """Makes tables, in the caller's transaction."""
    for statement in statements.split(";\n"):
        db.execute(statement)


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Makes the tables in a new file.

    Args:
        db: A connection to it.
        path: Where it is.

    Raises:
        StoreError: The file is of another version.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    if version:
        raise StoreError(
            f"{path} is of version {version}, this hub knows {SCHEMA_VERSION}; "
            "start the hub that wrote it, or choose another SWITCHBOARD_DATA_DIR"
        )
    with db:  # Ends the transaction one way or the other.
        db.execute("BEGIN IMMEDIATE")
        make_tables(db, _SCHEMA + GROUP_TABLES)
        db.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            [("log_id", secrets.token_hex(4)), *((name, 0) for name in _NUMBERS)],
        )
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

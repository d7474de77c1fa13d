"""The groups of a seat as its journal has them, in tables that can be asked.

The tables are those of the embedded log, in a temporary SQLite file of its own: SQLite keeps what
is small in memory, and removes the file when it is closed, however that comes.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import msgspec

from switchboard_server.backends.embedded import files, group_rows, group_tables, schema
from switchboard_server.backends.embedded.store import (
    CreateGroup,
    DeleteGroup,
    ExpireLetters,
    GroupWork,
    SaveChange,
)
from switchboard_server.core.groups.changes import Change, DeadLetter, Snapshot, replay
from switchboard_server.core.groups.ports import StoredGroup

LETTERS_A_RECORD = 64
"""Most dead letters that a record holds when a journal is made anew."""


class Created(msgspec.Struct, array_like=True, tag="created"):
    """A group was made, or is there."""

    number: int
    name: str
    config: str
    secret: int
    snapshot: Snapshot
    time_ns: int


class Deleted(msgspec.Struct, array_like=True, tag="deleted"):
    """A group was removed."""

    number: int


class Changed(msgspec.Struct, array_like=True, tag="changed"):
    """Something happened to a group."""

    number: int
    change: Change


class Expired(msgspec.Struct, array_like=True, tag="expired"):
    """Dead letters from before a time were removed."""

    before_ns: int


class Numbered(msgspec.Struct, array_like=True, tag="numbered"):
    """Numbers up to this one have been used."""

    last: int


Record = Created | Deleted | Changed | Expired | Numbered
"""What a journal says of groups."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def record_of(work: GroupWork) -> bytes:
    """What becomes of a group, as a record."""
    match work:
        case CreateGroup():
            config = group_rows.from_config(work.config)
            return _encode(
                Created(work.number, work.name, config, work.secret, work.snapshot, work.time_ns)
            )
        case DeleteGroup():
            return _encode(Deleted(work.number))
        case SaveChange():
            return _encode(Changed(work.number, work.change))
        case ExpireLetters():
            return _encode(Expired(work.before_ns))


def work_of(data: bytes) -> GroupWork | int:
    """What a record says of a group, or the last number that was used.

    Raises:
        ValueError: It is no record.
    """
    record: Record = _decode(data)
    match record:
        case Created():
            return CreateGroup(
                record.name,
                group_rows.to_config(record.config),
                record.secret,
                record.snapshot,
                record.time_ns,
                record.number,
            )
        case Deleted():
            return DeleteGroup(record.number)
        case Changed():
            return SaveChange(record.number, record.change)
        case Expired():
            return ExpireLetters(record.before_ns)
        case Numbered():
            return record.last


class GroupState:
    """The tables. Used by one thread at a time.

    Attributes:
        last: The highest number that a group has had.
    """

    def __init__(self) -> None:
        self._db = _database()
        self._letters = group_tables.Letters()
        self.last = 0
        with files.transaction(self._db):
            schema.make_tables(self._db, schema.GROUP_TABLES)

    def replay(self, records: Sequence[bytes]) -> None:
        """Takes what a journal says.

        Raises:
            ValueError: It is no record of groups.
        """
        works = []
        for work in map(work_of, records):
            if isinstance(work, int):
                self.last = max(self.last, work)
                continue
            if isinstance(work, CreateGroup):
                self.last = max(self.last, work.number)
            works.append(work)
        self.apply(works)

    def apply(self, works: Sequence[GroupWork]) -> None:
        """Does what becomes of groups, all or none."""
        with files.transaction(self._db):
            group_tables.apply(self._db, works)

    def groups(self, earliest: int) -> Sequence[StoredGroup]:
        """See `group_tables.load`."""
        return group_tables.load(self._db, earliest)

    def dead_letters(
        self, number: int, before: tuple[int, int] | None, limit: int
    ) -> Sequence[DeadLetter]:
        """See `GroupStore.dead_letters`."""
        return self._letters.before(self._db, number, before, limit)

    def dead_letters_of(self, number: int, sequences: Sequence[int]) -> Sequence[DeadLetter]:
        """See `GroupStore.dead_letters_of`."""
        return self._letters.of(self._db, number, sequences)

    def redriven(self, number: int, after: int, limit: int) -> Sequence[DeadLetter]:
        """See `GroupStore.redriven`."""
        return self._letters.redriven(self._db, number, after, limit)

    def live(self) -> Iterator[list[bytes]]:
        """Records that stand for all of it as it is now, some at a time, whatever comes after."""
        copy = _database()
        # Taken at once, though the rest is read later.
        self._db.backup(copy)
        return _records(copy, self.last)

    def close(self) -> None:
        """Lets go of everything."""
        self._db.close()


def _database() -> sqlite3.Connection:
    # Without a name it is a temporary file that nobody else can open.
    db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous=OFF")
    db.execute("PRAGMA cache_size=-16384")
    return db


def _records(db: sqlite3.Connection, last: int) -> Iterator[list[bytes]]:
    with closing(db):
        yield [_encode(Numbered(last))]
        for group in group_tables.load(db, 0):
            record = group.record
            state = replay(group.snapshot, group.changes)
            config = group_rows.from_config(record.config)
            made = [
                _encode(
                    Created(
                        record.number,
                        record.name,
                        config,
                        record.secret,
                        state,
                        record.create_ns,
                    )
                )
            ]
            if group.idle_since_ns:
                change = Change(idle_since_ns=group.idle_since_ns)
                made.append(_encode(Changed(record.number, change)))
            yield made
            rows = db.execute(
                "SELECT * FROM dead_letters WHERE number = ? ORDER BY sequence", (record.number,)
            )
            while part := rows.fetchmany(LETTERS_A_RECORD):
                yield [_encode(Changed(record.number, _letters_change(part)))]


def _letters_change(rows: Sequence[Any]) -> Change:
    letters = [letter for row in rows if (letter := group_rows.to_letter(row)) is not None]
    redriven = [letter.sequence for letter in letters if letter.redriven]
    return Change(buried=letters, redriven=redriven)

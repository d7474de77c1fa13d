"""The registry's instances in a SQLite file, or in memory.

A file of its own beside the log's: an instance is replaced where events are appended, and neither
waits for the other. WAL and `synchronous=FULL`, as there.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from switchboard_server.backends.embedded.files import connect, remedy, transaction
from switchboard_server.backends.embedded.registry_rows import from_row, to_row
from switchboard_server.backends.embedded.worker import Thread
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.registry.model import Key
from switchboard_server.core.registry.ports import (
    RegistryCapabilities,
    StoredInstance,
    StoredRegistry,
)

FILE_NAME = "registry.db"
"""The registry's file within the data folder."""
SCHEMA_VERSION = 1
"""Version of the tables, kept in the file's `user_version`."""
MAX_WAL_BYTES = 4 * 1024 * 1024
"""To what the write-ahead log is cut back after a checkpoint."""

_logger = logging.getLogger(__name__)

_SCHEMA = (
    # One row: the highest revision that was saved, and whether all was when the hub stopped.
    "CREATE TABLE state (revision INTEGER NOT NULL, complete INTEGER NOT NULL)",
    "INSERT INTO state VALUES (0, 1)",
    "CREATE TABLE instances (service TEXT NOT NULL, id TEXT NOT NULL, "
    "crc INTEGER NOT NULL, "  # CRC-32 of all that is in the row
    "content TEXT NOT NULL, "  # JSON
    "PRIMARY KEY (service, id)) WITHOUT ROWID",
)


class SqliteRegistryStore:
    """A `RegistryStore` in one SQLite file.

    Args:
        folder: The data folder; made where it is missing.
    """

    capabilities = RegistryCapabilities("sqlite", survives_restart=True)

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._opened = False

    async def open(self) -> StoredRegistry:
        """See `RegistryStore.open`."""
        self._worker = Thread("switchboard-registry")
        try:
            self._db, stored = await self._worker.call(self._open)
        except UnavailableError:
            await self._worker.close()
            raise
        self._opened = True
        return stored

    def save(
        self, instances: Sequence[StoredInstance], removed: Sequence[Key], revision: int
    ) -> asyncio.Future[None]:
        """See `RegistryStore.save`."""
        return self._worker.call(lambda: self._save(instances, removed, revision))

    async def close(self, *, complete: bool) -> None:
        """See `RegistryStore.close`."""
        if not self._opened:
            return
        self._opened = False
        try:
            if complete:
                await self._worker.call(self._complete)
        except UnavailableError as error:
            # The next start then takes it that the hub died, which is what it would be like.
            _logger.warning("%s", error)
        finally:
            await self._worker.call(self._db.close)
            await self._worker.close()

    def _open(self) -> tuple[sqlite3.Connection, StoredRegistry]:
        with self._explained("opened"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            db = connect(self._path, "rwc")
            try:
                return db, self._begin(db)
            except BaseException:
                db.close()
                raise

    def _begin(self, db: sqlite3.Connection) -> StoredRegistry:
        """Reads what there is; from now on, until `_complete`, it may be more."""
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(f"PRAGMA journal_size_limit={MAX_WAL_BYTES}")
        self._migrate(db)
        revision, complete = db.execute("SELECT revision, complete FROM state").fetchone()
        rows = db.execute("SELECT service, id, crc, content FROM instances").fetchall()
        with transaction(db):
            db.execute("UPDATE state SET complete = 0")
        instances = []
        for row in rows:
            stored = from_row(row)
            if stored is None:
                _logger.error("instance %s/%s of %s cannot be read back", *row[:2], self._path)
            else:
                instances.append(stored)
        return StoredRegistry(instances, revision, bool(complete))

    def _migrate(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            with transaction(db):
                for statement in _SCHEMA:
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise UnavailableError(
                "REGISTRY_UNAVAILABLE",
                f"{self._path} is of version {version}, this hub knows {SCHEMA_VERSION}; "
                "start the hub that wrote it, or choose another SWITCHBOARD_DATA_DIR",
            )

    def _save(
        self, instances: Sequence[StoredInstance], removed: Sequence[Key], revision: int
    ) -> None:
        db = self._db
        with self._explained("written to"), transaction(db):
            db.executemany(
                "INSERT OR REPLACE INTO instances VALUES (?, ?, ?, ?)", map(to_row, instances)
            )
            db.executemany("DELETE FROM instances WHERE service = ? AND id = ?", removed)
            db.execute("UPDATE state SET revision = ?", (revision,))

    def _complete(self) -> None:
        with self._explained("written to"), transaction(self._db):
            self._db.execute("UPDATE state SET complete = 1")

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Says what a failure means, and what helps."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise UnavailableError(
                "REGISTRY_UNAVAILABLE",
                f"the registry {self._path} cannot be {what}: {error}; {remedy(error)}",
            ) from error


class MemoryRegistryStore:
    """A `RegistryStore` that a restart empties: for tests, and for hubs that need no yesterday."""

    capabilities = RegistryCapabilities("memory", survives_restart=False)

    async def open(self) -> StoredRegistry:
        """See `RegistryStore.open`."""
        return StoredRegistry()

    def save(
        self, _instances: Sequence[StoredInstance], _removed: Sequence[Key], _revision: int
    ) -> asyncio.Future[None]:
        """See `RegistryStore.save`: the directory holds everything already."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    async def close(self, *, complete: bool) -> None:
        """See `RegistryStore.close`."""

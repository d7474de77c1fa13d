"""One hub to a data folder."""

import fcntl
import json
import os
from pathlib import Path

from switchboard_server.core.errors import UnavailableError

FILE_NAME = "hub.lock"
"""The lock's file within the data folder."""


class FolderLock:
    """Keeps a second hub out of a data folder for as long as this process lives, however it ends.

    Args:
        folder: The data folder; made where it is missing.
        holder: Facts about this hub, told to who comes second.
    """

    def __init__(self, folder: Path, holder: dict[str, str]) -> None:
        self._path = folder / FILE_NAME
        self._holder = holder
        self._file: int | None = None

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            UnavailableError: Another process has it, or the folder cannot be written to.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UnavailableError(
                "LOG_UNAVAILABLE",
                f"the data folder {self._path.parent} cannot be used: {error.strerror}; "
                "make it writable for this user, or choose another SWITCHBOARD_DATA_DIR",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = self._path.read_text(encoding="utf-8").strip() or "a process that did not say"
            os.close(file)
            raise UnavailableError(
                "LOG_UNAVAILABLE",
                f"the data folder {self._path.parent} is in use by another hub: {holder}; "
                "stop that one, or choose another SWITCHBOARD_DATA_DIR",
            ) from error
        try:
            os.ftruncate(file, 0)
            os.write(file, json.dumps({"pid": os.getpid(), **self._holder}).encode())
        except OSError as error:
            os.close(file)
            raise UnavailableError(
                "LOG_UNAVAILABLE",
                f"the data folder {self._path.parent} cannot be written to: {error.strerror}; "
                "make room on its disk, or choose another SWITCHBOARD_DATA_DIR",
            ) from error
        self._file = file

    def release(self) -> None:
        """Gives the lock back. May be called twice."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

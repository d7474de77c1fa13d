"""Places for a data folder whose disk can be made to fail, as far as this machine lets us."""

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from tests.support.hub import HubProcess


class Disk(Protocol):
    """A disk with a data folder on it."""

    folder: Path

    def fail(self, hub: HubProcess) -> None:
        """From now on nothing more can be written."""

    def heal(self, hub: HubProcess) -> None:
        """From now on it can."""


class FullDisk:
    """A small file system of its own that is filled to the last byte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fail(self, hub: HubProcess) -> None:
        """See `Disk.fail`."""
        file = os.open(self._filler, os.O_WRONLY | os.O_CREAT)
        try:
            for size in (65536, 1):
                with contextlib.suppress(OSError):
                    while os.write(file, b"x" * size):
                        pass
        finally:
            os.close(file)

    def heal(self, hub: HubProcess) -> None:
        """See `Disk.heal`."""
        self._filler.unlink()


class LimitedFiles:
    """A folder in which the hub's files may not be written to beyond their first byte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fail(self, hub: HubProcess) -> None:
        """See `Disk.fail`."""
        self._limit(hub, 1)

    def heal(self, hub: HubProcess) -> None:
        """See `Disk.heal`."""
        self._limit(hub, resource.RLIM_INFINITY)

    @staticmethod
    def _limit(hub: HubProcess, size: int) -> None:
        _, hard = resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE, (size, hard))


class Tmpfs:
    """A tmpfs that can be made read-only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remount(self, options: str) -> None:
        """Mounts it with other options; no file may be open for writing."""
        _run("mount", "-o", f"remount,{options}", str(self.folder))


class FaultyExt4:
    """An ext4 in a file that goes read-only at the first fault, as it does when a disk breaks."""

    def __init__(self, folder: Path, image: Path) -> None:
        self.folder = folder
        self._image = image

    def mount(self) -> None:
        """Makes it usable, as after the repair and a restart of the machine."""
        _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.folder))

    def unmount(self) -> None:
        """Takes it away."""
        _run("umount", str(self.folder))

    def repair(self) -> None:
        """Repairs it while it is not mounted."""
        # 1: there were errors, and they are repaired.
        _run("e2fsck", "-f", "-y", str(self._image), allowed=(0, 1))

    def break_down(self) -> None:
        """Has the kernel find a fault."""
        device = _run("findmnt", "-n", "-o", "SOURCE", str(self.folder)).strip()
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("1", "ascii")


@contextmanager
def mounted_tmpfs(folder: Path, size: str) -> Iterator[None]:
    """A tmpfs for as long as the block lasts; the test is skipped where it cannot be mounted."""
    folder.mkdir()
    _attempt("mount", "-t", "tmpfs", "-o", f"size={size}", "switchboard-test", str(folder))
    try:
        yield
    finally:
        _run("umount", "--lazy", str(folder))


@contextmanager
def faulty_ext4(folder: Path) -> Iterator[FaultyExt4]:
    """An ext4 for as long as the block lasts; the test is skipped where it cannot be had."""
    folder.mkdir()
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(16 * 1024 * 1024)
    _attempt("mkfs.ext4", "-q", str(image))
    disk = FaultyExt4(folder, image)
    _attempt("mount", "-o", "loop,errors=remount-ro", str(image), str(folder))
    try:
        yield disk
    finally:
        _run("umount", "--lazy", str(folder), allowed=(0, 32))  # 32: it is not mounted.


def _run(*command: str, allowed: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode not in allowed:
        raise AssertionError(f"{' '.join(command)}: {done.stdout}")
    return done.stdout


def _attempt(*command: str) -> None:
    """Runs a command that needs rights and programs that not every machine has."""
    try:
        _run(*command)
    except (AssertionError, FileNotFoundError) as error:
        pytest.skip(f"this machine does not let the test have a disk of its own: {error}")

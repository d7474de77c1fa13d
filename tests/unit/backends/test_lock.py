"""One hub to a data folder."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from switchboard_server.backends.embedded.lock import FILE_NAME, FolderLock
from switchboard_server.core.errors import UnavailableError


def test_the_second_is_refused_and_told_who_was_first(tmp_path: Path) -> None:
    first = FolderLock(tmp_path, {"GRPC_PORT": "50051"})
    first.acquire()
    second = FolderLock(tmp_path, {"GRPC_PORT": "50052"})
    with pytest.raises(UnavailableError) as caught:
        second.acquire()
    assert caught.value.reason == "LOG_UNAVAILABLE"
    assert f'"pid": {os.getpid()}' in str(caught.value)
    assert '"GRPC_PORT": "50051"' in str(caught.value)
    second.release()
    with pytest.raises(UnavailableError):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    assert json.loads((tmp_path / FILE_NAME).read_text()) == {
        "pid": os.getpid(),
        "GRPC_PORT": "50052",
    }
    second.release()


def test_the_folder_is_made_where_it_is_missing(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "a" / "b", {})
    lock.acquire()
    assert (tmp_path / "a" / "b" / FILE_NAME).exists()
    lock.release()


def test_what_the_holder_before_said_leaves_nothing_behind(tmp_path: Path) -> None:
    for holder in ({"a": "x" * 500}, {}):
        lock = FolderLock(tmp_path, holder)
        lock.acquire()
        lock.release()
    assert json.loads((tmp_path / FILE_NAME).read_text()) == {"pid": os.getpid()}


def test_a_holder_that_did_not_say_who_it_is_still_holds(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path, {})
    lock.acquire()
    (tmp_path / FILE_NAME).write_text("")
    with pytest.raises(UnavailableError, match="a process that did not say"):
        FolderLock(tmp_path, {}).acquire()
    lock.release()


def test_a_folder_that_cannot_be_used_is_told_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match=r"cannot be used: .*SWITCHBOARD_DATA_DIR"):
        FolderLock(tmp_path / "file", {}).acquire()


def test_a_full_disk_is_told_and_the_lock_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(UnavailableError, match="No space left on device"):
            FolderLock(tmp_path, {}).acquire()
    lock = FolderLock(tmp_path, {})
    lock.acquire()
    lock.release()


def test_the_lock_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from switchboard_server.backends.embedded.lock import FolderLock\n"
        "FolderLock(Path(sys.argv[1]), {}).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, tmp_path], check=False, capture_output=True, timeout=60
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    lock = FolderLock(tmp_path, {})
    lock.acquire()
    lock.release()


def test_the_lock_is_not_inherited_by_other_programs(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path, {})
    lock.acquire()
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        lock.release()
        lock.acquire()
        lock.release()
    finally:
        other.communicate(b"\n", timeout=60)

"""Why a port could not be had, and who has it."""

import errno
from collections.abc import Iterator
from pathlib import Path

_LISTENING = "0A"


class BindError(Exception):
    """A port cannot be listened on; the text says what to do about it."""


def bind_error(setting: str, host: str, port: int, error: OSError) -> BindError:
    """Explains why a port cannot be listened on.

    Args:
        setting: Name of the setting that holds the port.
        host: The address.
        port: The port.
        error: What the system said.
    """
    where = f"cannot listen on {host} port {port}"
    if error.errno == errno.EADDRINUSE:
        holders = list(port_holders(port))
        who = f" by {' and '.join(holders)}" if holders else ""
        return BindError(f"{where}: it is in use{who}. Stop that, or set {setting} to another port")
    if error.errno in (errno.EACCES, errno.EPERM):
        text = f"ports below 1024 need a privilege; set {setting} to a higher one"
        return BindError(f"{where}: {error.strerror}; {text}")
    if error.errno == errno.EADDRNOTAVAIL:
        text = "set HOST to one of its addresses, or to 0.0.0.0 or :: for all"
        return BindError(f"{where}: the machine does not have this address; {text}")
    return BindError(f"{where}: {error.strerror or error}; check HOST and {setting}")


def port_holders(port: int) -> Iterator[str]:
    """Finds who listens on a TCP port of this machine, as far as Linux tells.

    Args:
        port: The port.

    Yields:
        "process 1234 (python -m switchboard_server)" for each process. None where /proc is missing
        or the process belongs to another user.
    """
    inodes = set(_listening_inodes(port))
    if not inodes:
        return
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in Path("/proc").glob("[0-9]*"):
        if not wanted.isdisjoint(_open_files(folder)):
            yield f"process {folder.name}{_command(folder)}"


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        # Columns as in proc_pid_net(5): number, local address, remote address, state, …, inode.
        for columns in map(str.split, lines):
            if int(columns[1].rpartition(":")[2], 16) == port and columns[3] == _LISTENING:
                yield columns[9]


def _open_files(folder: Path) -> Iterator[str]:
    try:
        entries = list((folder / "fd").iterdir())
    except OSError:
        return
    for entry in entries:
        try:
            yield str(entry.readlink())
        except OSError:
            # Closed meanwhile, or the process has ended.
            continue


def _command(folder: Path) -> str:
    try:
        words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    command = " ".join(words).strip()
    shown = "".join(each if each.isprintable() else "?" for each in command[:80])
    return f" ({shown})" if shown else ""

"""Which addresses a port can be had on, and if it cannot, why and who has it."""

import asyncio
import errno
import socket
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


async def free_addresses(setting: str, host: str, port: int) -> list[str]:
    """Finds the addresses of a host that can be listened on.

    gRPC is content with any of a name's addresses, and then clients that try another one first
    reach whoever has the port there. So each is tried here, and given to gRPC by itself.

    Args:
        setting: Name of the setting that holds the port.
        host: An address or a name.
        port: The port; 0: any free one, which is looked for on the first address alone.

    Returns:
        The addresses, without those that the machine does not have, such as ::1 where it knows no
        IPv6.

    Raises:
        BindError: The host has no address here, or the port is taken on one of them.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise bind_error(setting, host, port, error) from error
    free: list[str] = []
    absent: OSError | None = None
    for address in dict.fromkeys(str(each[4][0]) for each in found):
        try:
            _try(address, port)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise bind_error(setting, address, port, error) from error
            absent = error
        else:
            free.append(address)
    if not free and absent is not None:
        raise bind_error(setting, host, port, absent) from absent
    return free if port else free[:1]


def _try(address: str, port: int) -> None:
    """Listens for a moment."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    both = address == "::" and socket.has_dualstack_ipv6()
    socket.create_server((address, port), family=family, dualstack_ipv6=both).close()


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

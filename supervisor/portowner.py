"""Which process listens on a TCP port, as far as /proc tells: for an error message that names the culprit."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"  # TCP_LISTEN in the `st` column of /proc/net/tcp


@dataclass(frozen=True)
class Owner:
    pid: int
    name: str


def port_owner(port: int, proc: Path = Path("/proc")) -> Owner | None:
    """The first process found that holds a listening socket on `port`; None if there is none we may look at."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port, proc)}
    if not sockets:
        return None
    for process in proc.iterdir():
        if not process.name.isdecimal():
            continue
        with suppress(OSError):  # another user's process, or one that just ended
            for fd in (process / "fd").iterdir():
                if os.readlink(fd) in sockets:
                    return Owner(int(process.name), (process / "comm").read_text().strip())
    return None


def _listening_inodes(port: int, proc: Path) -> list[str]:
    inodes = []
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                    inodes.append(columns[9])
    return inodes

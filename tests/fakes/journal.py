"""journald's socket, and what is sent to it.

with journal(folder) as entries:
    ... something logs to entries.path ...
    [entry] = entries.take(1)
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

TIMEOUT = 15.0


def decoded(datagram: bytes) -> dict[str, str]:
    """The fields of an entry; each may be there once only, and nothing beside them."""
    fields: dict[str, str] = {}
    while datagram:
        head, _, rest = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, datagram = rest[8 : 8 + length], rest[8 + length + 1 :]
            assert rest[8 + length : 8 + length + 1] == b"\n"
        else:
            datagram = rest
        assert name.decode() not in fields, name
        assert name.decode().replace("_", "A").isalnum()
        fields[name.decode()] = value.decode()
    return fields


class Entries:
    """What was sent to `path` and not yet taken; a journald that reads only when it is asked to."""

    def __init__(self, path: Path, sock: socket.socket) -> None:
        self.path = path
        self.socket = sock

    def take(self, count: int) -> list[dict[str, str]]:
        """The next `count` entries; waits for them."""
        self.socket.settimeout(TIMEOUT)
        return [decoded(self.socket.recv(1 << 20)) for _ in range(count)]

    def take_all(self) -> list[dict[str, str]]:
        """What is there now."""
        self.socket.setblocking(False)
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(decoded(self.socket.recv(1 << 20)))
        return found


@contextlib.contextmanager
def journal(folder: Path, name: str = "journal") -> Iterator[Entries]:
    """A socket `name` in `folder`, which is gone afterwards."""
    path = folder / name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(os.fspath(path))
        try:
            yield Entries(path, sock)
        finally:
            path.unlink()

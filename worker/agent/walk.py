"""Walking through folders without ever leaving them: by descriptors, and through no link."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, Protocol

MAX_DEPTH = 100
"""Each level holds a descriptor."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
HISTORIES = frozenset({".git", ".hg", ".svn", ".bzr", ".jj", ".sl"})
"""What version control keeps for itself."""


class Found(NamedTuple):
    """A regular file."""

    path: str
    name: str
    folder: int
    """The descriptor of the folder that it lies in, until the walk goes on."""
    status: os.stat_result


class Visitor(Protocol):
    """What is wanted of a walk.  Paths begin with the prefix that the walk was given."""

    def opened(self, prefix: str, folder: int) -> None:
        """A folder is open now; the paths of its entries begin with `prefix`."""

    def enters(self, path: str, name: str) -> bool:
        """Whether to walk through this folder."""

    def wants(self, path: str, name: str) -> bool:
        """Whether to yield this file."""


def walk(root: int, prefix: str, visitor: Visitor, depth: int = 0) -> Iterator[Found]:
    """The files below the folder `root`, which stays open; each folder's entries sorted by name.

    `prefix` is "" or ends with a slash.  What can't be read, or is gone by then, is passed over, as are links, devices
    and the like.
    """
    visitor.opened(prefix, root)
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return
    for name in names:
        path = prefix + name
        with suppress(OSError):
            status = os.stat(name, dir_fd=root, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                if visitor.wants(path, name):
                    yield Found(path, name, root, status)
            elif stat.S_ISDIR(status.st_mode) and depth < MAX_DEPTH and visitor.enters(path, name):
                folder = os.open(name, FOLDER, dir_fd=root)
                try:
                    yield from walk(folder, f"{path}/", visitor, depth + 1)
                finally:
                    os.close(folder)

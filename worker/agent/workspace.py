"""Confinement: every path that a tool names is resolved beneath one folder, at the moment it is opened.

Theory of operation.  A path is walked one name at a time, each opened relative to the folder before it, and no link is
followed (`O_NOFOLLOW`).  A name that turns out to be a link is read, and what it says is put before the rest of the
path: so links that stay inside work, absolute ones too, and one that leads out is refused by the same rule as a path
that does.  `..` starts again from the root with the last resolved name taken off; a folder's own `..` is never
followed, as it may lead elsewhere by now.  Nothing is looked at first and opened later, so there is no moment in which
another process could put a link in between.

`openat2(RESOLVE_BENEATH)` does this in the kernel, but it refuses every absolute link, also one that stays inside, and
containers often forbid the call.  The walk would be needed in any case, and one way is easier to trust than two.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from typing import Final, TypeVar

from worker.agent.entries import FOLDER, enter, explained, link_at, named, open_at, replace_at
from worker.agent.errors import ToolError

MAX_PATH_BYTES: Final = 4096
"""PATH_MAX of Linux, which a walk of single names would not meet by itself."""
MAX_LINKS: Final = 40
"""As the kernel's own: more are a loop."""
MAX_STEPS: Final = 4096
"""Names that are walked for one path: what links and `..` can make of it is bounded, too."""
MAX_FILE_BYTES: Final = 10 * 1024 * 1024
"""Of files that are read or written whole."""

T = TypeVar("T")


class Workspace:
    """A folder that tools may use, by its absolute path.  See the module.

    All methods block: call them in a thread.  They raise `ToolError`, in words for the model.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        """A file descriptor of a regular file, or with `O_DIRECTORY` of a folder; the caller closes it.

        `path` is relative to the root, or absolute and inside it.  All else (devices, FIFOs, sockets) is refused.
        """
        return self._reach(path, lambda folder, name: open_at(folder, name, flags, mode, path))

    @contextmanager
    def reading(self, path: str) -> Iterator[BufferedReader]:
        """A regular file to read from; what fails meanwhile becomes a `ToolError`."""
        descriptor = self.open(path, os.O_RDONLY)
        try:
            with open(descriptor, "rb") as file:
                yield file
        except OSError as error:
            raise explained(error, path) from error

    def read(self, path: str) -> bytes:
        """All of a file, if it isn't larger than `MAX_FILE_BYTES`."""
        with self.reading(path) as file:
            # It may grow while it is read, so its size alone is no bound.
            size = os.fstat(file.fileno()).st_size
            data = file.read(MAX_FILE_BYTES + 1) if size <= MAX_FILE_BYTES else b""
        if max(size, len(data)) > MAX_FILE_BYTES:
            raise ToolError(f"{named(path)} has {size:,} bytes: it is too large, at most {MAX_FILE_BYTES:,} will do.")
        return data

    @contextmanager
    def scandir(self, path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        """The entries of a folder, in no order.

        They can be asked (`stat`, `is_dir`) inside the `with` only, and with `follow_symlinks=False`: a link may lead
        out.
        """
        descriptor = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with os.scandir(descriptor) as entries:
                yield entries
        except OSError as error:
            raise explained(error, path) from error
        finally:
            os.close(descriptor)

    def stat(self, path: str) -> os.stat_result:
        """Of what the path leads to, of whatever kind."""

        def found(folder: int, name: str) -> os.stat_result:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            return status

        return self._reach(path, found)

    def replace(self, path: str, data: bytes) -> bool:
        """Makes `data` the whole content of a file, all at once; True: there was none before.

        Readers see the old content or the new, never a part.  Folders that lack are made; mode and owner of the old
        file are kept; what a link leads to is replaced, not the link.
        """
        if len(data) > MAX_FILE_BYTES:
            raise ToolError(f"{len(data):,} bytes are too much for one file: at most {MAX_FILE_BYTES:,} will do.")

        def put(folder: int, name: str) -> bool:
            if path.endswith("/"):
                raise ToolError(f"{named(path)} is a folder, not a file.")
            old = None
            # Opened for writing though nothing is: a file that may not be written is not replaced either.
            with suppress(FileNotFoundError):
                descriptor = open_at(folder, name, os.O_WRONLY, 0, path)
                try:
                    old = os.fstat(descriptor)
                finally:
                    os.close(descriptor)
            replace_at(folder, name, data, old)
            return old is None

        return self._reach(path, put, make_folders=True)

    def relative(self, path: str) -> str:
        """The path as it is shown, relative to the root ("." for the root itself).  Touches no file."""
        relative = os.path.normpath("/".join(self._check(path)) or ".")
        if relative.split("/")[0] == "..":
            raise self._outside(path)
        return relative

    def _names(self, path: str) -> list[str]:
        """The names of a path beneath the root, `..` among them."""
        names = _split(path)
        if not path.startswith("/"):
            return names
        # By either name of the root: programs that run in it see the one without links.
        for root in (_split(self.root), _split(os.path.realpath(self.root))):
            if names[: len(root)] == root:
                return names[len(root) :]
        raise self._outside(path)

    def _outside(self, path: str) -> ToolError:
        return ToolError(f"{named(path)} leads out of the workspace: only what is inside {self.root} can be used.")

    def _start(self) -> int:
        """The root, opened.  It is the operator's, so links that lead to it are followed."""
        try:
            return os.open(self.root, FOLDER & ~os.O_NOFOLLOW)
        except OSError as error:
            raise ToolError(f"The workspace {self.root} can't be used: {error.strerror}.") from error

    def _reach(self, path: str, act: Callable[[int, str], T], *, make_folders: bool = False) -> T:
        """What `act(folder, name)` returns for the folder and the name that `path` leads to.

        `act` follows no link: it fails with ELOOP or ENOTDIR on one.
        """
        walked: list[str] = []
        ahead = deque(self._check(path))
        links = 0
        folder = self._start()
        try:
            for _ in range(MAX_STEPS):
                name = ahead.popleft() if ahead else "."
                if name == "..":
                    if not walked:
                        raise self._outside(path)
                    walked.pop()
                    ahead.extendleft(reversed(walked))
                    walked.clear()
                    folder = _instead(folder, self._start())
                    continue
                try:
                    if not ahead:
                        return act(folder, name)
                    folder = _instead(folder, enter(folder, name, make_folders))
                    walked.append(name)
                except OSError as error:
                    target = link_at(folder, name) if error.errno in (errno.ELOOP, errno.ENOTDIR) else None
                    if target is None:
                        raise explained(error, path) from error
                    if (links := links + 1) > MAX_LINKS:
                        break
                    ahead.extendleft(reversed(self._led(target, path)))
                    if target.startswith("/"):
                        walked.clear()
                        folder = _instead(folder, self._start())
            raise ToolError(f"{named(path)}: its links go round in a circle, or the way is too long.")
        finally:
            os.close(folder)

    def _check(self, path: str) -> list[str]:
        """The names of a path that a tool was given."""
        if not path:
            raise ToolError("The path is empty.")
        if "\0" in path:
            raise ToolError(f"{named(path)} is no path: it has a NUL byte in it.")
        try:
            size = len(os.fsencode(path))
        except UnicodeEncodeError:
            raise ToolError(f"{named(path)} is no path: it isn't valid Unicode.") from None
        if size > MAX_PATH_BYTES:
            raise ToolError(f"The path is too long: {size:,} bytes, and at most {MAX_PATH_BYTES:,} will do.")
        return self._names(path)

    def _led(self, target: str, path: str) -> list[str]:
        """The names that a link stands for."""
        try:
            return self._names(target)
        except ToolError:
            raise self._outside(path) from None


def _split(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _instead(old: int, new: int) -> int:
    """Closes one descriptor, now that there is another."""
    os.close(old)
    return new

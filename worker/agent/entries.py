"""Single names in a folder that is open: entered, opened, replaced, always that very name and never what a link says.

`folder` is a descriptor, `name` has no slash in it, and `path` is what the model called it.  These raise `OSError`,
with ELOOP or ENOTDIR for a link; and `ToolError` for what is of the wrong kind.
"""

import errno
import os
import secrets
import stat
from contextlib import suppress
from typing import Final

from worker.agent.errors import NotFound, ToolError
from worker.agent.output import shown

FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opens a folder to walk through it, and nothing else: a link fails with ENOTDIR."""
SAFE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Opens the last name: a FIFO doesn't hold up, a terminal isn't taken over."""
KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


def explained(error: OSError, path: str) -> ToolError:
    """The system's error about a path, in words for the model."""
    match error.errno:
        case errno.ENOENT:
            return NotFound(f"{named(path)} does not exist.")
        case errno.ENOTDIR:
            return ToolError(f"{named(path)}: a part of the path is a file, not a folder.")
        case errno.ELOOP:  # a link that was none any more when it was to be read
            return ToolError(f"{named(path)} was changed by somebody else at that moment: try again.")
        case errno.EISDIR:
            return ToolError(f"{named(path)} is a folder, not a file.")
    return ToolError(f"{named(path)}: {error.strerror or error}.")


def named(path: str) -> str:
    """A path inside a sentence: on one line, and not too long."""
    if len(path) > 300:
        path = f"{path[:200]}…{path[-60:]}"
    return shown(path)


def link_at(folder: int, name: str) -> str | None:
    """What a link says; None: it is none, or not any more."""
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return None


def enter(folder: int, name: str, make: bool) -> int:
    """A folder in a folder."""
    try:
        return os.open(name, FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=folder)
    return os.open(name, FOLDER, dir_fd=folder)


def open_at(folder: int, name: str, flags: int, mode: int, path: str) -> int:
    """Opens what stands under `name`, if it is a regular file, or with `O_DIRECTORY` a folder."""
    wanted = stat.S_IFDIR if flags & os.O_DIRECTORY else stat.S_IFREG
    # So that no device is so much as opened, which already does something to a tape or a watchdog.  The decision is the
    # one below, on what was opened.
    with suppress(FileNotFoundError):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            _refuse_other(status, wanted, path)
    descriptor = os.open(name, flags | SAFE, mode, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISLNK(status.st_mode):  # O_PATH opens even that
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        _refuse_other(status, wanted, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_other(status: os.stat_result, wanted: int, path: str) -> None:
    """Raises for all kinds of file but the wanted one."""
    kind = stat.S_IFMT(status.st_mode)
    if kind != wanted:
        wish = "a folder" if wanted == stat.S_IFDIR else "a file"
        raise ToolError(f"{named(path)} is {KINDS.get(kind, 'a file')}, not {wish}.")


def replace_at(folder: int, name: str, data: bytes, old: os.stat_result | None) -> None:
    """Writes a new file beside the old one, then gives it the name."""
    temporary = f".{secrets.token_hex(8)}.tmp"
    # What only its owner may read is never open to others, not even for the time in between.
    mode = 0o666 if old is None else 0o600
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE, mode, dir_fd=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if old is not None:
                _take_after(descriptor, old)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise


def _take_after(descriptor: int, old: os.stat_result) -> None:
    """Gives a file the owner and the permissions of another; without setuid, which any write takes away."""
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        # Only root can; a user's file that somebody else may write becomes that one's.
        with suppress(PermissionError):
            os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, old.st_mode & 0o777)

"""One running instance per state folder: a lock file that the kernel lets go of when its holder dies.

The lock is a POSIX record lock (fcntl), not flock(2), for three reasons: the kernel names its holder, so a pid is
never stale and no signal ever hits a stranger that got a dead supervisor's number; looking does not take it, so a
`status` can't make a start fail; and a forked child never inherits it.  The price is that the holder must not open
and close the file a second time.

It covers the file's bytes, of which there is one that stands for the holder and a rest.  A hand-over passes them on
one after the other, so that nobody else finds the file free in between:

    elder   holds all ── share ──▶ the first ──────────── release ──▶ nothing
    heir                join ──▶ nothing ── take_share ──▶ the rest ── complete ──▶ all
"""

import fcntl
import os
import struct
from pathlib import Path
from types import TracebackType

from shared.errors import ControlError, StartError

# struct flock as CPython's fcntl sees it (64-bit offsets): type, whence, start, length, pid, padded.
_FLOCK = struct.Struct("hhqqi0q")
_REST = (0, 1)
"""Length, to the end however far that is, and start."""


class InstanceLock:
    """The lock, held from `acquire` until `release` or the process's end; a context manager that releases it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._whole = False

    @classmethod
    def acquire(cls, path: Path) -> "InstanceLock":
        """Take the lock and write our pid into the file, for people.  `StartError` if another process holds it."""
        lock = cls.join(path)
        try:
            lock.complete()
        except OSError as error:
            lock.release()
            if not isinstance(error, BlockingIOError | PermissionError):
                raise StartError(f"the lock file {path} can't be locked: {error.strerror}") from error
            holder = running_pid(path)
            raise StartError(
                f"already running as pid {holder}; stop it with `kimi-proxy stop`, "
                "or set STATE_DIRECTORY and RUNTIME_DIRECTORY for a second instance"
            ) from error
        return lock

    @classmethod
    def join(cls, path: Path) -> "InstanceLock":
        """Open the file, without locking it: somebody is about to share the lock with us.  `StartError` if it can't."""
        try:
            return cls(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StartError(f"the lock file {path} can't be opened: {error.strerror}") from error

    def share(self) -> None:
        """Let an heir have the rest of it."""
        self._whole = False
        fcntl.lockf(self._fd, fcntl.LOCK_UN, *_REST)

    def take_share(self) -> None:
        """Take the rest of it; `OSError` if it is not to be had."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, *_REST)

    def complete(self) -> None:
        """Take all of it and write our pid into the file; `OSError` if another process holds any of it."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._whole = True
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let go; the empty file stays, as unlinking it would race with the next holder.  May be called twice."""
        if self._fd >= 0:
            if self._whole:
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "InstanceLock":
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: object, _traceback: TracebackType | None) -> None:
        self.release()


def running_pid(path: Path) -> int | None:
    """The pid of the process that holds the lock at `path`, or None.

    Must not be called by the holder itself: closing the file would let go of the lock.  `ControlError` if the file
    can't be read, or if the holder lives in a container whose pids mean nothing here.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ControlError(f"the lock file {path} can't be opened: {error.strerror}") from error
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _whence, _start, _length, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    if kind == fcntl.F_UNLCK:
        return None
    if pid <= 0:
        raise ControlError(f"the process that holds {path} runs in another container; stop it from there")
    return int(pid)

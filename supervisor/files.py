"""Files that are there whole, or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacement(target: Path, mode: int = 0o666) -> Iterator[Path]:
    """A new, empty file beside `target`, which takes its name when the block is left without an exception.

    Else it is removed, and `target` is what it was.  `mode` is subject to the umask.  What was written is on disk
    before the name changes, so that a crash of the machine can't leave half of it.  An `OSError`, the block's own
    included, names `target`.
    """
    new = target.with_name(f".kimi-proxy-{secrets.token_hex(8)}.new")
    try:
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
        yield new
        _sync(new)
        os.replace(new, target)
    except BaseException as error:
        with suppress(OSError):
            new.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), str(target)) from error
        raise
    with suppress(OSError):  # not every file system can
        _sync(target.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
